// SPDX-License-Identifier: Apache-2.0
// Forward recurrence on the CPU.
//
// The input's share of all gates, x w_ih^T + b, is one matrix product for a stretch of steps that
// fits in L2; the recurrent weights are packed once and stay in cache over all steps. A tile of
// gates never leaves the registers between the product with h and the new state (rnn_cpu.h).
#include "core/allocator.h"
#include "cpu/gemm.h"
#include "ops/rnn/rnn_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kProjectionBytes = 512 << 10;  // of x w_ih^T at a time

// One cell's tile: kGates vectors of pre-activations for each of kUnitVecs vectors of units.
template <CellKind kKind>
struct Layout {
  static constexpr int kGates = ops::gate_count(kKind);
  static constexpr int kUnitVecs = kGates == 1 ? 4 : 1;
  static constexpr int kVecs = kGates * kUnitVecs;
  static constexpr int kRows = kTileRegisters / kVecs;
  static constexpr int64_t kUnits = static_cast<int64_t>(kUnitVecs) * kLanes;  // of a panel
};

// Elements of W for one k (or one pair of k) of a panel.
template <class L>
constexpr int64_t kPanelWidth = L::kVecs * static_cast<int64_t>(kLanes);

// Words of W hold two bf16; panels of float hold widened weights, whatever their storage was.
template <class W>
constexpr bool kPairWords = false;
template <>
constexpr bool kPairWords<uint32_t> = true;

// panel[k][gate][unit] = w[gate H + unit][k], zero past the last unit; bf16: pairs of k in a word.
template <class L, class T, class W>
void pack_panel(const T* w, int64_t units, int64_t first, W* panel) {
  constexpr int64_t width = kPanelWidth<L>;
  constexpr int64_t pair = kPairWords<W> ? 2 : 1;
  const int64_t rows = (units + pair - 1) / pair;
  for (int g = 0; g < L::kGates; ++g) {
    for (int64_t u0 = 0; u0 < L::kUnits; u0 += kLanes) {
      const int64_t unit = first + u0;
      const int live = static_cast<int>(unit >= units ? 0 : min<int64_t>(kLanes, units - unit));
      W* column = panel + g * L::kUnits + u0;
      const T* source = w + (g * units + unit) * units;
      if constexpr (pair == 2) {
        for (int64_t k = 0; k < rows; ++k)
          for (int l = 0; l < kLanes; ++l) {
            uint32_t word = 0;
            if (l < live) {
              word = source[l * units + 2 * k].bits;
              if (2 * k + 1 < units)
                word |= static_cast<uint32_t>(source[l * units + 2 * k + 1].bits) << 16;
            }
            column[k * width + l] = word;
          }
      } else {
        for (int64_t k = 0; k < units; k += kLanes) {  // kLanes x kLanes blocks, transposed
          const int count = static_cast<int>(min<int64_t>(kLanes, units - k));
          VecF block[kLanes];
          for (int l = 0; l < kLanes; ++l)
            block[l] = l < live ? get(source + l * units + k, count) : VecF::zero();
          transpose(block);
          for (int j = 0; j < count; ++j) store(column + (k + j) * width, block[j]);
        }
      }
    }
  }
}

// T: storage of x, y and the states. W: packed weights (float, or pairs of bf16). S: the state that
// is multiplied (float, or bf16 with pairs).
template <CellKind kKind, class T, class W, class S, bool kPeepholes>
struct Forward {
  using L = Layout<kKind>;

  const ops::RnnForwardArgs& a;
  const int64_t T_, B, H;
  Schedule schedule;
  const W* panels;     // [blocks][K][kPanelWidth]
  int64_t panel_size;  // elements
  int64_t blocks;
  const float* gates_x;  // rows of G H: x w_ih^T + b_ih (+ b_hh) for times [time0, ...)
  int64_t time0 = 0;
  const float* b_n;        // [H]: the n gate's recurrent bias (GRU)
  const float* peepholes;  // [3, H]
  S* state[2];             // [B, H], by step parity
  float* h32;   // [B, H]: the state in float32 when S is narrower (GRU needs it); else null
  float* cell;  // [B, H]: c

