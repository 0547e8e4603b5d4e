// SPDX-License-Identifier: Apache-2.0
// Matrix product: choice of path and copies of A. Compiled once per ISA.
//
// A is read row-major and in place. An A of another type is copied once, before; a transposed one
// is packed block by block (gemm_outer.h), or copied where C has few rows. Few rows against a B
// whose lines run along k take the dot-product path, which packs nothing; everything else is the
// blocked product.
#include "cpu/gemm_block.h"
#include "cpu/gemm_dot.h"
#include "cpu/gemm_internal.h"
#include "cpu/gemm_outer.h"
#include "cpu/gemm_plain.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using cpu::PackedMatrix;
using cpu::PackFormat;

constexpr int64_t kDotRows = 12;      // up to here a B [n, k] is read in place
constexpr int64_t kInPlaceRows = 32;  // and a B [k, n]

// -- dot products --------------------------------------------------------------------------------

// Tasks are runs of B's lines, some 256 KB each and a multiple of four in number, so that two or
// four threads have equal shares of a B that only memory bounds.
template <class TA, class TB>
void run_dots(const GemmArgs& g, const TA* a, int64_t lda, int64_t a_batch, const TB* b,
              int64_t ldb, int64_t b_batch) {
  constexpr int64_t kColumns = 128;
  const int64_t bytes = g.n * max<int64_t>(1, g.k) * int64_t{sizeof(TB)};
  const int64_t work = g.m * g.n * max<int64_t>(1, g.k);  // of one product
  const int64_t cuts = max<int64_t>(1, min(4 * ceil_div(bytes, 1 << 20), work / (kTaskWork / 2)));
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kDotRows * kColumns];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t batch = t / cuts, cut = t % cuts;
      const int64_t j1 = cut + 1 < cuts ? (cut + 1) * g.n / cuts / 4 * 4 : g.n;
      for (int64_t j = cut * g.n / cuts / 4 * 4; j < j1; j += kColumns) {
        const int64_t columns = min(kColumns, j1 - j);
        dot_streams(g.m, columns, g.k, a + batch * a_batch, lda, b + batch * b_batch + j * ldb, ldb,
                    sums, kColumns);
        finish_tile(g, batch, 0, g.m, j, columns, sums, kColumns, nullptr, nullptr);
      }
    }
  };
  const int64_t tasks = g.batch * cuts;
  const int64_t grain = ceil_div(kTaskWork / 2 * cuts, work);
  if (tasks <= grain) return run(0, tasks);
  cpu::parallel_for(tasks, grain, run);
}

// -- copies of A ---------------------------------------------------------------------------------

template <class T, class Out>
void copy_rows(const T* in, int64_t ld, bool trans, int64_t i0, int64_t i1, int64_t k, Out* out,
               int64_t ld_out) {
  if (trans) {
    transpose_rows(in + i0, ld, i1 - i0, k, out + i0 * ld_out, ld_out);
  } else if constexpr (sizeof(Out) == sizeof(float)) {
    for (int64_t i = i0; i < i1; ++i) widen_row(in + i * ld, k, out + i * ld_out);
  }
}

// out[batch, m, ld_out] = A as rows of `Out`: float from any type, bfloat16 from bfloat16.
template <class Out>
void copy_a(const GemmArgs& g, int64_t batch, int64_t ld_out, Out* out) {
  constexpr int64_t kRows = 64;
  const int64_t blocks = ceil_div(g.m, kRows);
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t b = t / blocks, i0 = t % blocks * kRows, i1 = min<int64_t>(g.m, i0 + kRows);
      const int64_t from = b * g.a_batch;
      Out* to = out + b * g.m * ld_out;
      if constexpr (sizeof(Out) == sizeof(float)) {
        if (g.a_type == DType::kFloat32) {
          copy_rows(static_cast<const float*>(g.a) + from, g.lda, g.trans_a, i0, i1, g.k, to,
                    ld_out);
          continue;
        }
        if (g.a_type == DType::kFloat16) {
          copy_rows(static_cast<const f16*>(g.a) + from, g.lda, g.trans_a, i0, i1, g.k, to, ld_out);
          continue;
        }
      }
      copy_rows(static_cast<const bf16*>(g.a) + from, g.lda, g.trans_a, i0, i1, g.k, to, ld_out);
    }
  };
  const int64_t tasks = batch * blocks, work = min<int64_t>(g.m, kRows) * g.k;
  const int64_t grain = ceil_div(1 << 15, max<int64_t>(1, work));
  if (tasks <= grain) {
    run(0, tasks);
  } else {
    cpu::parallel_for(tasks, grain, run);
  }
}

