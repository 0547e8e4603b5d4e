// SPDX-License-Identifier: Apache-2.0
// Forward recurrence on the CPU.
//
// Input and recurrent weights are packed alike (rnn_panels.h), once, or come packed from an earlier
// call. The input's share of all gates, x w_ih^T + b, is made for a chunk of steps at
// a time, by the thread that needs it and in the order of its tiles, so it never leaves that
// thread's L2. A tile of gates never leaves the registers between the product with h and the new
// state.
#include "core/allocator.h"
#include "ops/rnn/rnn_panels.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

// Rows of x that are worth a pass over the input weights, and the memory of their projections.
constexpr int64_t kChunkRows = 64;
constexpr int64_t kChunkBytes = 384 << 10;
// Rows by which layers that run at once follow each other, and the steps their projections.
constexpr int64_t kWaveRows = 16;
constexpr int64_t kMaxPieces = 512;
// Multiply-adds of a chunk's projections that are worth another thread.
constexpr int64_t kProjectionWork = 480000;

// T: storage of x, y and the states. W: packed weights (float, or pairs of bf16). S: the state that
// is multiplied (float, or bf16 with pairs).
template <CellKind kKind, class T, class W, class S, bool kPeepholes>
struct Forward {
  using L = Layout<kKind>;
  static constexpr int64_t kWidth = kPanelWidth<L>;

  const ops::RnnForwardArgs& a;
  const int64_t B, I, H;
  Schedule schedule;
  const W* panels_h;  // [blocks][rows of H][kWidth]
  const W* panels_x;  // [blocks][rows of I][kWidth]
  int64_t blocks;
  const float* bias;       // [blocks][kWidth]: b_ih (+ b_hh)
  const float* b_n;        // [H]: the n gate's recurrent bias (GRU)
  const float* peepholes;  // [3, H]
  S* state[2];             // [B, H], by step parity
  float* h32;   // [B, H]: the state in float32 when S is narrower (GRU needs it); else null
  float* cell;  // [B, H]: c
  bool far;     // the recurrent weights come from beyond L2 for a few rows only
  // A chunk is steps [chunk0, chunk1).
  int64_t chunk;           // steps, at most
  int64_t chunk_capacity;  // rows
  float* gates_x;          // [blocks][chunk_capacity][kWidth]: x w_ih^T + bias
  S* gathered;             // [chunk_capacity, I]: rows of x, where they cannot be read in place
  const int64_t* offsets;  // [steps + 1]: rows before each step; null: B a step

  // The rows of a chunk lie as x does, or in the order of the steps where they are gathered.
  SEQLOOM_ALWAYS_INLINE int64_t rows_before(int64_t s) const {
    return offsets != nullptr ? offsets[s] : s * B;
  }
  SEQLOOM_ALWAYS_INLINE int64_t chunk_row(int64_t s, int64_t chunk0, int64_t chunk1) const {
    if (gathered == nullptr && schedule.reverse) return (chunk1 - 1 - s) * B;
    return rows_before(s) - rows_before(chunk0);
  }

  // Rows [first, last) of the chunk, of steps [s0, s1), copied in the type that is multiplied.
  void gather(int64_t chunk0, int64_t s0, int64_t s1, int64_t first, int64_t last) {
    for (int64_t s = s0; s < s1; ++s) {
      const int64_t base = rows_before(s) - rows_before(chunk0);
      const int64_t end = min(last, rows_before(s + 1) - rows_before(chunk0));
      for (int64_t row = max(first, base); row < end; ++row) {
        const T* from = static_cast<const T*>(a.x) + schedule.slot(row - base, s) * I;
        for (int64_t k = 0; k < I; k += kLanes) {
          const int count = static_cast<int>(min<int64_t>(kLanes, I - k));
          put(gathered + row * I + k, get(from + k, count), count);
        }
      }
    }
  }

