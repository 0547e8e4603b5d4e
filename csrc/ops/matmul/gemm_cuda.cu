// SPDX-License-Identifier: Apache-2.0
// Matrix products of float16 and bfloat16 on tensor cores (mma.sync m16n8k16, sm_80 and later).
//
// A block of 128 or 256 threads computes a kM x kN tile of C. Panels of A and B, kK = 32 long in k,
// stream through three shared stages by cp.async while the previous panel is multiplied;
// zero-filled copies take care of every edge. Each warp owns a kWarpM x kWarpN part of the tile in
// registers.
//
// Panels keep the direction in which their matrix lies in memory, so that 16-byte copies always run
// along it, and ldmatrix transposes where the multiplication wants the other one:
//   A [m, k]: panel [kM][kK]     A [k, m]: panel [kK][kM], loaded with .trans
//   B [n, k]: panel [kN][kK]     B [k, n]: panel [kK][kN], loaded with .trans
// Rows are padded by 16 bytes, so the eight rows of one ldmatrix lie in different banks.
#include "cuda/ptx.h"
#include "ops/matmul/epilogue_cuda.h"
#include "ops/matmul/gemm_cuda.h"

namespace seqloom::ops {
namespace {

namespace ptx = cuda::ptx;

constexpr int kK = 32;
constexpr int kStages = 3;
constexpr int kPad = 8;  // elements

// A panel in shared memory: `rows` lines of `length` elements.
template <int kRows, int kLength>
struct Panel {
  static constexpr int kLine = kLength + kPad;
  static constexpr int kElements = kRows * kLine;
};

// Copies a panel whose lines start at `base` + line * ld; lines from `lines` on and elements from
// `length` on are zeros. `aligned`: every line starts on a 16-byte boundary.
template <class T, int kRows, int kLength, int kThreads>
SEQLOOM_DEVICE void load_panel(T* panel, const T* base, int64_t ld, int64_t lines, int64_t length,
                               bool aligned) {
  constexpr int kChunks = kRows * kLength / 8;
  static_assert(kChunks % kThreads == 0, "every thread copies the same number of chunks");
#pragma unroll
  for (int c = 0; c < kChunks / kThreads; ++c) {
    const int chunk = static_cast<int>(threadIdx.x) + c * kThreads;
    const int line = chunk / (kLength / 8), at = chunk % (kLength / 8) * 8;
    T* to = panel + line * Panel<kRows, kLength>::kLine + at;
    int64_t live = line < lines ? length - at : 0;
    live = live < 0 ? 0 : live > 8 ? 8 : live;
    const T* from = base + (live > 0 ? line * ld + at : 0);
    if (aligned) {
      ptx::cp_async_16(ptx::shared_address(to), from, static_cast<int>(live) * 2);
    } else {
      alignas(16) T values[8];
      memset(static_cast<void*>(values), 0, sizeof(values));
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < live) values[i] = from[i];
      uint4 raw;
      memcpy(&raw, static_cast<const void*>(values), 16);
      *reinterpret_cast<uint4*>(to) = raw;
    }
  }
}

template <class T, int kM, int kN, int kWarpM, int kWarpN, bool kTransA, bool kTransB>
__global__ void __launch_bounds__(kM / kWarpM * (kN / kWarpN) * 32)
    gemm_kernel(ProductArgs p, bool a_aligned, bool b_aligned) {
  constexpr int kThreads = kM / kWarpM * (kN / kWarpN) * 32;
  constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  using PanelA = std::conditional_t<kTransA, Panel<kK, kM>, Panel<kM, kK>>;
  using PanelB = std::conditional_t<kTransB, Panel<kN, kK>, Panel<kK, kN>>;
  DYNAMIC_SHARED(shared, 16);
  T* const panels_a = reinterpret_cast<T*>(shared);
  T* const panels_b = panels_a + kStages * PanelA::kElements;

  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int warp_m = warp % (kM / kWarpM) * kWarpM, warp_n = warp / (kM / kWarpM) * kWarpN;
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kM;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int64_t panels = (p.k + kK - 1) / kK;

  for (int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    const T* a = static_cast<const T*>(p.a) + batch * p.a_batch;
    const T* b = static_cast<const T*>(p.b) + batch * p.b_batch;
    const auto load = [&](int64_t panel) {
      const int64_t k0 = panel * kK;
      T* to_a = panels_a + panel % kStages * PanelA::kElements;
      T* to_b = panels_b + panel % kStages * PanelB::kElements;
      if constexpr (kTransA)
        load_panel<T, kK, kM, kThreads>(to_a, a + k0 * p.lda + m0, p.lda, p.k - k0, p.m - m0,
                                        a_aligned);
      else
        load_panel<T, kM, kK, kThreads>(to_a, a + m0 * p.lda + k0, p.lda, p.m - m0, p.k - k0,
                                        a_aligned);
      if constexpr (kTransB)
        load_panel<T, kN, kK, kThreads>(to_b, b + n0 * p.ldb + k0, p.ldb, p.n - n0, p.k - k0,
                                        b_aligned);
      else
        load_panel<T, kK, kN, kThreads>(to_b, b + k0 * p.ldb + n0, p.ldb, p.k - k0, p.n - n0,
                                        b_aligned);
    };

    float sums[kTilesM][kTilesN][4];
#pragma unroll
    for (int i = 0; i < kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < kTilesN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.f;

    // Always one commit a step, so that the count of pending groups is the same at every step.
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < panels) load(s);
      ptx::cp_async_commit();
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      ptx::cp_async_wait<kStages - 2>();
      __syncthreads();  // the panel has arrived for all, and all have left the stage to be filled
      if (panel + kStages - 1 < panels) load(panel + kStages - 1);
      ptx::cp_async_commit();
      const T* from_a = panels_a + panel % kStages * PanelA::kElements;
      const T* from_b = panels_b + panel % kStages * PanelB::kElements;
#pragma unroll
      for (int k = 0; k < kK; k += 16) {
        uint32_t frag_a[kTilesM][4], frag_b[kTilesN][2];
        const int row = lane & 7, part = lane >> 3;  // of the 8x8 matrix whose row a lane names
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          const int m = warp_m + i * 16;
          // Matrices in the order (m, k), (m + 8, k), (m, k + 8), (m + 8, k + 8).
          if constexpr (kTransA)
            ptx::ldmatrix_x4_trans(
                frag_a[i],
                ptx::shared_address(from_a + (k + row + (part >> 1) * 8) * PanelA::kLine + m +
                                    (part & 1) * 8));
          else
            ptx::ldmatrix_x4(
                frag_a[i], ptx::shared_address(from_a + (m + row + (part & 1) * 8) * PanelA::kLine +
                                               k + (part >> 1) * 8));
        }
#pragma unroll
        for (int j = 0; j < kTilesN; j += 2) {
          const int n = warp_n + j * 8;
          uint32_t pair[4];  // (k, n), (k + 8, n), (k, n + 8), (k + 8, n + 8)
          if constexpr (kTransB)
            ptx::ldmatrix_x4(
                pair, ptx::shared_address(from_b + (n + row + (part >> 1) * 8) * PanelB::kLine + k +
                                          (part & 1) * 8));
          else
            ptx::ldmatrix_x4_trans(
                pair, ptx::shared_address(from_b + (k + row + (part & 1) * 8) * PanelB::kLine + n +
                                          (part >> 1) * 8));
          frag_b[j][0] = pair[0];
          frag_b[j][1] = pair[1];
          frag_b[j + 1][0] = pair[2];
          frag_b[j + 1][1] = pair[3];
        }
#pragma unroll
        for (int i = 0; i < kTilesM; ++i)
#pragma unroll
          for (int j = 0; j < kTilesN; ++j)
            ptx::mma_m16n8k16<T>(sums[i][j], frag_a[i], frag_b[j], sums[i][j]);
      }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();  // the next batch entry reuses the stages

#pragma unroll
    for (int i = 0; i < kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < kTilesN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t row = m0 + warp_m + i * 16 + (lane >> 2) + (e >> 1) * 8;
          const int64_t column = n0 + warp_n + j * 8 + (lane & 3) * 2 + (e & 1);
          if (row < p.m && column < p.n) finish<T>(p, batch, row, column, sums[i][j][e]);
        }
  }
}

