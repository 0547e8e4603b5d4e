// SPDX-License-Identifier: Apache-2.0
// What the recurrences in one launch share, forward and backward: who does what, and the exchange
// between blocks. Included by .cu files only.
//
// The blocks hand their part of a vector [B, values] to each other once a step, with one hop: every
// word of data travels in a 64-bit packet beside the number of its step, so whoever reads the
// number it waits for has the word too, and there is no other synchronisation between blocks. Two
// buffers suffice: what a block publishes of a sequence at step s + 1 is computed from all of that
// sequence's packets of step s, and each of those by a block that had all of step s - 1, whose
// place is taken. Sequences that do not run at a step are neither published nor waited for.
#pragma once

#include "cuda/ptx_packets.h"
#include "ops/rnn/rnn_cuda.h"

namespace seqloom::ops {

constexpr int kPersistentThreads = 256;  // of a block, at most
constexpr int kCollect = 4;              // accesses of a thread under way while it collects
constexpr int kEmulatedGrid = 4;         // blocks where a multiprocessor is a host thread's fiction
constexpr int kLeastUnits = 4;           // of a block

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Who does what. C: type of the weights and of the vector that is exchanged and multiplied.
struct Plan {
  int threads;                      // of a block
  int batch, units, steps;          // B, H, steps that run
  int blocks, block_units;          // the last block may own fewer
  int rows, padded_rows;            // of the block's weights, in tiles
  int padded_batch, depth;          // of the product's operands in shared memory
  int weight_stride, state_stride;  // elements
  int splits;                       // parts that the sums over k are made in
  int words, vectors;               // of a block's part of a sequence's vector, two words a vector
};

// Offsets into a block's shared memory, in bytes.
struct SharedLayout {
  int state, partial, stage, first, second, lengths, total;
};

// `first` and `second`: float32 values that a block keeps a sequence and unit.
template <class C>
__host__ __device__ inline SharedLayout shared_layout(const Plan& p) {
  constexpr int kBytes = static_cast<int>(sizeof(C));
  SharedLayout l;
  l.state = round_up(p.padded_rows * p.weight_stride * kBytes, 16);
  l.partial = l.state + round_up(p.padded_batch * p.state_stride * kBytes, 16);
  l.stage = l.partial + p.splits * p.padded_batch * p.padded_rows * 4;
  l.first = l.stage + round_up(p.batch * p.words * 4, 16);
  l.second = l.first + p.batch * p.block_units * 4;
  l.lengths = l.second + p.batch * p.block_units * 4;
  l.total = l.lengths + p.batch * 4;
  return l;
}

// What the other blocks published with the number `step`, into `state`: block after block. Only of
// the sequences that have more than `running` steps.
template <class C>
SEQLOOM_DEVICE void collect(const Plan& p, const uint4* from, uint32_t step, const int* lengths,
                            int running, C* state) {
  const int part = p.blocks * p.vectors, total = p.batch * part;
  const int row_words = p.depth * static_cast<int>(sizeof(C)) / 4;
  for (int first = static_cast<int>(threadIdx.x); first < total; first += kCollect * p.threads) {
    uint4 v[kCollect];
    bool live[kCollect];
#pragma unroll
    for (int j = 0; j < kCollect; ++j) {
      const int i = first + j * p.threads;
      live[j] = i < total && lengths[i / part] > running;
      if (live[j]) v[j] = cuda::ptx::load_packets(from + i, step);
    }
#pragma unroll
    for (int j = 0; j < kCollect; ++j) {
      if (!live[j]) continue;
      const int i = first + j * p.threads;
      while (v[j].y != step || v[j].w != step) v[j] = cuda::ptx::load_packets(from + i, step);
      const int block = i % part / p.vectors, word0 = i % p.vectors * 2;
      C* row = state + i / part * p.state_stride;
      const uint32_t words[2] = {v[j].x, v[j].z};
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        const int at = block * p.words + word0 + w;
        if (word0 + w < p.words && at < row_words)
          memcpy(static_cast<void*>(row + at * (4 / static_cast<int>(sizeof(C)))), &words[w], 4);
      }
    }
  }
}

// The block's part, from `stage` [B][words], with the number `step`.
SEQLOOM_DEVICE void publish(const Plan& p, const uint32_t* stage, uint32_t step, const int* lengths,
                            int running, uint4* to) {
  for (int i = static_cast<int>(threadIdx.x); i < p.batch * p.vectors; i += p.threads) {
    const int b = i / p.vectors, word0 = i % p.vectors * 2;
    if (lengths[b] <= running) continue;
    const uint32_t* words = stage + b * p.words + word0;
    const uint32_t second = word0 + 1 < p.words ? words[1] : 0;
    cuda::ptx::store_packets(
        to + (b * p.blocks + static_cast<int>(blockIdx.x)) * p.vectors + i % p.vectors,
        make_uint4(words[0], step, second, step));
  }
}

// Launches `kernel` on the blocks of a plan, all of them resident, with two zeroed buffers for the
// exchange as its last argument. False where they do not fit.
template <class C, class... Params, class... Args>
bool launch_persistent(const Plan& p, void (*kernel)(Params...), Args&&... args) {
  const auto shared = static_cast<std::size_t>(shared_layout<C>(p).total);
  if (shared > cuda::current_device_properties().shared_bytes_per_block) return false;
  cuda::allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared);
  if (p.blocks > cuda::resident_blocks(kernel, p.threads, shared)) return false;
  const std::size_t bytes =
      std::size_t{2} * static_cast<std::size_t>(p.batch * p.blocks * p.vectors) * sizeof(uint4);
  const cuda::Workspace exchange(bytes);
  cuda::fill_bytes(exchange.as<void>(), 0, bytes, cuda::current_stream());
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(p.blocks));
  config.block = dim3(static_cast<unsigned>(p.threads));
  config.shared_bytes = shared;
  config.cooperative = true;
  cuda::launch(kernel, config, std::forward<Args>(args)..., exchange.as<uint4>());
  return true;
}

// The parts of a plan that do not depend on the direction. False where the sizes are beyond what
// the plan's ints hold with room to spare, or `grid` asks for no such launch.
template <class C>
bool begin_plan(const RnnShape& s, int64_t longest, Plan& p) {
  constexpr int64_t kMost = int64_t{1} << 20;
  if (s.grid < 0 || s.batch == 0) return false;
  if (s.batch * s.units * gate_count(s.cell) > kMost) return false;
  if (longest > (int64_t{1} << 30)) return false;
  const auto& device = cuda::current_device_properties();
  int grid = s.grid;
  if (grid == 0) grid = device.emulated ? kEmulatedGrid : device.multiprocessors;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(C));
  p.batch = static_cast<int>(s.batch);
  p.units = static_cast<int>(s.units);
  p.steps = static_cast<int>(longest);
  const int share = (p.units + grid - 1) / grid;
  p.block_units = round_up(share < kLeastUnits ? kLeastUnits : share, kPerWord);
  p.blocks = (p.units + p.block_units - 1) / p.block_units;
  // An emulated thread is a stack of its own: of many blocks, the small form.
  p.threads = device.emulated && p.blocks > 64 ? kPersistentThreads / 2 : kPersistentThreads;
  return true;
}

}  // namespace seqloom::ops
