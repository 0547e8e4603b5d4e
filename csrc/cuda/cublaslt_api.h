// SPDX-License-Identifier: Apache-2.0
// The part of cuBLASLt's C interface that we call, declared by ourselves: its header comes with a
// 400 MB package that no build should need. Values are those of versions 11 to 13.
#pragma once
#include <cstddef>
#include <cstdint>

namespace seqloom::cuda::lt {

using Handle = void*;
using MatmulDesc = void*;
using Layout = void*;
using Preference = void*;
using Status = int;  // 0: success

struct Algorithm {
  std::uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

enum DataType : int { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14 };
enum Compute : int { kCompute32F = 68, kCompute32FFastTf32 = 77 };
enum Operation : std::int32_t { kNone = 0, kTranspose = 1 };
enum MatmulAttribute : int {
  kTransA = 3,
  kTransB = 4,
  kEpilogue = 7,
  kBiasPointer = 8,
  kBiasDataType = 26
};
enum Epilogue : std::uint32_t { kEpilogueDefault = 1, kEpilogueBias = 4 };
enum LayoutAttribute : int { kBatchCount = 5, kBatchStride = 6 };
enum PreferenceAttribute : int {
  kMaxWorkspace = 1,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8
};

struct Functions {
  Status (*Create)(Handle*);
  Status (*MatmulDescCreate)(MatmulDesc*, int compute, int scale_type);
  Status (*MatmulDescDestroy)(MatmulDesc);
  Status (*MatmulDescSetAttribute)(MatmulDesc, int, const void*, std::size_t);
  Status (*MatrixLayoutCreate)(Layout*, int type, std::uint64_t rows, std::uint64_t columns,
                               std::int64_t leading);
  Status (*MatrixLayoutDestroy)(Layout);
  Status (*MatrixLayoutSetAttribute)(Layout, int, const void*, std::size_t);
  Status (*MatmulPreferenceCreate)(Preference*);
  Status (*MatmulPreferenceDestroy)(Preference);
  Status (*MatmulPreferenceSetAttribute)(Preference, int, const void*, std::size_t);
  Status (*MatmulAlgoGetHeuristic)(Handle, MatmulDesc, Layout a, Layout b, Layout c, Layout d,
                                   Preference, int requested, Heuristic*, int* found);
  Status (*Matmul)(Handle, MatmulDesc, const void* alpha, const void* a, Layout, const void* b,
                   Layout, const void* beta, const void* c, Layout, void* d, Layout,
                   const Algorithm*, void* workspace, std::size_t workspace_bytes, StreamHandle);
};

}  // namespace seqloom::cuda::lt