  // gates_x of rows [row, row + MR) of the chunk.
  template <int MR>
  void project(const S* x, int64_t row, int64_t block) {
    Tile<MR, L::kVecs> acc;
    const float* b = bias + block * kWidth;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < L::kVecs; ++v) acc.v[i][v] = load(b + v * kLanes);
    const W* panel = panels_x + block * panel_rows<W>(I) * kWidth;
    multiply<MR, L::kVecs>(false, I, x + row * I, I, panel, acc);
    tile_spill(acc, gates_x + (block * chunk_capacity + row) * kWidth);
  }

  // Rows [first, first + rows) of the chunk.
  void project_blocks(int64_t chunk0, int64_t chunk1, int64_t first, int64_t rows,
                      int64_t first_block, int64_t last_block, int64_t first_group,
                      int64_t group_step) {
    const Groups groups(rows, L::kRows);
    const S* x = gathered;
    if (gathered == nullptr) {
      const int64_t time = schedule.reverse ? schedule.steps - chunk1 : chunk0;
      x = static_cast<const S*>(a.x) + time * B * I;
    }
    for (int64_t block = first_block; block < last_block; ++block)
      for (int64_t g = first_group; g < groups.count; g += group_step) {
        const int64_t row = groups.begin(g);
        with_rows<L::kRows>(groups.begin(g + 1) - row,
                            [&](auto m) { project<decltype(m)::value>(x, first + row, block); });
      }
  }

  // The projections of a chunk that `share` needs. Its groups of rows are those of the steps where
  // rows are shared, which is why a chunk is then one step.
  void project_chunk(int64_t chunk0, int64_t chunk1, const Share& share,
                     cpu::TeamBarrier* barrier) {
    const int64_t rows = rows_before(chunk1) - rows_before(chunk0);
    const Groups groups(rows, L::kRows);
    if (gathered != nullptr && share.by_rows) {
      for (int64_t g = share.first_group(); g < groups.count; g += share.group_step())
        gather(chunk0, chunk0, chunk1, groups.begin(g), groups.begin(g + 1));
    } else if (gathered != nullptr) {
      gather(chunk0, chunk0, chunk1, rows * share.rank / share.size,
             rows * (share.rank + 1) / share.size);
      if (barrier != nullptr) barrier->wait();
    }
    project_blocks(chunk0, chunk1, 0, rows, share.first_block(blocks), share.last_block(blocks),
                   share.first_group(), share.group_step());
  }

  // The projections of steps [s0, s1) of a chunk.
  void project_piece(int64_t s0, int64_t s1, int64_t chunk0, int64_t chunk1) {
    const int64_t first = min(chunk_row(s0, chunk0, chunk1), chunk_row(s1 - 1, chunk0, chunk1));
    const int64_t rows = rows_before(s1) - rows_before(s0);
    if (gathered != nullptr) gather(chunk0, s0, s1, first, first + rows);
    project_blocks(chunk0, chunk1, first, rows, 0, blocks, 0, 1);
  }

  // Rows [row, row + MR) of a step, whose projections begin at `gx`.
  template <int MR>
  void tile(int64_t s, int64_t row, int64_t block, const float* gx) {
    const int64_t unit0 = block * L::kUnits;
    const S* h = state[s & 1] + row * H;
    for (int i = 0; i < MR; ++i)
      for (int v = 0; v < L::kVecs; ++v) __builtin_prefetch(gx + i * kWidth + v * kLanes);
    if (ops::saved_count(kKind) > 0 && a.saved != nullptr)
      for (int i = 0; i < MR; ++i) {
        const int64_t slot = schedule.slot(row + i, s);
        for (int k = 0; k < 4; ++k) __builtin_prefetch(a.saved + (slot * 4 + k) * H + unit0, 1);
        if (kKind == CellKind::kLstm) __builtin_prefetch(a.cells + slot * H + unit0, 1);
      }
    Tile<MR, L::kVecs> acc;
    tile_zero(acc);
    const W* panel = panels_h + block * panel_rows<W>(H) * kWidth;
    multiply<MR, L::kVecs>(far, H, h, H, panel, acc);
    alignas(64) float products[MR * L::kVecs * kLanes];
    tile_spill(acc, products);
    for (int i = 0; i < MR; ++i) {
      const int64_t r = row + i, b = schedule.sequence(r), t = schedule.time(b, s);
      const bool last = s + 1 == schedule.length(b);
      for (int v = 0; v < L::kUnitVecs; ++v) {
        const int64_t unit = unit0 + v * kLanes;
        if (unit >= H) break;
        const int count = static_cast<int>(min<int64_t>(kLanes, H - unit));
        const int64_t at = i * kWidth + v * kLanes;
        pointwise(products + at, gx + at, r, b, t, s, unit, count, last);
      }
    }
  }

  // `product` and `gx`: this vector's gates, kLanes apart (one gate for the plain cells).
  SEQLOOM_ALWAYS_INLINE void pointwise(const float* product, const float* gx, int64_t r, int64_t b,
                                       int64_t t, int64_t s, int64_t unit, int count, bool last) {
    const int64_t at = r * H + unit, out = (t * B + b) * H + unit;
    VecF h_new;
    if constexpr (kKind == CellKind::kLstm) {
      ops::LstmGates<VecF> g{load(product) + load(gx), load(product + kLanes) + load(gx + kLanes),
                             load(product + 2 * kLanes) + load(gx + 2 * kLanes),
                             load(product + 3 * kLanes) + load(gx + 3 * kLanes)};
      ops::Peepholes<VecF> p{};
      if (kPeepholes)
        p = {get(peepholes + unit, count), get(peepholes + H + unit, count),
             get(peepholes + 2 * H + unit, count)};
      VecF c_new;
      ops::lstm_forward<GateMath, kPeepholes>(g, p, get(cell + at, count), c_new, h_new);
      put(cell + at, c_new, count);
      if (a.saved != nullptr) {
        float* keep = a.saved + (t * B + b) * 4 * H + unit;
        put(keep, g.i, count);
        put(keep + H, g.f, count);
        put(keep + 2 * H, g.g, count);
        put(keep + 3 * H, g.o, count);
      }
      if (a.cells != nullptr) put(a.cells + out, c_new, count);
      if (last) put(static_cast<T*>(a.c_n) + b * H + unit, c_new, count);
    } else if constexpr (kKind == CellKind::kGru) {
      VecF q = load(product + 2 * kLanes);
      if (b_n != nullptr) q += get(b_n + unit, count);
      ops::GruGates<VecF> g{load(product) + load(gx), load(product + kLanes) + load(gx + kLanes),
                            load(gx + 2 * kLanes), q};
      const VecF h = h32 != nullptr ? get(h32 + at, count) : get(state[s & 1] + at, count);
      ops::gru_forward<GateMath>(g, h, h_new);
      if (h32 != nullptr) put(h32 + at, h_new, count);
      if (a.saved != nullptr) {
        float* keep = a.saved + (t * B + b) * 4 * H + unit;
        put(keep, g.r, count);
        put(keep + H, g.z, count);
        put(keep + 2 * H, g.n, count);
        put(keep + 3 * H, g.q, count);
      }
    } else {
      h_new = ops::plain_forward<CellMath, kKind == CellKind::kRelu>(load(product) + load(gx));
      if (a.saved != nullptr) put(a.saved + out, h_new, count);
    }
    put(state[(s + 1) & 1] + at, h_new, count);
    put(static_cast<T*>(a.y) + out, h_new, count);
    if (last) put(static_cast<T*>(a.h_n) + b * H + unit, h_new, count);
  }

  void step(int64_t s, int64_t chunk0, int64_t chunk1, const Share& share) {
    const int64_t rows = schedule.active(s), chunk_row0 = chunk_row(s, chunk0, chunk1);
    const Groups groups(rows, L::kRows);
    const int64_t last_block = share.last_block(blocks);
    const int64_t first_block = share.first_block(blocks);
    for (int64_t i = first_block; i < last_block; ++i) {
      const int64_t block = there_and_back(s, i, first_block, last_block);
      const float* gx = gates_x + (block * chunk_capacity + chunk_row0) * kWidth;
      for (int64_t g = share.first_group(); g < groups.count; g += share.group_step()) {
        const int64_t row = groups.begin(g);
        with_rows<L::kRows>(groups.begin(g + 1) - row, [&](auto m) {
          tile<decltype(m)::value>(s, row, block, gx + row * kWidth);
        });
      }
    }
  }

  // A chunk whose steps are not worth a team. A second thread, if there is one, makes the
  // projections ahead of the steps, piece by piece; the steps make what it has not begun.
  void run_chunk_alone(int64_t chunk0, int64_t chunk1, int64_t longest_piece, const Share& alone) {
    const int64_t pieces = (chunk1 - chunk0 + longest_piece - 1) / longest_piece;
    int64_t next = 0;  // the first piece that nobody has claimed
    int64_t made[kMaxPieces];
    for (int64_t p = 0; p < pieces; ++p) made[p] = 0;
    const auto first_step = [&](int64_t p) { return min(chunk1, chunk0 + p * longest_piece); };
    const auto make = [&](int64_t p) {
      project_piece(first_step(p), first_step(p + 1), chunk0, chunk1);
      __atomic_store_n(&made[p], 1, __ATOMIC_RELEASE);
    };
    const auto run_steps = [&] {
      for (int64_t p = 0; p < pieces; ++p) {
        int64_t unclaimed = p;
        if (__atomic_compare_exchange_n(&next, &unclaimed, p + 1, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
          make(p);
        else
          ops::rnn_await(&made[p], 1);
        for (int64_t s = first_step(p); s < first_step(p + 1); ++s) step(s, chunk0, chunk1, alone);
      }
    };
    const auto make_all = [&] {
      for (;;) {
        const int64_t p = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (p >= pieces) return;
        make(p);
      }
    };
    const int64_t work = (rows_before(chunk1) - rows_before(chunk0)) * I * kWidth * blocks;
    if (pieces == 1 || work < kProjectionWork) return run_steps();
    cpu::parallel_for(2, 1, [&](int64_t begin, int64_t end) {
      if (begin == 0) run_steps();
      if (end == 2) make_all();
    });
  }

  void run() {
    const int64_t longest = schedule.longest();
    const int64_t weight_bytes = blocks * H * kWidth * static_cast<int64_t>(sizeof(float));
    const int64_t groups = (B + L::kRows - 1) / L::kRows;
    if (!ops::rnn_shares_steps(a.shape)) {
      const Share alone(0, 1, groups, weight_bytes, true);
      const int64_t piece = max((kWaveRows + B - 1) / B, (chunk + kMaxPieces - 1) / kMaxPieces);
      for (int64_t s = 0; s < longest; s += chunk) {
        const int64_t end = min(longest, s + chunk);
        if (a.ready != nullptr) ops::rnn_await(a.ready, end);
        run_chunk_alone(s, end, piece, alone);
        if (a.done != nullptr) __atomic_store_n(a.done, end, __ATOMIC_RELEASE);
      }
      return;
    }
    cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
      const Share share(rank, size, groups, weight_bytes, schedule.order != nullptr || chunk > 1);
      for (int64_t s = 0; s < longest; s += chunk) {
        const int64_t end = min(longest, s + chunk);
        project_chunk(s, end, share, &barrier);
        for (int64_t i = s; i < end; ++i) {
          step(i, s, end, share);
          if (!share.by_rows) barrier.wait();
        }
      }
    });
  }
};

