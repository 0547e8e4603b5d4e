// SPDX-License-Identifier: Apache-2.0
// Backward recurrence on the CPU.
//
// Step by step backwards, dh = dy + (gradients of the next step's gates) w_hh, and the cell's
// equations turn dh into this step's gate gradients while the tile is in registers; the biases'
// gradients are summed there too, for each group of rows. All weight gradients and dx then come
// from a few large products over all steps at once, which read the gate gradients as they lie.
#include "cpu/gemm.h"
#include "cpu/gemm_pack.h"
#include "ops/rnn/rnn_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int kUnitVecs = 4;
constexpr int64_t kUnits = static_cast<int64_t>(kUnitVecs) * kLanes;  // of a panel
constexpr int kRows = kTileRegisters / kUnitVecs;

// panel[k][unit] = w[k][first + unit], k over all gates.
template <class T>
void pack_floats(const T* w, int64_t rows, int64_t units, int64_t first, float* panel) {
  for (int64_t k = 0; k < rows; ++k)
    for (int v = 0; v < kUnitVecs; ++v) {
      const int64_t unit = first + v * kLanes;
      const int count = static_cast<int>(unit >= units ? 0 : min<int64_t>(kLanes, units - unit));
      store(panel + k * kUnits + v * kLanes,
            count > 0 ? get(w + k * units + unit, count) : VecF::zero());
    }
}

// T: storage of the arrays. W: packed weights (float, or pairs of bf16). S: the gate gradients that
// are multiplied (float, or bf16 with pairs).
template <CellKind kKind, class T, class W, class S, bool kPeepholes>
struct Backward {
  static constexpr int64_t kGates = ops::gate_count(kKind);
  // Biases whose gradients differ: the GRU's n gate has two.
  static constexpr int64_t kBiases = kKind == CellKind::kGru ? 4 : kGates;

  const ops::RnnBackwardArgs& a;
  const int64_t B, H;
  Schedule schedule;
  const W* panels;  // [blocks][rows of G H][kUnits]
  int64_t blocks;
  const float* peepholes;  // [3, H]
  S* gates[2];             // [B, G H], by step parity: gradients that the product with w_hh takes
  int64_t ld_gates;        // between rows of `gates`: no power of two
  float* carry;            // [B, H]: what reaches h besides the product: dh_n at first; GRU
  float* cell;             // [B, H]: dc
  bool far;                // the weights come from beyond L2 for a few rows only
  T* gates_x;              // [T, B, G H]: gradients of x w_ih^T + b_ih
  T* gates_h;              // [T, B, G H]: of h w_hh^T + b_hh; the same memory unless GRU
  float* biases;           // [groups of rows][kBiases H]: sums of gate gradients over the steps

  // The state before step s of a sequence.
  SEQLOOM_ALWAYS_INLINE const T* before(const void* sequence_states, const void* first, int64_t b,
                                        int64_t s) const {
    if (s == 0) return first == nullptr ? nullptr : static_cast<const T*>(first) + b * H;
    return static_cast<const T*>(sequence_states) + (schedule.time(b, s - 1) * B + b) * H;
  }

  // What the equations of a tile will read lies far away, row by row: on its way during the
  // product.
  template <int MR>
  SEQLOOM_ALWAYS_INLINE void fetch(int64_t s, int64_t row, int64_t unit0) const {
    const auto& f = a.forward;
    for (int i = 0; i < MR; ++i) {
      const int64_t slot = schedule.slot(row + i, s);
      for (int v = 0; v < kUnitVecs; ++v) {
        const int64_t unit = unit0 + v * kLanes;
        if (unit >= H) break;
        if (ops::saved_count(kKind) > 0)
          for (int64_t k = 0; k < 4; ++k) __builtin_prefetch(f.saved + (slot * 4 + k) * H + unit);
        if (kKind == CellKind::kLstm) __builtin_prefetch(f.cells + slot * H + unit);
        if (a.dy != nullptr) __builtin_prefetch(static_cast<const T*>(a.dy) + slot * H + unit);
        for (int64_t k = 0; k < kGates; ++k)
          __builtin_prefetch(gates_x + (slot * kGates + k) * H + unit, 1);
      }
    }
  }