constexpr int64_t kCopyBytes = int64_t{96} << 20;

// A, read in place where it is row-major and of type `A`, else a copy.
template <class A>
class Rows {
 public:
  explicit Rows(const GemmArgs& g) : scratch_(copy_bytes(g)) {
    if (in_place(g)) {
      a = static_cast<const A*>(g.a);
      lda = g.lda;
      batch = g.a_batch;
    } else {
      lda = copy_ld(g);
      batch = g.a_batch == 0 ? 0 : g.m * lda;
      copy_a(g, g.a_batch == 0 ? 1 : g.batch, lda, scratch_.template as<A>());
      a = scratch_.template as<A>();
    }
  }

  const A* a;
  int64_t lda, batch;

 private:
  static constexpr DType kType = sizeof(A) == 4 ? DType::kFloat32 : DType::kBFloat16;
  static constexpr int64_t kLine = 64 / sizeof(A);

  static bool in_place(const GemmArgs& g) { return g.a_type == kType && !g.trans_a; }
  // Rows start on cache lines, and not a power of two apart.
  static int64_t copy_ld(const GemmArgs& g) { return (ceil_div(g.k, kLine) | 1) * kLine; }
  static size_t copy_bytes(const GemmArgs& g) {
    if (in_place(g)) return 0;
    return (g.a_batch == 0 ? 1 : g.batch) * g.m * copy_ld(g) * sizeof(A);
  }

  cpu::Scratch scratch_;
};

const void* moved(const void* p, DType type, int64_t elements) {
  return p ? static_cast<const char*>(p) + elements * item_size(type) : nullptr;
}

// One batch entry, or rows [i0, i0 + rows) of a single product.
GemmArgs part_of(const GemmArgs& g, int64_t batch, int64_t i0, int64_t rows) {
  GemmArgs part = g;
  part.batch = 1;
  part.m = rows;
  part.a = moved(g.a, g.a_type, batch * g.a_batch + i0 * (g.trans_a ? 1 : g.lda));
  part.b = moved(g.b, g.b_type, batch * g.b_batch);
  part.c = const_cast<void*>(moved(g.c, g.c_type, batch * g.c_batch + i0 * g.ldc));
  part.residual = moved(g.residual, g.c_type, batch * g.residual_batch + i0 * g.ld_residual);
  part.preact =
      const_cast<void*>(moved(g.preact, g.c_type, batch * g.preact_batch + i0 * g.ld_preact));
  if (g.bias_per_row) part.bias = moved(g.bias, g.bias_type, i0);
  return part;
}

void multiply_quantized(const GemmArgs& g) {
  [[maybe_unused]] const PackedMatrix& b = *g.packed_b;
  const Rows<float> r(g);
#if defined(__AVX512VNNI__)
  // 255 * 127 * k must fit 32 bits.
  if (g.quantize_a && (b.format == PackFormat::kInt4 || g.k <= 1 << 16)) {
    for (int64_t batch = 0; batch < g.batch; ++batch) {
      const QuantizedRows a(b, g.m, g.k, r.a + batch * r.batch, r.lda);
      if (b.format == PackFormat::kInt4) {
        run_int4(g, batch, a);
        continue;
      }
      run_product(part_of(g, batch, 0, g.m), a.bytes(), a.ld(), 0, Feed::kPacked,
                  static_cast<const Quad8*>(b.panels), a.scales());
    }
    return;
  }
#endif
  run_product<float, float>(g, r.a, r.lda, r.batch, Feed::kWiden, nullptr);
}

