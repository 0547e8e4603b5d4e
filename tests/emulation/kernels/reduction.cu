// SPDX-License-Identifier: Apache-2.0
// Sum of x[n] by blocks, where the last block to finish adds the partial sums; and an exchange
// through global memory inside a block.
#include "../support.h"

namespace seqloom_test {
namespace {

// partial[blocks], counter: zero. One lane of each block publishes, the last block reads.
__global__ void __launch_bounds__(128) sum_kernel(const float* x, float* partial, unsigned* counter,
                                                  float* out, int n, const float* host, int bug) {
  SHARED_ARRAY(float, s, [128]);
  SHARED_ARRAY(int, is_last, [1]);
  DYNAMIC_SHARED(raw, 16);
  float* neighbours = reinterpret_cast<float*>(raw);  // 128 floats
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * 128 + t;
  float v = i < n ? x[i] : 0.f;
  if (bug == 16) v = x[i];  // no bound check on the ragged end

  // Pairs of lanes swap values through shared memory; the sum does not change.
  neighbours[t] = v;
  if (bug != 1) __syncwarp();
  v = neighbours[t ^ 1];
  if (bug == 2) {  // misaligned vector load
    const float4 f = *reinterpret_cast<const float4*>(x + 1 + (t & 3));
    v += 0.f * f.x;
  }
  if (bug == 3) v += 0.f * host[0];
  if (bug == 4) {  // shared memory that only one thread has written
    if (t == 0) s[0] = 1.f;
    __syncthreads();
    v += s[t] * 0.f;
    __syncthreads();
  }
  if (bug == 5) {  // local array overrun
    float r[4] = {v, v, v, v};
    for (int k = 0; k <= 3 + (n > 0); ++k) r[k] += 1.f;
    v = r[t & 3] - 1.f;
  }
  if (bug == 8) neighbours[t + 1] = 0.f;  // one past the end
  if (bug == 11 && (t & 31) >= 30) {      // two lanes leave, the rest shuffle with all
    if (t == 127) partial[blockIdx.x] = 0.f;
    return;
  }
  s[t] = v;
  __syncthreads();
  for (int half = 64; half; half >>= 1) {
    if (t < half) s[t] += s[t + half];
    if (bug != 12 || half > 32) __syncthreads();  // 12: the warp-synchronous tail of old code
  }
  v = s[0];
  if (bug == 11) v = __shfl_xor_sync(kFullWarp, v, 1);
  if (t == 0) {
    if (bug == 6) out[0] += v;  // every block, without an atomic
    partial[blockIdx.x] = v;
    if (bug != 7) __threadfence();
    is_last[0] = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last[0] && t == 0) {
    if (bug != 15) __threadfence();
    float total = 0.f;
    for (unsigned b = 0; b < gridDim.x; ++b) total += partial[b];
    out[0] = total;
    *counter = 0;
  }
  if (bug == 13 && t == 0) is_last[0] = 0;  // others may not have read it yet
  if (bug == 14 && i == 0)                  // a flag that nobody will ever raise
    while (*reinterpret_cast<volatile float*>(&partial[0]) != -12345.f) {
    }
}

__global__ void __launch_bounds__(64) exchange_kernel(float* x, float* out, int bug) {
  const int t = static_cast<int>(threadIdx.x);
  x[t] = static_cast<float>(t);
  if (bug != 2) __syncthreads();
  // __ldg promises that nobody writes the memory during the launch.
  out[t] = bug == 1 ? __ldg(x + (t ^ 33)) : x[t ^ 33];
}

// Each warp gives its lane 0 the duty to publish; without __syncwarp the others may lag behind.
__global__ void __launch_bounds__(64)
    publish_kernel(float* data, unsigned* flag, float* out, int bug) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 32) {
    data[t] = static_cast<float>(t);
    if (bug != 1) __syncwarp();
    if (t == 0) {
      if (bug == 2) {
        ptx::store_relaxed(flag, 1);  // no release
      } else {
        ptx::store_release(flag, 1);
      }
    }
  } else {
    while (ptx::load_acquire(flag) == 0) {
    }
    out[t - 32] = bug == 3 ? data[t] : data[t - 32];
  }
}