// The biases that belong to x w_ih^T, as panels lie: b_ih, and b_hh except the GRU's n gate.
template <class L, class T>
void input_bias(const ops::RnnForwardArgs& a, float* bias, float* b_n) {
  const int64_t H = a.shape.units;
  const T* b_ih = static_cast<const T*>(a.weights.b_ih);
  const T* b_hh = static_cast<const T*>(a.weights.b_hh);
  const bool gru = a.shape.cell == CellKind::kGru;
  for (int64_t first = 0; first < H; first += L::kUnits)
    for (int64_t g = 0; g < L::kGates; ++g)
      for (int64_t u = 0; u < L::kUnits; ++u, ++bias) {
        const int64_t unit = first + u, j = g * H + unit;
        const bool apart = gru && g == 2;
        float sum = 0.0f;
        if (unit < H) {
          const float from_h = b_hh != nullptr ? seqloom::to_float(b_hh[j]) : 0.0f;
          if (b_ih != nullptr) sum = seqloom::to_float(b_ih[j]);
          if (apart)
            b_n[unit] = from_h;
          else
            sum += from_h;
        }
        *bias = sum;
      }
}

template <class T, class S>
void load_state(const void* source, const Schedule& schedule, int64_t H, S* to) {
  for (int64_t r = 0; r < schedule.batch; ++r) {
    const T* from =
        source == nullptr ? nullptr : static_cast<const T*>(source) + schedule.sequence(r) * H;
    for (int64_t u = 0; u < H; u += kLanes) {
      const int count = static_cast<int>(min<int64_t>(kLanes, H - u));
      put(to + r * H + u, from != nullptr ? get(from + u, count) : VecF::zero(), count);
    }
  }
}