void multiply_packed(const GemmArgs& g) {
  const PackedMatrix& b = *g.packed_b;
  if (b.format == PackFormat::kInt8 || b.format == PackFormat::kInt4) return multiply_quantized(g);
#if defined(__AVX512BF16__)
  if (b.format == PackFormat::kBF16 && g.a_type == DType::kBFloat16) {
    const Rows<bf16> r(g);
    return run_product(g, r.a, r.lda, r.batch, Feed::kPacked,
                       static_cast<const uint32_t*>(b.panels));
  }
#endif
  const Rows<float> r(g);
  if (b.format == PackFormat::kF32)
    return run_product(g, r.a, r.lda, r.batch, Feed::kPacked, static_cast<const float*>(b.panels));
  if (b.format == PackFormat::kF16)
    return run_product(g, r.a, r.lda, r.batch, Feed::kPacked, static_cast<const f16*>(b.panels));
  run_product(g, r.a, r.lda, r.batch, Feed::kPacked, static_cast<const uint32_t*>(b.panels));
}

// B [n, k] is read along k by dot products.
bool multiply_dots(const GemmArgs& g) {
  if (!g.trans_b || g.m > kDotRows) return false;
#if defined(__AVX512BF16__)
  if (g.a_type == DType::kBFloat16 && g.b_type == DType::kBFloat16) {
    const Rows<bf16> r(g);
    run_dots(g, r.a, r.lda, r.batch, static_cast<const bf16*>(g.b), g.ldb, g.b_batch);
    return true;
  }
#endif
  const Rows<float> r(g);
  if (g.b_type == DType::kFloat32) {
    run_dots(g, r.a, r.lda, r.batch, static_cast<const float*>(g.b), g.ldb, g.b_batch);
  } else if (g.b_type == DType::kBFloat16) {
    run_dots(g, r.a, r.lda, r.batch, static_cast<const bf16*>(g.b), g.ldb, g.b_batch);
  } else {
    run_dots(g, r.a, r.lda, r.batch, static_cast<const f16*>(g.b), g.ldb, g.b_batch);
  }
  return true;
}

// B [k, n] is read by the register tiles as it lies.
bool multiply_in_place(const GemmArgs& g) {
  const bool small = g.k * g.n <= 1 << 15;
  const int64_t rows = small ? 8 * kMR : g.b_type == DType::kFloat32 ? kInPlaceRows : kMR;
  if (g.trans_b || g.m > rows) return false;
  const Rows<float> r(g);
  if (g.b_type == DType::kFloat32) {
    run_product(g, r.a, r.lda, r.batch, Feed::kInPlace, static_cast<const float*>(g.b));
  } else if (g.b_type == DType::kBFloat16) {
    run_product(g, r.a, r.lda, r.batch, Feed::kInPlace, static_cast<const bf16*>(g.b));
  } else {
    run_product(g, r.a, r.lda, r.batch, Feed::kInPlace, static_cast<const f16*>(g.b));
  }
  return true;
}

void multiply(const GemmArgs& g) {
  if (g.a_type == DType::kFloat64) return run_plain<double>(g);
  if (g.a_type == DType::kInt64) return run_plain<int64_t>(g);
  if (g.a_type == DType::kInt32) return run_plain<int32_t>(g);
  if (g.packed_b) return multiply_packed(g);
  const bool outer = is_outer(g);
  if (!outer && (multiply_dots(g) || multiply_in_place(g))) return;
#if defined(__AVX512BF16__)
  if (g.a_type == DType::kBFloat16 && g.b_type == DType::kBFloat16) {
    if (outer) return run_outer<bf16, uint32_t>(g);
    const Rows<bf16> r(g);
    return run_product<bf16, uint32_t>(g, r.a, r.lda, r.batch, Feed::kPack, nullptr);
  }
#endif
  if (outer) return run_outer<float, float>(g);
  const Rows<float> r(g);
  run_product<float, float>(g, r.a, r.lda, r.batch, Feed::kPack, nullptr);
}