// The first warp writes, fourteen read in good order, and the last one must not be lost among them.
__global__ void __launch_bounds__(512)
    readers_kernel(Half* data, unsigned* words, float* out, int bug) {
  const int w = warp_index(), l = lane_index();
  unsigned* flag = words;
  unsigned* readers = words + 1;
  if (w == 0) {
    data[l] = __float2half_rn(static_cast<float>(l));
    __syncwarp();
    if (l == 0) ptx::store_release(flag, 1);
    return;
  }
  if (w == 15 && bug == 1) {  // knows that the others have read, and nothing of the write
    while (ptx::load_relaxed(readers) != 14 * 32) {
    }
  } else {
    while (ptx::load_acquire(flag) == 0) {
    }
  }
  out[(w - 1) * 32 + l] = __half2float(data[l]);
  if (w != 15) atomicAdd(readers, 1u);
}

}  // namespace

SEQLOOM_EXPORT int run_sum(const float* x, float* partial, unsigned* counter, float* out, int n,
                           const float* host, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid = dim3(static_cast<unsigned>((n + 127) / 128));
    c.block = dim3(128);
    c.shared_bytes = 128 * sizeof(float);
    launch(sum_kernel, c, x, partial, counter, out, n, host, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_exchange(float* x, float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(64);
    launch(exchange_kernel, c, x, out, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_publish(float* data, unsigned* flag, float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(64);
    launch(publish_kernel, c, data, flag, out, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_readers(Half* data, unsigned* words, float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(512);
    launch(readers_kernel, c, data, words, out, bug);
    synchronize_stream(nullptr);
  });
}

// The host's side: two streams, of which the second needs the first one's result.
SEQLOOM_EXPORT int run_streams(float* x, float* out, float* host, int bug) {
  return guarded([&] {
    const StreamHandle first = create_stream(), second = create_stream();
    const EventHandle ready = create_event(false);
    LaunchConfig c;
    c.block = dim3(64);
    c.stream = first;
    launch(exchange_kernel, c, x, out, 0);
    record_event(ready, first);
    if (bug != 1) wait_for_event(second, ready);
    float* pinned = static_cast<float*>(allocate_pinned(64 * sizeof(float)));
    copy_to_host(pinned, out, 64 * sizeof(float), second);
    if (bug != 2) synchronize_stream(second);
    for (int i = 0; i < 64; ++i) host[i] = pinned[i];
    synchronize_device();
    release_pinned(pinned);
    destroy_event(ready);
    destroy_stream(first);
    destroy_stream(second);
  });
}

// Memory that is released before the kernel that uses it has been queued.
SEQLOOM_EXPORT int run_released(float* out, int bug) {
  return guarded([&] {
    float* x = static_cast<float*>(allocate(64 * sizeof(float), nullptr));
    LaunchConfig c;
    c.block = dim3(64);
    if (bug == 1) release(x, nullptr);
    launch(exchange_kernel, c, x, out, 0);
    if (bug != 1) release(x, nullptr);
    synchronize_stream(nullptr);
  });
}

// Captured once, replayed twice on changing input.
SEQLOOM_EXPORT int run_graph(float* x, float* out, float* copies, int bug) {
  return guarded([&] {
    const StreamHandle stream = create_stream();
    Graph graph;
    graph.begin_capture(stream);
    float* scratch = static_cast<float*>(allocate(64 * sizeof(float), stream));
    LaunchConfig c;
    c.block = dim3(64);
    c.stream = stream;
    launch(exchange_kernel, c, scratch, out, 0);
    if (bug == 1) synchronize_stream(stream);  // not allowed while capturing
    release(scratch, stream);
    graph.end_capture();
    for (int i = 0; i < 2; ++i) {
      fill_bytes(out, 0, 64 * sizeof(float), stream);
      if (bug != 2 || i == 0) graph.replay(stream);
      copy_on_device(copies + 64 * i, out, 64 * sizeof(float), stream);
    }
    synchronize_stream(stream);
    destroy_stream(stream);
    (void)x;
  });
}

}  // namespace seqloom_test