  template <int MR>
  void tile(int64_t s, int64_t row, int64_t group, int64_t block, bool product) {
    const int64_t unit0 = block * kUnits;
    if (s >= 0) fetch<MR>(s, row, unit0);
    Tile<MR, kUnitVecs> acc;
    tile_zero(acc);
    if (product) {
      const W* panel = panels + block * panel_rows<W>(kGates * H) * kUnits;
      multiply<MR, kUnitVecs>(far, kGates * H, gates[(s + 1) & 1] + row * ld_gates, ld_gates, panel,
                              acc);
    }
    alignas(64) float sums[MR * kUnits];
    tile_spill(acc, sums);
    for (int v = 0; v < kUnitVecs; ++v) {
      const int64_t unit = unit0 + v * kLanes;
      if (unit >= H) break;
      const int count = static_cast<int>(min<int64_t>(kLanes, H - unit));
      VecF bias[kBiases];
      for (int64_t k = 0; k < kBiases; ++k) bias[k] = VecF::zero();
      for (int i = 0; i < MR; ++i)
        pointwise(load(sums + i * kUnits + v * kLanes), row + i, s, unit, count, bias);
      if (s < 0) continue;
      float* total = biases + group * kBiases * H + unit;
      for (int64_t k = 0; k < kBiases; ++k)
        put(total + k * H, get(total + k * H, count) + bias[k], count);
    }
  }

  SEQLOOM_ALWAYS_INLINE void pointwise(VecF dh, int64_t r, int64_t s, int64_t unit, int count,
                                       VecF* bias) {
    const int64_t b = schedule.sequence(r), at = r * H + unit;
    // Only the GRU adds to it at every step.
    if (kKind == CellKind::kGru || s + 1 == schedule.length(b)) dh += get(carry + at, count);
    if (s < 0) {  // what has reached the initial state
      put(static_cast<T*>(a.dh0) + b * H + unit, dh, count);
      return;
    }
    const int64_t slot = schedule.time(b, s) * B + b;
    const auto& f = a.forward;
    if (a.dy != nullptr) dh += get(static_cast<const T*>(a.dy) + slot * H + unit, count);
    S* now = gates[s & 1] + r * ld_gates + unit;
    T* out_x = gates_x + slot * kGates * H + unit;
    const float* saved = f.saved + slot * 4 * H + unit;
    if constexpr (kKind == CellKind::kLstm) {
      ops::LstmGates<VecF> g{get(saved, count), get(saved + H, count), get(saved + 2 * H, count),
                             get(saved + 3 * H, count)};
      ops::Peepholes<VecF> p{};
      if (kPeepholes)
        p = {get(peepholes + unit, count), get(peepholes + H + unit, count),
             get(peepholes + 2 * H + unit, count)};
      VecF c = VecF::zero();
      if (s > 0) {
        c = get(f.cells + (schedule.time(b, s - 1) * B + b) * H + unit, count);
      } else if (f.c0 != nullptr) {
        c = get(static_cast<const T*>(f.c0) + b * H + unit, count);
      }
      const VecF c_new = get(f.cells + slot * H + unit, count);
      VecF dc;
      ops::lstm_backward<GateMath, kPeepholes>(g, p, c, c_new, dh, get(cell + at, count), dc);
      put(cell + at, dc, count);
      const VecF d[4] = {g.i, g.f, g.g, g.o};
      for (int64_t k = 0; k < 4; ++k) {
        put(now + k * H, d[k], count);
        put(out_x + k * H, d[k], count);
        bias[k] += d[k];
      }
    } else if constexpr (kKind == CellKind::kGru) {
      ops::GruGates<VecF> g{get(saved, count), get(saved + H, count), get(saved + 2 * H, count),
                            get(saved + 3 * H, count)};
      const T* h_before = before(f.y, f.h0, b, s);
      const VecF h = h_before != nullptr ? get(h_before + unit, count) : VecF::zero();
      VecF direct;
      ops::gru_backward<GateMath>(g, h, dh, direct);
      put(carry + at, direct, count);
      const VecF dx[3] = {g.r, g.z, g.n}, dq[3] = {g.r, g.z, g.q};
      T* out_h = gates_h + slot * kGates * H + unit;
      bias[3] += g.q;
      for (int64_t k = 0; k < 3; ++k) {
        put(now + k * H, dq[k], count);
        put(out_x + k * H, dx[k], count);
        put(out_h + k * H, dq[k], count);
        bias[k] += dx[k];
      }
    } else {
      const VecF h = f.saved != nullptr ? get(f.saved + slot * H + unit, count)
                                        : get(static_cast<const T*>(f.y) + slot * H + unit, count);
      const VecF d = ops::plain_backward<CellMath, kKind == CellKind::kRelu>(h, dh);
      put(now, d, count);
      put(out_x, d, count);
      bias[0] += d;
    }
  }

