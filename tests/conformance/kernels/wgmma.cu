// SPDX-License-Identifier: Apache-2.0
// Conformance of wgmma: every width, both element types, both operand sources, and the canonical
// layouts of both directions with every swizzle.
//
// The kernel fills its shared operands word by word in the order of the layout's own definition
// (the descriptor's fields applied by hand), so that a wrong idea of a layout shows on the GPU.
#include "../registry.h"

namespace seqloom_test {
namespace {

constexpr uint32_t kAreaA = 8192;  // bytes of A's area; B follows

template <class T, int N, bool Registers, int TransA, int TransB>
__global__ void __launch_bounds__(128)
    wgmma_kernel(const uint32_t* in, uint32_t* out, uint32_t lead_a, uint32_t stride_a,
                 uint32_t lead_b, uint32_t stride_b, ptx::Swizzle swizzle, int words_b) {
  DYNAMIC_SHARED(raw, 1024);
  auto* words = reinterpret_cast<uint32_t*>(raw);
  for (int i = thread(); i < static_cast<int>(kAreaA) / 4; i += 128) words[i] = in[i];
  for (int i = thread(); i < words_b; i += 128) words[kAreaA / 4 + i] = in[kAreaA / 4 + i];
  ptx::fence_proxy_async();
  __syncthreads();
  const uint32_t base = ptx::shared_address(raw);
  float d[N / 2];
  for (int i = 0; i < N / 2; ++i) d[i] = static_cast<float>(i);
  uint32_t a[4];
  for (int i = 0; i < 4; ++i) a[i] = Registers ? in[thread() * 4 + i] : 0;
  const uint64_t b = ptx::wgmma_descriptor(base + kAreaA, lead_b, stride_b, swizzle);
  ptx::wgmma_keep(d);
  ptx::wgmma_fence();
  if constexpr (Registers) {
    ptx::wgmma_rs<T, N, TransB>(d, a, b, 1);
  } else {
    ptx::wgmma_ss<T, N, TransA, TransB>(d, ptx::wgmma_descriptor(base, lead_a, stride_a, swizzle),
                                        b, 1);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::wgmma_keep(d);
  for (int i = 0; i < N / 2; ++i) out[i * 128 + thread()] = as_bits(d[i]);
}

template <class T, int N, bool Registers, int TransA, int TransB>
void run_wgmma(const uint32_t* in, uint32_t* out, ptx::Swizzle swizzle) {
  // Bytes of a row of the pattern, and of 8 such rows.
  const uint32_t row = swizzle == ptx::Swizzle::k128  ? 128
                       : swizzle == ptx::Swizzle::k64 ? 64
                       : swizzle == ptx::Swizzle::k32 ? 32
                                                      : 16;
  const uint32_t atom = 8 * row;
  // Without swizzle 8 x 16-byte blocks lie one after another along M or N, then along K.
  const auto lead = [&](int trans, uint32_t extent) {
    if (swizzle == ptx::Swizzle::kNone) return extent / 8 * atom;
    return trans ? 2 * atom : 16u;
  };
  const auto stride = [&](int trans) { return trans && row != 16 ? atom : atom; };
  LaunchConfig c;
  c.block = dim3(128);
  c.shared_bytes = kAreaA + 256 * 128;
  launch(wgmma_kernel<T, N, Registers, TransA, TransB>, c, in, out, lead(TransA, 64),
         stride(TransA), lead(TransB, N), stride(TransB), swizzle, 256 * 128 / 4);
}

#define WGMMA(name, type, inputs, n, registers, trans_a, trans_b, swizzle)                \
  const AddConformance add_##name(                                                        \
      {#name, inputs, "mma", 10240, 64 * n, 91, [](const uint32_t* in, uint32_t* out) {   \
         run_wgmma<type, n, registers, trans_a, trans_b>(in, out, ptx::Swizzle::swizzle); \
       }});
WGMMA(wgmma_n8, BFloat16, "bfloat16", 8, false, 0, 0, k128)
WGMMA(wgmma_n16, BFloat16, "bfloat16", 16, false, 0, 0, k128)
WGMMA(wgmma_n32, BFloat16, "bfloat16", 32, false, 0, 0, k128)
WGMMA(wgmma_n64, BFloat16, "bfloat16", 64, false, 0, 0, k128)
WGMMA(wgmma_n80, BFloat16, "bfloat16", 80, false, 0, 0, k128)
WGMMA(wgmma_n96, BFloat16, "bfloat16", 96, false, 0, 0, k128)
WGMMA(wgmma_n128, BFloat16, "bfloat16", 128, false, 0, 0, k128)
WGMMA(wgmma_n160, BFloat16, "bfloat16", 160, false, 0, 0, k128)
WGMMA(wgmma_n176, BFloat16, "bfloat16", 176, false, 0, 0, k128)
WGMMA(wgmma_n192, BFloat16, "bfloat16", 192, false, 0, 0, k128)
WGMMA(wgmma_n256, BFloat16, "bfloat16", 256, false, 0, 0, k128)
WGMMA(wgmma_half, Half, "half", 64, false, 0, 0, k128)
WGMMA(wgmma_swizzle64, BFloat16, "bfloat16", 64, false, 0, 0, k64)
WGMMA(wgmma_swizzle32, BFloat16, "bfloat16", 64, false, 0, 0, k32)
WGMMA(wgmma_linear, BFloat16, "bfloat16", 64, false, 0, 0, kNone)
WGMMA(wgmma_b_transposed, BFloat16, "bfloat16", 128, false, 0, 1, k128)
WGMMA(wgmma_both_transposed, BFloat16, "bfloat16", 64, false, 1, 1, k128)
WGMMA(wgmma_transposed64, BFloat16, "bfloat16", 64, false, 1, 1, k64)
WGMMA(wgmma_transposed32, BFloat16, "bfloat16", 64, false, 1, 1, k32)
WGMMA(wgmma_transposed_linear, BFloat16, "bfloat16", 64, false, 1, 1, kNone)
WGMMA(wgmma_registers_n8, BFloat16, "bfloat16", 8, true, 0, 0, k128)
WGMMA(wgmma_registers_n16, BFloat16, "bfloat16", 16, true, 0, 0, k128)
WGMMA(wgmma_registers_n32, BFloat16, "bfloat16", 32, true, 0, 0, k128)
WGMMA(wgmma_registers_n64, BFloat16, "bfloat16", 64, true, 0, 0, k128)
WGMMA(wgmma_registers_n80, BFloat16, "bfloat16", 80, true, 0, 0, k128)
WGMMA(wgmma_registers_n96, BFloat16, "bfloat16", 96, true, 0, 0, k128)
WGMMA(wgmma_registers_n128, BFloat16, "bfloat16", 128, true, 0, 0, k128)
WGMMA(wgmma_registers_n160, BFloat16, "bfloat16", 160, true, 0, 0, k128)
WGMMA(wgmma_registers_n176, BFloat16, "bfloat16", 176, true, 0, 0, k128)
WGMMA(wgmma_registers_n192, BFloat16, "bfloat16", 192, true, 0, 0, k128)
WGMMA(wgmma_registers_n256, BFloat16, "bfloat16", 256, true, 0, 0, k128)
WGMMA(wgmma_registers_transposed, BFloat16, "bfloat16", 128, true, 0, 1, k128)
WGMMA(wgmma_registers_half, Half, "half", 64, true, 0, 0, k128)
WGMMA(wgmma_registers_half_transposed, Half, "half", 256, true, 0, 1, k128)
WGMMA(wgmma_edges, BFloat16, "bfloat16 edges", 64, false, 0, 0, k128)
WGMMA(wgmma_half_edges, Half, "half edges", 64, false, 0, 0, k128)
WGMMA(wgmma_registers_edges, BFloat16, "bfloat16 edges", 64, true, 0, 0, k128)

// ---- wgmma_keep changes nothing, and setmaxnreg only how many registers a warpgroup has
// -----------------
CONFORMANCE(wgmma_keep, "small", "exact", 128, 128, 91, 128, 0, float d[4];
            for (int i = 0; i < 4; ++i) d[i] = as_float(in[(thread() + 32 * i) & 127]);
            ptx::wgmma_keep(d); out[thread()] = as_bits(d[0] + 2.f * d[1] - d[2] * d[3]);)

__global__ void __launch_bounds__(384, 1) k_setmaxnreg(const uint32_t* in, uint32_t* out) {
  SHARED_ARRAY(uint32_t, tile, [128]);
  if (thread() < 128) {
    ptx::decrease_registers<40>();
    tile[thread()] = in[thread()];
    ptx::named_barrier_sync(1, 384);
    out[thread()] = tile[thread() ^ 65];
  } else {
    ptx::increase_registers<232>();
    ptx::named_barrier_sync(1, 384);
    out[thread()] = tile[(thread() + 7) & 127];
  }
}
const AddConformance add_setmaxnreg({"setmaxnreg", "bits", "exact", 128, 384, 91,
                                     [](const uint32_t* in, uint32_t* out) {
                                       run_block(k_setmaxnreg, in, out, 384);
                                     }});

}  // namespace
}  // namespace seqloom_test
