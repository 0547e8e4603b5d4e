// SPDX-License-Identifier: Apache-2.0
// Persistent LSTM forward: every block owns some hidden units and keeps their weights in shared
// memory; the state is exchanged through global memory once a step, with the grid barrier or with
// a counter of its own.
#include "../support.h"

namespace seqloom_test {
namespace {

constexpr int kUnits = 8, kThreads = 128, kMaxBatch = 16;

// xp [T, B, 4H] holds the input's part of the gates, h [T + 1, B, H] starts with the initial state.
template <bool Flags>
__global__ void __launch_bounds__(kThreads)
    lstm_kernel(const float* xp, const float* w_hh, float* h, float* c_last, uint32_t* counter,
                int steps, int batch, int hidden, int bug) {
  DYNAMIC_SHARED(raw, 16);
  float* weights = reinterpret_cast<float*>(raw);  // [4 * kUnits, H]
  float* state = weights + 4 * kUnits * hidden;    // [B, H]
  SHARED_ARRAY(float, gates, [4 * kUnits][kMaxBatch]);
  const int t = static_cast<int>(threadIdx.x), u0 = static_cast<int>(blockIdx.x) * kUnits;
  for (int i = t; i < 4 * kUnits * hidden; i += kThreads) {
    const int r = i / hidden, col = i % hidden;
    weights[i] = w_hh[static_cast<size_t>(r / kUnits * hidden + u0 + r % kUnits) * hidden + col];
  }
  float c = bug == 1 ? w_hh[-1] : 0.f;  // 1: whatever lies before the weights
  const int unit = t % kUnits, row = t / kUnits;
  for (int step = 0; step < steps; ++step) {
    for (int i = t; i < batch * hidden; i += kThreads)
      state[i] = __ldcg(h + static_cast<size_t>(step) * batch * hidden + i);
    if (bug != 6) __syncthreads();
    for (int o = warp_index(); o < 4 * kUnits * batch; o += kThreads / 32) {
      const int r = o / batch, b = o % batch;
      float s = 0.f;
      for (int i = lane_index(); i < hidden; i += 32)
        s += weights[r * hidden + i] * state[b * hidden + i];
      s = warp_sum(s);
      if (lane_index() == 0) gates[r][b] = s;
    }
    if (bug != 7) __syncthreads();
    if (t < kUnits * batch) {
      const float* x = xp + (static_cast<size_t>(step) * batch + row) * 4 * hidden + u0 + unit;
      const float i = 1.f / (1.f + __expf(-(gates[unit][row] + x[0])));
      const float f = 1.f / (1.f + __expf(-(gates[kUnits + unit][row] + x[hidden])));
      const float g = tanhf(gates[2 * kUnits + unit][row] + x[2 * hidden]);
      const float o = 1.f / (1.f + __expf(-(gates[3 * kUnits + unit][row] + x[3 * hidden])));
      c = f * c + i * g;
      h[(static_cast<size_t>(step + 1) * batch + row) * hidden + u0 + unit] = o * tanhf(c);
      if (step == steps - 1) c_last[static_cast<size_t>(row) * hidden + u0 + unit] = c;
    }
    if (bug == 2) {
      __syncthreads();  // waits for this block only
    } else if (bug == 4 && (blockIdx.x == 0 || step + 1 == steps)) {
      // block 0 never arrives
    } else if (!Flags) {
      ptx::grid_sync(counter);
    } else {
      if (bug != 3) __syncthreads();  // all of the block's stores come before the release
      if (t == 0) {
        if (bug == 5) {
          atomicAdd(counter, 1u);  // relaxed: publishes nothing
        } else {
          ptx::add_release(counter, 1);
        }
        const uint32_t target = gridDim.x * static_cast<uint32_t>(step + 1);
        while (ptx::load_acquire(counter) < (bug == 8 ? target - 1 : target)) {
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace

SEQLOOM_EXPORT int run_lstm(const float* xp, const float* w_hh, float* h, float* c_last,
                            uint32_t* counter, int steps, int batch, int hidden, int flags,
                            int cooperative, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid = dim3(static_cast<unsigned>(hidden / kUnits));
    c.block = dim3(kThreads);
    c.shared_bytes = static_cast<size_t>(4 * kUnits * hidden + batch * hidden) * sizeof(float);
    c.cooperative = cooperative != 0;
    launch(flags ? lstm_kernel<true> : lstm_kernel<false>, c, xp, w_hh, h, c_last, counter, steps,
           batch, hidden, bug);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