// Bounds the memory for copies of A: batch entries, then blocks of rows, one after the other.
void multiply_in_parts(const GemmArgs& g) {
  const int64_t row = max<int64_t>(1, g.k) * 4;
  const bool copies = g.trans_a || g.a_type != DType::kFloat32;
  const bool outer = !g.packed_b && is_kernel_float(g.a_type) && is_outer(g);
  if (!copies || outer || g.batch * g.m * row <= kCopyBytes) return multiply(g);
  const int64_t parts = min(ceil_div(g.m * row, kCopyBytes), ceil_div(g.m, 512));
  for (int64_t b = 0; b < g.batch; ++b)
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t i0 = p * g.m / parts, i1 = (p + 1) * g.m / parts;
      multiply(part_of(g, b, i0, i1 - i0));
    }
}

}  // namespace

void gemm_execute(const GemmArgs& args) {
  GemmArgs g = args;
  if (g.m <= 0 || g.n <= 0 || g.batch <= 0) return;
  // A batch that shares B and whose rows follow each other is one tall product.
  if (g.batch > 1 && g.b_batch == 0 && !g.trans_a && g.a_batch == g.m * g.lda &&
      g.c_batch == g.m * g.ldc && !g.bias_per_row &&
      (!g.residual || g.residual_batch == g.m * g.ld_residual) &&
      (!g.preact || g.preact_batch == g.m * g.ld_preact)) {
    g.m *= g.batch;
    g.batch = 1;
  }
  multiply_in_parts(g);
}

void gemm_pack(const cpu::PackArgs& args) {
  const PanelMap map = panel_map(args.format, args.n);
  PackedMatrix& out = *args.out;
  out.format = args.format;
  out.k = args.k;
  out.n = args.n;
  out.group = args.group;
  out.panels = args.memory;
  const Source source{args.b, args.type, args.ldb, args.trans_b};
  const QuantLayout layout(args.format, args.k, args.n, max<int64_t>(1, args.group));
  char* const memory = static_cast<char*>(args.memory);
  float* const scales = reinterpret_cast<float*>(memory + layout.scales_at());
  float* const mins = reinterpret_cast<float*>(memory + layout.extra_at());
  int32_t* const sums = reinterpret_cast<int32_t*>(mins);
  const bool int8 = args.format == PackFormat::kInt8, int4 = args.format == PackFormat::kInt4;
  if (int8 || int4) out.scales = scales;
  if (int8) out.sums = sums;
  if (int4) out.mins = mins;
  const int64_t grain = ceil_div(1 << 15, max<int64_t>(1, args.k * kNR));
  cpu::parallel_for(map.panels, grain, [&](int64_t begin, int64_t end) {
    const int64_t j = map.begin(begin);
    if (int8 || int4) {
      for (int64_t c = j, p = begin; c < map.begin(end); ++c) {
        if (c == map.begin(p + 1)) ++p;
        const int64_t j0 = map.begin(p), w = map.width(p);
        uint32_t* words = static_cast<uint32_t*>(args.memory) + j0 * layout.words + (c - j0);
        const ColumnReader column{source, min(c, args.n - 1)};
        if (int8) {
          quantize_column_int8(column, args.k, words, w, scales + c, sums + c);
        } else {
          quantize_column_int4(column, args.k, args.group, words, w, scales + c, mins + c,
                               layout.columns);
        }
      }
      return;
    }
    if (args.format == PackFormat::kF32) {
      pack_panels(source, map, 0, 0, args.k, begin, end, 1,
                  static_cast<float*>(args.memory) + j * args.k);
    } else if (args.format == PackFormat::kF16) {
      pack_panels(source, map, 0, 0, args.k, begin, end, 1,
                  static_cast<f16*>(args.memory) + j * args.k);
    } else {
      pack_panels(source, map, 0, 0, args.k, begin, end, 2,
                  static_cast<uint32_t*>(args.memory) + j * ceil_div(args.k, 2));
    }
  });
}

void gemm_packed_bytes(const cpu::PackedBytesArgs& args) {
  const int64_t columns = PanelMap(args.n).vectors * kLanes;
  if (args.format == PackFormat::kInt8 || args.format == PackFormat::kInt4) {
    *args.bytes = QuantLayout(args.format, args.k, args.n, max<int64_t>(1, args.group)).bytes();
    return;
  }
  const int64_t words = args.format == PackFormat::kF32 ? args.k : ceil_div(args.k, 2);
  *args.bytes = columns * words * 4;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