  static constexpr int kKPerRow = sizeof(W) == 4 && sizeof(S) == 2 ? 2 : 1;

  template <int MR>
  void tile(int64_t s, int64_t row, int64_t block) {
    const int64_t unit0 = block * L::kUnits;
    const S* h = state[s & 1] + row * H;
    Tile<MR, L::kVecs> acc;
    tile_zero(acc);
    const W* panel = panels + block * panel_size;
    tile_multiply<MR, L::kVecs, false>(H, h, H, panel, kPanelWidth<L>, kLanes,
                                       rows_ahead(panel, kPanelWidth<L>), acc);
    alignas(64) float products[MR * L::kVecs * kLanes];
    tile_spill(acc, products);
    for (int i = 0; i < MR; ++i) {
      const int64_t r = row + i, b = schedule.sequence(r), t = schedule.time(b, s);
      const float* gx = gates_x + ((t - time0) * B + b) * L::kGates * H;
      const bool last = s + 1 == schedule.length(b);
      for (int v = 0; v < L::kUnitVecs; ++v) {
        const int64_t unit = unit0 + v * kLanes;
        if (unit >= H) break;
        const int count = static_cast<int>(min<int64_t>(kLanes, H - unit));
        pointwise(products + (i * L::kVecs + v) * kLanes, gx + unit, r, b, t, s, unit, count, last);
      }
    }
  }

  // `product`: this vector's gates, kLanes apart (one gate for the plain cells).
  SEQLOOM_ALWAYS_INLINE void pointwise(const float* product, const float* gx, int64_t r, int64_t b,
                                       int64_t t, int64_t s, int64_t unit, int count, bool last) {
    const int64_t at = r * H + unit, out = (t * B + b) * H + unit;
    VecF h_new;
    if constexpr (kKind == CellKind::kLstm) {
      ops::LstmGates<VecF> g{load(product) + get(gx, count),
                             load(product + kLanes) + get(gx + H, count),
                             load(product + 2 * kLanes) + get(gx + 2 * H, count),
                             load(product + 3 * kLanes) + get(gx + 3 * H, count)};
      ops::Peepholes<VecF> p{};
      if (kPeepholes)
        p = {get(peepholes + unit, count), get(peepholes + H + unit, count),
             get(peepholes + 2 * H + unit, count)};
      VecF c_new;
      ops::lstm_forward<CellMath, kPeepholes>(g, p, get(cell + at, count), c_new, h_new);
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
      ops::GruGates<VecF> g{load(product) + get(gx, count),
                            load(product + kLanes) + get(gx + H, count), get(gx + 2 * H, count), q};
      const VecF h = h32 != nullptr ? get(h32 + at, count) : get(state[s & 1] + at, count);
      ops::gru_forward<CellMath>(g, h, h_new);
      if (h32 != nullptr) put(h32 + at, h_new, count);
      if (a.saved != nullptr) {
        float* keep = a.saved + (t * B + b) * 4 * H + unit;
        put(keep, g.r, count);
        put(keep + H, g.z, count);
        put(keep + 2 * H, g.n, count);
        put(keep + 3 * H, g.q, count);
      }
    } else {
      h_new =
          ops::plain_forward<CellMath, kKind == CellKind::kRelu>(load(product) + get(gx, count));
      if (a.saved != nullptr) put(a.saved + out, h_new, count);
    }
    put(state[(s + 1) & 1] + at, h_new, count);
    put(static_cast<T*>(a.y) + out, h_new, count);
    if (last) put(static_cast<T*>(a.h_n) + b * H + unit, h_new, count);
  }

  void step(int64_t s, const Share& share) {
    const int64_t rows = schedule.active(s);
    const Groups groups(rows, L::kRows);
    const int64_t last_block = share.last_block(blocks);
    for (int64_t block = share.first_block(blocks); block < last_block; ++block)
      for (int64_t g = share.first_group(); g < groups.count; g += share.group_step()) {
        const int64_t row = groups.begin(g);
        with_rows<L::kRows>(groups.begin(g + 1) - row,
                            [&](auto m) { tile<decltype(m)::value>(s, row, block); });
      }
  }