  void step(int64_t s, const Share& share) {
    const int64_t rows = s < 0 ? B : schedule.active(s);
    const Groups groups(rows, kRows);
    const int64_t last_block = share.last_block(blocks);
    const bool product = s + 1 < schedule.longest();
    const int64_t first_block = share.first_block(blocks);
    for (int64_t i = first_block; i < last_block; ++i) {
      const int64_t block = there_and_back(s + 1, i, first_block, last_block);
      for (int64_t g = share.first_group(); g < groups.count; g += share.group_step()) {
        const int64_t row = groups.begin(g);
        with_rows<kRows>(groups.begin(g + 1) - row,
                         [&](auto m) { tile<decltype(m)::value>(s, row, g, block, product); });
      }
    }
  }

  void run() {
    const int64_t weight_bytes = blocks * panel_rows<W>(kGates * H) * kUnits * 4;
    const int64_t groups = (B + kRows - 1) / kRows, longest = schedule.longest();
    if (!ops::rnn_shares_steps(a.forward.shape) || cpu::num_threads() == 1) {
      const Share alone(0, 1, groups, weight_bytes, false);
      for (int64_t s = longest - 1; s >= -1; --s) step(s, alone);
      return;
    }
    cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
      const Share share(rank, size, groups, weight_bytes, schedule.order != nullptr);
      for (int64_t s = longest - 1; s >= -1; --s) {
        step(s, share);
        if (!share.by_rows) barrier.wait();
      }
    });
  }
};

// The gradients of the biases: sums over the groups of rows of what each has summed over the steps.
template <CellKind kKind>
void bias_gradients(const ops::RnnBackwardArgs& a, const float* biases, int64_t groups) {
  constexpr bool kTwo = kKind == CellKind::kGru;
  constexpr int64_t kGates = ops::gate_count(kKind), kBiases = kTwo ? 4 : kGates;
  const int64_t H = a.forward.shape.units, size = kBiases * H;
  for (int64_t j = 0; j < size; ++j) {
    float sum = 0.0f;
    for (int64_t g = 0; g < groups; ++g) sum += biases[g * size + j];
    // r, z, n with x, n with h in the GRU.
    if (a.db_ih != nullptr && j < kGates * H) a.db_ih[j] = sum;
    if (a.db_hh != nullptr && (!kTwo || j < 2 * H)) a.db_hh[j] = sum;
    if (a.db_hh != nullptr && kTwo && j >= 3 * H) a.db_hh[j - H] = sum;
  }
}

// dpeepholes = sums over steps of di c, df c, do c'.
template <class T>
void peephole_gradients(const ops::RnnBackwardArgs& a, const Schedule& schedule, const T* gates) {
  const int64_t B = schedule.batch, H = a.forward.shape.units;
  cpu::parallel_for((H + kLanes - 1) / kLanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t unit = v * kLanes;
      const int count = static_cast<int>(min<int64_t>(kLanes, H - unit));
      VecF pi = VecF::zero(), pf = pi, po = pi;
      for (int64_t b = 0; b < B; ++b)
        for (int64_t s = 0; s < schedule.length(b); ++s) {
          const int64_t slot = schedule.time(b, s) * B + b;
          const T* g = gates + slot * 4 * H + unit;
          VecF c = VecF::zero();
          if (s > 0) {
            c = get(a.forward.cells + (schedule.time(b, s - 1) * B + b) * H + unit, count);
          } else if (a.forward.c0 != nullptr) {
            c = get(static_cast<const T*>(a.forward.c0) + b * H + unit, count);
          }
          pi = fma(get(g, count), c, pi);
          pf = fma(get(g + H, count), c, pf);
          po = fma(get(g + 3 * H, count), get(a.forward.cells + slot * H + unit, count), po);
        }
      put(a.dpeepholes + unit, pi, count);
      put(a.dpeepholes + H + unit, pf, count);
      put(a.dpeepholes + 2 * H + unit, po, count);
    }
  });
}

// c = a^T b (+ c), [m, n] from k rows.
template <class T>
void add_outer(const T* a, int64_t lda, const T* b, int64_t ldb, void* c, int64_t m, int64_t n,
               int64_t k, DType dtype, float beta) {
  cpu::GemmArgs g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a = a;
  g.lda = lda;
  g.trans_a = true;
  g.b = b;
  g.ldb = ldb;
  g.c = c;
  g.ldc = n;
  g.a_type = g.b_type = g.c_type = dtype;
  g.beta = beta;
  cpu::gemm(g);
}