bool lines_aligned(const void* base, int64_t ld, int64_t batch_stride) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && ld % 8 == 0 && batch_stride % 8 == 0;
}

template <class T, int kM, int kN, int kWarpM, int kWarpN, bool kTransA, bool kTransB>
void launch_gemm(const ProductArgs& p) {
  using PanelA = std::conditional_t<kTransA, Panel<kK, kM>, Panel<kM, kK>>;
  using PanelB = std::conditional_t<kTransB, Panel<kN, kK>, Panel<kK, kN>>;
  cuda::LaunchConfig config;
  config.grid =
      dim3(static_cast<unsigned>((p.m + kM - 1) / kM), static_cast<unsigned>((p.n + kN - 1) / kN),
           static_cast<unsigned>(p.batch < 65535 ? p.batch : 65535));
  config.block = dim3(kM / kWarpM * (kN / kWarpN) * 32);
  config.shared_bytes = kStages * (PanelA::kElements + PanelB::kElements) * sizeof(T);
  cuda::launch(gemm_kernel<T, kM, kN, kWarpM, kWarpN, kTransA, kTransB>, config, p,
               lines_aligned(p.a, p.lda, p.a_batch), lines_aligned(p.b, p.ldb, p.b_batch));
}

template <class T, bool kTransA, bool kTransB>
void choose_tile(const ProductArgs& p) {
  const int64_t large = (p.m + 127) / 128 * ((p.n + 127) / 128) * p.batch;
  if (p.m > 64 && p.n > 64 && large >= cuda::current_device_properties().multiprocessors)
    launch_gemm<T, 128, 128, 64, 32, kTransA, kTransB>(p);
  else
    launch_gemm<T, 64, 64, 32, 32, kTransA, kTransB>(p);
}

template <class T>
void choose_layout(const ProductArgs& p) {
  if (p.trans_a) return p.trans_b ? choose_tile<T, true, true>(p) : choose_tile<T, true, false>(p);
  p.trans_b ? choose_tile<T, false, true>(p) : choose_tile<T, false, false>(p);
}

}  // namespace

bool tensor_core_product(const ProductArgs& p) {
  if (cuda::current_device_properties().capability() < 80 || (p.n + 63) / 64 > 65535) return false;
  if (p.dtype == DType::kBFloat16)
    choose_layout<cuda::BFloat16>(p);
  else if (p.dtype == DType::kFloat16)
    choose_layout<cuda::Half>(p);
  else
    return false;
  return true;
}

}  // namespace seqloom::ops