  void steps(int64_t first, int64_t last) {
    const int64_t weight_bytes = blocks * panel_size * static_cast<int64_t>(sizeof(W));
    const int64_t groups = (B + L::kRows - 1) / L::kRows;
    if (B * L::kGates * H * H < kTeamWork || cpu::num_threads() == 1) {
      const Share alone(0, 1, groups, weight_bytes, false);
      for (int64_t s = first; s < last; ++s) step(s, alone);
      return;
    }
    cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
      const Share share(rank, size, groups, weight_bytes, schedule.order != nullptr);
      for (int64_t s = first; s < last; ++s) {
        step(s, share);
        if (!share.by_rows) barrier.wait();
      }
    });
  }
};

// The biases that belong to x w_ih^T: b_ih, and b_hh except the GRU's n gate.
template <class T>
void input_bias(const ops::RnnForwardArgs& a, float* bias, float* b_n) {
  const int64_t H = a.shape.units, G = ops::gate_count(a.shape.cell);
  const T* b_ih = static_cast<const T*>(a.weights.b_ih);
  const T* b_hh = static_cast<const T*>(a.weights.b_hh);
  const bool gru = a.shape.cell == CellKind::kGru;
  for (int64_t j = 0; j < G * H; ++j) {
    const float from_h = b_hh != nullptr ? seqloom::to_float(b_hh[j]) : 0.0f;
    const bool apart = gru && j >= 2 * H;
    bias[j] = (b_ih != nullptr ? seqloom::to_float(b_ih[j]) : 0.0f) + (apart ? 0.0f : from_h);
    if (apart) b_n[j - 2 * H] = from_h;
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
  constexpr int64_t G = L::kGates;
  const bool ragged = a.shape.lengths != nullptr;

  // Times whose projections are made together. A reversed ragged batch starts anywhere: all at
  // once.
  const int64_t row_bytes = B * G * H * static_cast<int64_t>(sizeof(float));
  const int64_t stretch =
      ragged && a.shape.reverse
          ? steps
          : min(steps, max<int64_t>(1, kProjectionBytes / max<int64_t>(1, row_bytes)));
  const int64_t blocks = (H + L::kUnits - 1) / L::kUnits;
  const int64_t k_rows = F::kKPerRow == 2 ? (H + 1) / 2 : H;
  const int64_t panel_size = k_rows * kPanelWidth<L>;

  // One scratch block, cut up.
  const int64_t panel_bytes = align64(blocks * panel_size * static_cast<int64_t>(sizeof(W)));
  const int64_t gates_bytes = align64(stretch * row_bytes);
  const int64_t state_bytes = align64(B * H * static_cast<int64_t>(sizeof(S)));
  const int64_t float_bytes = align64(B * H * 4);
  const int64_t bias_bytes = align64((G + 1) * H * 4), peep_bytes = align64(3 * H * 4);
  const int64_t order_bytes = align64(ragged ? (B + steps + 2) * 8 : 0);
  cpu::Scratch scratch(static_cast<size_t>(panel_bytes + gates_bytes + 2 * state_bytes +
                                           2 * float_bytes + bias_bytes + peep_bytes +
                                           order_bytes));
  char* at = scratch.as<char>();
  const auto take = [&at](int64_t bytes) {
    char* p = at;
    at += bytes;
    return static_cast<void*>(p);
  };
  W* panels = static_cast<W*>(take(panel_bytes));
  float* gates_x = static_cast<float*>(take(gates_bytes));
  S* state0 = static_cast<S*>(take(state_bytes));
  S* state1 = static_cast<S*>(take(state_bytes));
  float* cell = static_cast<float*>(take(float_bytes));
  float* h32 = static_cast<float*>(take(float_bytes));
  float* bias = static_cast<float*>(take(bias_bytes));
  float* peepholes = static_cast<float*>(take(peep_bytes));
  int64_t* order = static_cast<int64_t*>(take(order_bytes));

  Schedule schedule{steps, B, a.shape.lengths, ragged ? order : nullptr, a.shape.reverse};
  if (ragged) sort_by_length(a.shape.lengths, B, steps, order, order + B);

  const T* w_hh = static_cast<const T*>(a.weights.w_hh);
  cpu::parallel_for(blocks, max<int64_t>(1, 65536 / max<int64_t>(1, panel_size)),
                    [=](int64_t begin, int64_t end) {
                      for (int64_t p = begin; p < end; ++p)
                        pack_panel<L>(w_hh, H, p * L::kUnits, panels + p * panel_size);
                    });
  input_bias<T>(a, bias, bias + G * H);
  if (kPeepholes)
    for (int64_t j = 0; j < 3 * H; ++j)
      peepholes[j] = seqloom::to_float(static_cast<const T*>(a.weights.peepholes)[j]);
  load_state<T>(a.h0, schedule, H, state0);
  if (kKind == CellKind::kLstm) load_state<T>(a.c0, schedule, H, cell);
  constexpr bool kNeedsH32 = kKind == CellKind::kGru && sizeof(S) == 2;
  if (kNeedsH32) load_state<T>(a.h0, schedule, H, h32);
  fill_unused<T>(a, schedule);

  F forward{a,
            steps,
            B,
            H,
            schedule,
            panels,
            panel_size,
            blocks,
            gates_x,
            0,
            kKind == CellKind::kGru ? bias + G * H : nullptr,
            peepholes,
            {state0, state1},
            kNeedsH32 ? h32 : nullptr,
            cell};

  const int64_t longest = schedule.longest();
  // The input weights are packed once when several stretches share them.
  cpu::PackedMatrix packed;
  const cpu::PackFormat format = sizeof(T) == 4                      ? cpu::PackFormat::kF32
                                 : a.shape.dtype == DType::kBFloat16 ? cpu::PackFormat::kBF16
                                                                     : cpu::PackFormat::kF16;
  const bool pack = longest > stretch && I > 0;
  cpu::Scratch packed_memory(pack ? cpu::packed_bytes(format, I, G * H) : 0);
  if (pack) {
    cpu::PackArgs args;
    args.format = format;
    args.type = a.shape.dtype;
    args.k = I;
    args.n = G * H;
    args.b = a.weights.w_ih;
    args.ldb = I;
    args.trans_b = true;
    args.memory = packed_memory.as<void>();
    args.out = &packed;
    cpu::pack_b(args);
  }
  cpu::GemmArgs project;
  project.packed_b = pack ? &packed : nullptr;
  project.n = G * H;
  project.k = I;
  project.a_type = a.shape.dtype;
  project.lda = I;
  project.b = a.weights.w_ih;
  project.ldb = I;
  project.trans_b = true;
  project.b_type = a.shape.dtype;
  project.c = gates_x;
  project.ldc = G * H;
  project.bias = bias;
  for (int64_t s = 0; s < longest; s += stretch) {
    const int64_t count = min(stretch, longest - s);
    const int64_t time0 = a.shape.reverse ? (ragged ? 0 : steps - s - count) : s;
    const int64_t times = ragged && a.shape.reverse ? longest : count;
    project.m = times * B;
    project.a = static_cast<const T*>(a.x) + time0 * B * I;
    cpu::gemm(project);
    forward.time0 = time0;
    forward.steps(s, s + count);
  }
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

}  // namespace

void rnn_forward(const ops::RnnForwardArgs& a) {
  if (a.shape.dtype == DType::kFloat32) return run_cell<float, float, float>(a);
  if (a.shape.dtype == DType::kFloat16) return run_cell<f16, float, float>(a);
#if defined(__AVX512BF16__)
  run_cell<bf16, uint32_t, bf16>(a);
#else
  run_cell<bf16, float, float>(a);
#endif
}

}  // namespace seqloom::SEQLOOM_ISA_NS