// dw_hh = sum over steps of (gate gradients)^T (state before the step): the outputs shifted by one
// step, and h0 for every sequence's first step.
template <class T>
void recurrent_weight_gradient(const ops::RnnBackwardArgs& a, const Schedule& schedule,
                               const T* gates_h) {
  const auto& f = a.forward;
  const int64_t steps = schedule.steps, B = schedule.batch, H = f.shape.units;
  const int64_t G = ops::gate_count(f.shape.cell) * H;
  const T* y = static_cast<const T*>(f.y);
  const int64_t shifted = (steps - 1) * B;
  float beta = 0.0f;
  if (shifted > 0) {
    const T* from = schedule.reverse ? gates_h : gates_h + B * G;
    const T* states = schedule.reverse ? y + B * H : y;
    add_outer(from, G, states, H, a.dw_hh, G, H, shifted, f.shape.dtype, 0.0f);
    beta = 1.0f;
  }
  if (f.h0 == nullptr) {
    if (beta == 0.0f) __builtin_memset(a.dw_hh, 0, static_cast<size_t>(G * H) * sizeof(T));
    return;
  }
  // Row b of the gathered gradients is that of the first step run; empty sequences give nothing.
  cpu::Scratch scratch(static_cast<size_t>(B * G) * sizeof(T));
  T* first = scratch.as<T>();
  for (int64_t b = 0; b < B; ++b) {
    T* to = first + b * G;
    if (schedule.length(b) == 0) {
      __builtin_memset(static_cast<void*>(to), 0, static_cast<size_t>(G) * sizeof(T));
      continue;
    }
    __builtin_memcpy(static_cast<void*>(to), gates_h + (schedule.time(b, 0) * B + b) * G,
                     static_cast<size_t>(G) * sizeof(T));
  }
  add_outer(first, G, static_cast<const T*>(f.h0), H, a.dw_hh, G, H, B, f.shape.dtype, beta);
}

template <class T>
void load_rows(const void* source, const Schedule& schedule, int64_t H, float* to) {
  for (int64_t r = 0; r < schedule.batch; ++r) {
    const T* from =
        source == nullptr ? nullptr : static_cast<const T*>(source) + schedule.sequence(r) * H;
    for (int64_t u = 0; u < H; u += kLanes) {
      const int count = static_cast<int>(min<int64_t>(kLanes, H - u));
      put(to + r * H + u, from != nullptr ? get(from + u, count) : VecF::zero(), count);
    }
  }
}

constexpr int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