// Outputs past a length, and the final states of empty sequences.
template <class T>
void fill_unused(const ops::RnnForwardArgs& a, const Schedule& schedule) {
  const int64_t H = a.shape.units, B = schedule.batch;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t length = schedule.length(b);
    for (int64_t t = length; t < schedule.steps; ++t)
      __builtin_memset(static_cast<void*>(static_cast<T*>(a.y) + (t * B + b) * H), 0,
                       static_cast<size_t>(H) * sizeof(T));
    if (length > 0) continue;
    const auto keep = [&](const void* from, void* to) {
      if (to == nullptr) return;
      T* p = static_cast<T*>(to) + b * H;
      if (from == nullptr)
        __builtin_memset(static_cast<void*>(p), 0, static_cast<size_t>(H) * sizeof(T));
      else
        __builtin_memcpy(static_cast<void*>(p), static_cast<const T*>(from) + b * H,
                         static_cast<size_t>(H) * sizeof(T));
    };
    keep(a.h0, a.h_n);
    keep(a.c0, a.c_n);
  }
}

constexpr int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

template <CellKind kKind, class T, class W, class S, bool kPeepholes>
void run(const ops::RnnForwardArgs& a) {
  using F = Forward<kKind, T, W, S, kPeepholes>;
  using L = Layout<kKind>;
  const int64_t steps = a.shape.steps, B = a.shape.batch, I = a.shape.inputs, H = a.shape.units;
  constexpr int64_t kWidth = kPanelWidth<L>;
  const bool ragged = a.shape.lengths != nullptr;
  const int64_t blocks = (H + L::kUnits - 1) / L::kUnits;
  const int64_t h_size = panel_rows<W>(H) * kWidth, x_size = panel_rows<W>(I) * kWidth;

  // A chunk holds one step where threads may share the rows, and the shape alone decides.
  const int64_t step_bytes = blocks * B * kWidth * 4;
  int64_t chunk = max((kChunkRows + B - 1) / B, kChunkBytes / step_bytes);
  if (!ragged && B >= 2 * L::kRows && blocks * h_size * 4 <= kSharedWeightBytes) chunk = 1;
  if (a.ready != nullptr || a.done != nullptr) chunk = (kWaveRows + B - 1) / B;
  chunk = max<int64_t>(1, min(chunk, steps));
  const bool gathers = ragged || sizeof(T) != sizeof(S);

  // One scratch block, cut up.
  constexpr auto kWord = static_cast<int64_t>(sizeof(W)), kState = static_cast<int64_t>(sizeof(S));
  const auto* packed_h = static_cast<const W*>(a.weights.packed_hh);
  const auto* packed_x = static_cast<const W*>(a.weights.packed_ih);
  const int64_t h_bytes = packed_h != nullptr ? 0 : align64(blocks * h_size * kWord);
  const int64_t x_bytes = packed_x != nullptr ? 0 : align64(blocks * x_size * kWord);
  const int64_t gates_bytes = chunk * step_bytes;
  const int64_t gathered_bytes = align64(gathers ? chunk * B * I * kState : 0);
  const int64_t state_bytes = align64(B * H * kState), float_bytes = align64(B * H * 4);
  const int64_t bias_bytes = blocks * kWidth * 4 + align64(H * 4), peep_bytes = align64(3 * H * 4);
  const int64_t order_bytes = align64(ragged ? (B + 2 * steps + 3) * 8 : 0);
  cpu::Scratch scratch(static_cast<size_t>(h_bytes + x_bytes + gates_bytes + gathered_bytes +
                                           2 * state_bytes + 2 * float_bytes + bias_bytes +
                                           peep_bytes + order_bytes));
  char* at = scratch.as<char>();
  const auto take = [&at](int64_t bytes) {
    char* p = at;
    at += bytes;
    return static_cast<void*>(p);
  };
  W* panels_h = static_cast<W*>(take(h_bytes));
  W* panels_x = static_cast<W*>(take(x_bytes));
  float* gates_x = static_cast<float*>(take(gates_bytes));
  S* gathered = static_cast<S*>(take(gathered_bytes));
  S* state0 = static_cast<S*>(take(state_bytes));
  S* state1 = static_cast<S*>(take(state_bytes));
  float* cell = static_cast<float*>(take(float_bytes));
  float* h32 = static_cast<float*>(take(float_bytes));
  float* bias = static_cast<float*>(take(bias_bytes));
  float* b_n = bias + blocks * kWidth;
  float* peepholes = static_cast<float*>(take(peep_bytes));
  int64_t* order = static_cast<int64_t*>(take(order_bytes));
  int64_t* offsets = order + B;

  Schedule schedule{steps, B, a.shape.lengths, ragged ? order : nullptr, a.shape.reverse};
  if (ragged) {
    sort_by_length(a.shape.lengths, B, steps, order, offsets);
    offsets[0] = 0;
    for (int64_t s = 0; s < steps; ++s) offsets[s + 1] = offsets[s] + schedule.active(s);
  }

  if (packed_h == nullptr) {
    pack_weight<L>(static_cast<const T*>(a.weights.w_hh), H, H, panels_h);
    packed_h = panels_h;
  }
  if (packed_x == nullptr) {
    pack_weight<L>(static_cast<const T*>(a.weights.w_ih), H, I, panels_x);
    packed_x = panels_x;
  }
  input_bias<L, T>(a, bias, b_n);
  if (kPeepholes)
    for (int64_t j = 0; j < 3 * H; ++j)
      peepholes[j] = seqloom::to_float(static_cast<const T*>(a.weights.peepholes)[j]);
  load_state<T>(a.h0, schedule, H, state0);
  if (kKind == CellKind::kLstm) load_state<T>(a.c0, schedule, H, cell);
  constexpr bool kNeedsH32 = kKind == CellKind::kGru && sizeof(S) == 2;
  if (kNeedsH32) load_state<T>(a.h0, schedule, H, h32);
  fill_unused<T>(a, schedule);

  F forward{a,
            B,
            I,
            H,
            schedule,
            packed_h,
            packed_x,
            blocks,
            bias,
            kKind == CellKind::kGru ? b_n : nullptr,
            peepholes,
            {state0, state1},
            kNeedsH32 ? h32 : nullptr,
            cell,
            beyond_l2(blocks * h_size * kWord, B),
            chunk,
            chunk * B,
            gates_x,
            gathers ? gathered : nullptr,
            ragged ? offsets : nullptr};
  forward.run();
}

