// SPDX-License-Identifier: Apache-2.0
// The bitonic network of sort_cuda.h, and sorting rows of any dtype with it. A row of n is padded
// to a power of two P with the largest key. Stage (k, j) compares element i with i + j for j < k <=
// P; a block of 1024 threads holds 2048 pairs, so stages with j <= 1024 run in shared memory, many
// to a launch, and rows shorter than 2048 share a block.
#include "core/dtype.h"
#include "cuda/gpu.h"
#include "ops/layout/layout.h"
#include "ops/layout/sort_cuda.h"
#include "ops/layout/sort_key.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;        // of the kernels that take one element at a time
constexpr int kBlockThreads = 1024;  // of a block that sorts
constexpr int kBlockPairs = 2 * kBlockThreads;

SEQLOOM_DEVICE bool comes_after(uint64_t key, uint32_t place, uint64_t other,
                                uint32_t other_place) {
  return key > other || (key == other && place > other_place);
}

// Pads and numbers: the input of the network.
__global__ void __launch_bounds__(kThreads)
    load_keys_kernel(const uint64_t* keys, int64_t rows, int64_t n, int64_t padded,
                     uint64_t* sorted, uint32_t* places) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * padded;
       i += step) {
    const int64_t row = i / padded, at = i - row * padded;
    sorted[i] = at < n ? keys[row * n + at] : ~uint64_t{0};
    places[i] = static_cast<uint32_t>(at);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    make_keys_kernel(const T* x, int64_t rows, int64_t n, int64_t padded, bool descending,
                     uint64_t* sorted, uint32_t* places) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * padded;
       i += step) {
    const int64_t row = i / padded, at = i - row * padded;
    sorted[i] = at < n ? sort_key(x[row * n + at], descending) : ~uint64_t{0};
    places[i] = static_cast<uint32_t>(at);
  }
}

// Stages k = from .. to (doubling), each with j = min(k / 2, 1024) and below, in shared memory.
__global__ void __launch_bounds__(kBlockThreads)
    sort_block_kernel(uint64_t* keys, uint32_t* places, int64_t total, int64_t padded, int64_t from,
                      int64_t to) {
  SHARED_ARRAY(uint64_t, key, [kBlockPairs]);
  SHARED_ARRAY(uint32_t, place, [kBlockPairs]);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kBlockPairs;
  for (int half = 0; half < 2; ++half) {
    const int i = thread + half * kBlockThreads;
    key[i] = base + i < total ? keys[base + i] : ~uint64_t{0};
    place[i] = base + i < total ? places[base + i] : ~uint32_t{0};
  }
  for (int64_t k = from; k <= to; k *= 2) {
    for (int64_t j = k / 2 < kBlockThreads ? k / 2 : kBlockThreads; j > 0; j /= 2) {
      __syncthreads();
      const int step = static_cast<int>(j);
      const int i = 2 * thread - (thread & (step - 1)), other = i + step;
      const bool ascending = (((base + i) & (padded - 1)) & k) == 0;
      if (comes_after(key[i], place[i], key[other], place[other]) == ascending) {
        const uint64_t held_key = key[i];
        const uint32_t held_place = place[i];
        key[i] = key[other];
        place[i] = place[other];
        key[other] = held_key;
        place[other] = held_place;
      }
    }
  }
  __syncthreads();
  for (int half = 0; half < 2; ++half) {
    const int i = thread + half * kBlockThreads;
    if (base + i < total) {
      keys[base + i] = key[i];
      places[base + i] = place[i];
    }
  }
}

// One stage with j > 1024.
__global__ void __launch_bounds__(kThreads)
    sort_stage_kernel(uint64_t* keys, uint32_t* places, int64_t pairs, int64_t padded, int64_t k,
                      int64_t j) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < pairs;
       t += step) {
    const int64_t i = 2 * t - (t & (j - 1)), other = i + j;
    const bool ascending = ((i & (padded - 1)) & k) == 0;
    const uint64_t a = keys[i], b = keys[other];
    const uint32_t p = places[i], q = places[other];
    if (comes_after(a, p, b, q) == ascending) {
      keys[i] = b;
      places[i] = q;
      keys[other] = a;
      places[other] = p;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pick_kernel(const T* x, const uint32_t* places, int64_t rows, int64_t n, int64_t k,
                int64_t padded, T* values, int64_t* indices) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * k;
       i += step) {
    const int64_t row = i / k;
    const int64_t at = places[row * padded + i - row * k];
    indices[i] = at;
    values[i] = x[row * n + at];
  }
}

unsigned blocks_for(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > 65535 ? 65535 : blocks);
}

void run_network(uint64_t* keys, uint32_t* places, int64_t rows, int64_t padded) {
  const int64_t total = rows * padded;
  const auto blocks = static_cast<unsigned>((total + kBlockPairs - 1) / kBlockPairs);
  const int64_t first = padded < kBlockPairs ? padded : kBlockPairs;
  cuda::launch(sort_block_kernel, {blocks, kBlockThreads}, keys, places, total, padded, 2, first);
  for (int64_t k = 2 * kBlockPairs; k <= padded; k *= 2) {
    for (int64_t j = k / 2; j > kBlockThreads; j /= 2)
      cuda::launch(sort_stage_kernel, {blocks_for(total / 2), kThreads}, keys, places, total / 2,
                   padded, k, j);
    cuda::launch(sort_block_kernel, {blocks, kBlockThreads}, keys, places, total, padded, k, k);
  }
}

template <class T>
void sort_typed(const SortArgs& a) {
  const int64_t padded = padded_length(a.n);
  auto* keys = static_cast<uint64_t*>(a.workspace);
  auto* places = static_cast<uint32_t*>(static_cast<void*>(keys + a.rows * padded));
  const T* x = static_cast<const T*>(a.x);
  cuda::launch(make_keys_kernel<T>, {blocks_for(a.rows * padded), kThreads}, x, a.rows, a.n, padded,
               a.descending, keys, places);
  run_network(keys, places, a.rows, padded);
  cuda::launch(pick_kernel<T>, {blocks_for(a.rows * a.k), kThreads}, x, places, a.rows, a.n, a.k,
               padded, static_cast<T*>(a.values), a.indices);
}

}  // namespace

void sort_keys(const uint64_t* keys, int64_t rows, int64_t n, uint64_t* sorted, uint32_t* places) {
  const int64_t padded = padded_length(n);
  cuda::launch(load_keys_kernel, {blocks_for(rows * padded), kThreads}, keys, rows, n, padded,
               sorted, places);
  run_network(sorted, places, rows, padded);
}

int64_t sort_workspace(const SortArgs& a) { return a.rows * padded_length(a.n) * 12; }

void sort_rows_cuda(const SortArgs& args) {
  dispatch_all(args.dtype, [&](auto t) { sort_typed<typename decltype(t)::type>(args); });
}

}  // namespace seqloom::ops
