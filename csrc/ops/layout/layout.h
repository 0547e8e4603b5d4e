// SPDX-License-Identifier: Apache-2.0
// Contract of the layout kernels: selecting by index, joining, triangles, sorting.
//
// Selecting: the axes of x that an index runs over lie next to each other. x is seen as
//   [outer..., indexed..., inner...]
// and the index as n ids, each a row-major position in the indexed axes (V positions in all):
//   take         out[o, j, i] = x[o, ids[j], i]
//   put          x[o, ids[j], i] = value[o, j, i], the last j winning where ids repeat
//   scatter_add  out[o, v, i] = sum over j with ids[j] = v, in the order of j, of grad[o, j, i]
// scatter_add is the gradient of take, and with outer = 1 that of an embedding: the ids are sorted,
// each row of `out` belongs to one task, so the bits depend on nothing but the arguments.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

inline constexpr int kLayoutRank = 8;

// Some axes of a strided array.
struct Extents {
  int32_t rank;
  int64_t count;  // product of shape
  int64_t shape[kLayoutRank];
  int64_t strides[kLayoutRank];  // in elements
};

// ids[j] = row-major position of (index_0[j], index_1[j], ...) in `extents`, j over `shape`.
// A negative index counts from the end where `wrap` is set. An index out of range gives the id -1
// and sets *bad to 1 (CPU) or reports through the device's error flag (CUDA).
struct IndexIdsArgs {
  const void* index[kLayoutRank];  // int64, or int32 where narrow[k]
  bool narrow[kLayoutRank];
  int64_t index_strides[kLayoutRank][kLayoutRank];  // [k][axis of shape]
  int64_t extents[kLayoutRank];
  int32_t indices;  // how many
  int32_t rank;
  int64_t shape[kLayoutRank];
  int64_t count;
  bool wrap;
  int64_t* ids;  // [count]
  int32_t* bad;  // one flag, 0 before the call; may be null on CUDA
};

struct TakeArgs {
  const void* x;
  void* out;           // [outer.count, n, inner.count], contiguous
  const int64_t* ids;  // [n]; -1 gives zeros
  int64_t n;
  int32_t item_size;
  Extents outer, indexed, inner;  // of x
};

struct PutArgs {
  void* x;
  const void* value;   // [outer.count, n, inner.count] contiguous, or one element
  const int64_t* ids;  // [n]; -1 is skipped
  void* workspace;     // CUDA: scatter_add_workspace(n) bytes where ids may repeat
  int64_t n;
  int32_t item_size;
  bool scalar;                    // value is one element
  bool unique;                    // no id occurs twice
  Extents outer, indexed, inner;  // of x
};

struct ScatterAddArgs {
  const void* grad;    // [outer, n, inner]
  void* out;           // [outer, rows, inner], written whole
  const int64_t* ids;  // [n]; -1 is skipped
  void* workspace;     // CUDA: scatter_add_workspace(n) bytes
  int64_t outer, n, rows, inner;
  int64_t skip;  // this id adds nothing (padding); -1: none
  DType dtype;
};

// Bytes that the CUDA kernels need to sort n ids.
int64_t scatter_add_workspace(int64_t n);

// out[c] = x[c with coordinate `axis` replaced by index[c]], c over the shape of index.
// gather_add: out[c with ...] += x[c] in the order of c along `axis`, from zeros. 16-bit types only
// with `unique`; their other sums are float32's in the front door.
struct GatherArgs {
  const void* x;
  const int64_t* index;  // contiguous
  void* out;
  int32_t rank, axis;
  int64_t shape[kLayoutRank];    // of index
  int64_t strides[kLayoutRank];  // of x (gather), of out (gather_add)
  int64_t extent;                // of the array that the index points into, along `axis`
  int64_t count;                 // positions of index
  int64_t out_count;             // gather_add: elements of out, which it clears first
  bool unique;                   // gather_add: no line of index names a position twice
  DType dtype;
  int32_t* bad;
};

// out[b, r, c] = x[b, r, c] where c - r <= diagonal (lower) or >= diagonal (upper), else 0.
struct TriangleArgs {
  const void* x;  // [batch, rows, columns]
  void* out;
  int64_t batch, rows, columns, diagonal;
  bool upper;
  int32_t item_size;
};

// The first k of each row in order; equal elements keep theirs, NaN counts as the largest.
struct SortArgs {
  const void* x;     // [rows, n]
  void* values;      // [rows, k]
  int64_t* indices;  // [rows, k]
  int64_t rows, n, k;
  bool descending;
  DType dtype;
  void* workspace;  // CUDA: sort_workspace(args) bytes
};
int64_t sort_workspace(const SortArgs& args);

// indices[a][j] = coordinate a of the j-th true element. With indices null the true elements of
// each block of kNonzeroBlock are counted instead.
inline constexpr int64_t kNonzeroBlock = 1 << 15;
struct NonzeroArgs {
  const uint8_t* mask;  // contiguous
  int32_t rank;
  int64_t shape[kLayoutRank];
  int64_t total;
  int64_t* counts;   // [blocks]: written first, then where the block's elements begin
  int64_t* indices;  // [rank, count]
  int64_t count;
};

void index_ids_cuda(const IndexIdsArgs& args);
void take_cuda(const TakeArgs& args);
void put_cuda(const PutArgs& args);
void scatter_add_cuda(const ScatterAddArgs& args);
void gather_cuda(const GatherArgs& args);
void gather_add_cuda(const GatherArgs& args);
void triangle_cuda(const TriangleArgs& args);
void sort_rows_cuda(const SortArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(index_ids, ops::IndexIdsArgs)
SEQLOOM_DECLARE_CPU(take, ops::TakeArgs)
SEQLOOM_DECLARE_CPU(put, ops::PutArgs)
SEQLOOM_DECLARE_CPU(scatter_add, ops::ScatterAddArgs)
SEQLOOM_DECLARE_CPU(gather, ops::GatherArgs)
SEQLOOM_DECLARE_CPU(gather_add, ops::GatherArgs)
SEQLOOM_DECLARE_CPU(triangle, ops::TriangleArgs)
SEQLOOM_DECLARE_CPU(sort_rows, ops::SortArgs)
SEQLOOM_DECLARE_CPU(nonzero, ops::NonzeroArgs)
}  // namespace seqloom