template <class T, class W, class S>
void run_cell(const ops::RnnForwardArgs& a) {
  switch (a.shape.cell) {
    case CellKind::kTanh:
      return run<CellKind::kTanh, T, W, S, false>(a);
    case CellKind::kRelu:
      return run<CellKind::kRelu, T, W, S, false>(a);
    case CellKind::kGru:
      return run<CellKind::kGru, T, W, S, false>(a);
    case CellKind::kLstm:
      if (a.weights.peepholes != nullptr) return run<CellKind::kLstm, T, W, S, true>(a);
      return run<CellKind::kLstm, T, W, S, false>(a);
  }
}

template <class L, class T, class W>
void pack_layout(const ops::RnnPackArgs& p) {
  const int64_t blocks = (p.units + L::kUnits - 1) / L::kUnits;
  *p.bytes = blocks * panel_rows<W>(p.depth) * kPanelWidth<L> * static_cast<int64_t>(sizeof(W));
  if (p.memory != nullptr)
    pack_weight<L>(static_cast<const T*>(p.weight), p.units, p.depth, static_cast<W*>(p.memory));
}

template <class T, class W>
void pack_cell(const ops::RnnPackArgs& p) {
  switch (ops::gate_count(p.cell)) {
    case 4:
      return pack_layout<Layout<CellKind::kLstm>, T, W>(p);
    case 3:
      return pack_layout<Layout<CellKind::kGru>, T, W>(p);
    default:
      return pack_layout<Layout<CellKind::kTanh>, T, W>(p);
  }
}