template <CellKind kKind, class T, class W, class S, bool kPeepholes>
void run(const ops::RnnBackwardArgs& a) {
  const auto& f = a.forward;
  const int64_t steps = f.shape.steps, B = f.shape.batch, I = f.shape.inputs, H = f.shape.units;
  constexpr int64_t kGates = ops::gate_count(kKind);
  constexpr bool kTwo = kKind == CellKind::kGru;
  const int64_t G = kGates * H, slots = steps * B;
  const bool ragged = f.shape.lengths != nullptr;
  const int64_t blocks = (H + kUnits - 1) / kUnits;

  const int64_t panel_size = panel_rows<W>(G) * kUnits;
  const int64_t panel_bytes = align64(blocks * panel_size * static_cast<int64_t>(sizeof(W)));
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t ld_gates = ((G + kLine - 1) / kLine | 1) * kLine;
  const int64_t step_bytes = B * ld_gates * static_cast<int64_t>(sizeof(S)),
                state_bytes = align64(B * H * 4);
  const int64_t all_bytes = align64(slots * G * static_cast<int64_t>(sizeof(T)));
  const int64_t peep_bytes = align64(3 * H * 4);
  const int64_t groups = (B + kRows - 1) / kRows;
  const int64_t bias_bytes = align64(groups * (kTwo ? 4 : kGates) * H * 4);
  const int64_t order_bytes = align64(ragged ? (B + steps + 2) * 8 : 0);
  cpu::Scratch scratch(static_cast<size_t>(panel_bytes + 2 * step_bytes + 2 * state_bytes +
                                           (kTwo ? 2 : 1) * all_bytes + peep_bytes + bias_bytes +
                                           order_bytes));
  char* at = scratch.as<char>();
  const auto take = [&at](int64_t bytes) {
    char* p = at;
    at += bytes;
    return static_cast<void*>(p);
  };
  W* panels = static_cast<W*>(take(panel_bytes));
  S* gates0 = static_cast<S*>(take(step_bytes));
  S* gates1 = static_cast<S*>(take(step_bytes));
  float* carry = static_cast<float*>(take(state_bytes));
  float* cell = static_cast<float*>(take(state_bytes));
  T* gates_x = static_cast<T*>(take(all_bytes));
  T* gates_h = kTwo ? static_cast<T*>(take(all_bytes)) : gates_x;
  float* peepholes = static_cast<float*>(take(peep_bytes));
  float* biases = static_cast<float*>(take(bias_bytes));
  __builtin_memset(biases, 0, static_cast<size_t>(bias_bytes));
  int64_t* order = static_cast<int64_t*>(take(order_bytes));

  Schedule schedule{steps, B, f.shape.lengths, ragged ? order : nullptr, f.shape.reverse};
  if (ragged) {
    sort_by_length(f.shape.lengths, B, steps, order, order + B);
    // Sequences that have not begun yet, seen backwards, feed zeros to the product; their slots
    // past the length stay zero in the sums.
    __builtin_memset(static_cast<void*>(gates0), 0, static_cast<size_t>(2 * step_bytes));
    __builtin_memset(static_cast<void*>(gates_x), 0, static_cast<size_t>(slots * G) * sizeof(T));
    if (kTwo)
      __builtin_memset(static_cast<void*>(gates_h), 0, static_cast<size_t>(slots * G) * sizeof(T));
  }

  const T* w_hh = static_cast<const T*>(f.weights.w_hh);
  cpu::parallel_for(blocks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kUnits;
      if constexpr (kPairWords<W>)
        pack_pairs_by_rows(w_hh + first, H, G, min(kUnits, H - first), kUnits,
                           panels + p * panel_size);
      else
        pack_floats(w_hh, G, H, first, panels + p * panel_size);
    }
  });
  if (kPeepholes)
    for (int64_t j = 0; j < 3 * H; ++j)
      peepholes[j] = seqloom::to_float(static_cast<const T*>(f.weights.peepholes)[j]);
  load_rows<T>(a.dh_n, schedule, H, carry);
  if (kKind == CellKind::kLstm) load_rows<T>(a.dc_n, schedule, H, cell);

  Backward<kKind, T, W, S, kPeepholes> backward{
      a,        B,       H,         schedule,
      panels,   blocks,  peepholes, {gates0, gates1},
      ld_gates, carry,   cell,      beyond_l2(panel_bytes, B),
      gates_x,  gates_h, biases};
  backward.run();
  if (kKind == CellKind::kLstm)
    for (int64_t r = 0; r < B; ++r)
      for (int64_t u = 0; u < H; u += kLanes) {
        const int count = static_cast<int>(min<int64_t>(kLanes, H - u));
        put(static_cast<T*>(a.dc0) + schedule.sequence(r) * H + u, get(cell + r * H + u, count),
            count);
      }

  const DType dtype = f.shape.dtype;
  if (a.dw_ih != nullptr)
    add_outer(gates_x, G, static_cast<const T*>(f.x), I, a.dw_ih, G, I, slots, dtype, 0.0f);
  if (a.dw_hh != nullptr) recurrent_weight_gradient(a, schedule, gates_h);
  if (a.dx != nullptr) {
    cpu::GemmArgs g;
    g.m = slots;
    g.n = I;
    g.k = G;
    g.a = gates_x;
    g.lda = G;
    g.b = f.weights.w_ih;
    g.ldb = I;
    g.c = a.dx;
    g.ldc = I;
    g.a_type = g.b_type = g.c_type = dtype;
    cpu::gemm(g);
  }
  if (a.db_ih != nullptr || a.db_hh != nullptr) bias_gradients<kKind>(a, biases, groups);
  if (kPeepholes && a.dpeepholes != nullptr) peephole_gradients(a, schedule, gates_x);
}

template <class T, class W, class S>
void run_cell(const ops::RnnBackwardArgs& a) {
  switch (a.forward.shape.cell) {
    case CellKind::kTanh:
      return run<CellKind::kTanh, T, W, S, false>(a);
    case CellKind::kRelu:
      return run<CellKind::kRelu, T, W, S, false>(a);
    case CellKind::kGru:
      return run<CellKind::kGru, T, W, S, false>(a);
    case CellKind::kLstm:
      if (a.forward.weights.peepholes != nullptr) return run<CellKind::kLstm, T, W, S, true>(a);
      return run<CellKind::kLstm, T, W, S, false>(a);
  }
}

}  // namespace

void rnn_backward(const ops::RnnBackwardArgs& a) {
  const DType dtype = a.forward.shape.dtype;
  if (dtype == DType::kFloat32) return run_cell<float, float, float>(a);
  if (dtype == DType::kFloat16) return run_cell<f16, float, float>(a);
#if defined(__AVX512BF16__)
  run_cell<bf16, uint32_t, bf16>(a);
#else
  run_cell<bf16, float, float>(a);
#endif
}

void rnn_backward_many(const ops::RnnManyBackwardArgs& m) {
  cpu::parallel_for(m.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) rnn_backward(m.runs[i]);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
