// SPDX-License-Identifier: Apache-2.0
// A warp-specialised ring: warp 0 loads chunks with bulk copies, warps 1 to 3 double them and hand
// them to a bulk store; full and empty mbarriers in between.
#include "../support.h"

namespace seqloom_test {
namespace {

constexpr int kStages = 3, kChunk = 384;  // floats

__global__ void __launch_bounds__(128)
    ring_kernel(const float* in, float* out, int chunks, int bug) {
  DYNAMIC_SHARED(raw, 128);
  float* buffers = reinterpret_cast<float*>(raw);
  float* results = buffers + kStages * kChunk;
  SHARED_ARRAY(uint64_t, barriers, [2 * kStages]);
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(ptx::shared_address(&barriers[i]), 1);
      ptx::mbarrier_init(ptx::shared_address(&barriers[kStages + i]), 96);
    }
    ptx::mbarrier_init_fence();
  }
  if (bug != 8) __syncthreads();
  if (t < 32) {
    if (t != 0) return;
    for (int c = 0; c < chunks; ++c) {
      const int s = c % kStages;
      const uint32_t full = ptx::shared_address(&barriers[s]);
      if (bug != 1 && c >= kStages)
        ptx::mbarrier_wait(ptx::shared_address(&barriers[kStages + s]), (c / kStages - 1) & 1);
      ptx::mbarrier_arrive_expect(full, kChunk * 4);
      if (bug == 3) ptx::mbarrier_arrive(full);  // one arrival too many
      ptx::bulk_load(ptx::shared_address(buffers + s * kChunk) + (bug == 4 ? 4u : 0u),
                     in + static_cast<size_t>(c) * kChunk, kChunk * 4, full);
    }
    return;
  }
  for (int c = 0; c < chunks; ++c) {
    const int s = c % kStages;
    ptx::mbarrier_wait(ptx::shared_address(&barriers[s]), (c / kStages) & 1);
    for (int i = t - 32; i < kChunk; i += 96) results[i] = 2.f * buffers[s * kChunk + i];
    if (bug != 2 || t != 127) ptx::mbarrier_arrive(ptx::shared_address(&barriers[kStages + s]));
    if (bug != 5) ptx::fence_proxy_async();
    if (bug != 6) ptx::named_barrier_sync(1, 96);
    if (t == 32) {
      ptx::bulk_store(out + static_cast<size_t>(c) * kChunk, ptx::shared_address(results),
                      kChunk * 4);
      ptx::bulk_commit();
      if (bug == 7) {
        ptx::bulk_wait_read<1>();  // the newest store still reads `results`
      } else {
        ptx::bulk_wait_read<0>();
      }
      const size_t at = static_cast<size_t>(c) * kChunk;
      if (bug == 10 && c == chunks - 1)  // read, but perhaps not yet written to where it goes
        out[0] += out[at] - 2.f * in[at];
    }
    ptx::named_barrier_sync(1, bug == 9 ? 128 : 96);
  }
  if (bug == 7 && t == 32) ptx::bulk_wait<0>();
}

}  // namespace

SEQLOOM_EXPORT int run_ring(const float* in, float* out, int chunks, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(128);
    c.shared_bytes = (kStages + 1) * kChunk * sizeof(float);
    launch(ring_kernel, c, in, out, chunks, bug);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