#if defined(__AVX512BF16__)
using Bf16Word = uint32_t;
using Bf16State = bf16;
#else
using Bf16Word = float;
using Bf16State = float;
#endif

// Lets the layer above go on, however this one ends.
struct Finished {
  int64_t* done;
  ~Finished() {
    if (done != nullptr) __atomic_store_n(done, INT64_MAX, __ATOMIC_RELEASE);
  }
};

}  // namespace

void rnn_forward(const ops::RnnForwardArgs& a) {
  const Finished finished{a.done};
  if (a.shape.dtype == DType::kFloat32) return run_cell<float, float, float>(a);
  if (a.shape.dtype == DType::kFloat16) return run_cell<f16, float, float>(a);
  run_cell<bf16, Bf16Word, Bf16State>(a);
}

void rnn_pack(const ops::RnnPackArgs& p) {
  if (p.dtype == DType::kFloat32) return pack_cell<float, float>(p);
  if (p.dtype == DType::kFloat16) return pack_cell<f16, float>(p);
  pack_cell<bf16, Bf16Word>(p);
}

// Chained layers run as a wave: thread r has every size-th layer, each kWaveRows behind the one
// below. Others run side by side.
void rnn_forward_many(const ops::RnnManyArgs& m) {
  if (!m.chained) {
    cpu::parallel_for(m.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) rnn_forward(m.runs[i]);
    });
    return;
  }
  cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier&) {
    for (int i = rank; i < m.count; i += size) rnn_forward(m.runs[i]);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
