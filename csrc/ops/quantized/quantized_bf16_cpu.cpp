// SPDX-License-Identifier: Apache-2.0
// Linear layers with 8- and 4-bit weights on the CPU.
//
// Few rows stream the weights as they lie: byte products where the CPU has them (quantized_vnni.h),
// else weights widened on the way. More rows widen or repack a block of weights that stays in the
// caches, and multiply by it with the blocked product.
#include "cpu/gemm_dot.h"
#include "cpu/gemm_epilogue.h"
#include "cpu/gemm_internal.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "ops/quantized/quantized.h"
#include "ops/quantized/quantized_vnni.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::kQuantGroup;
using ops::QuantizedLinearArgs;
using ops::QuantKind;

SEQLOOM_ALWAYS_INLINE int64_t groups_of(int64_t k) { return ceil_div(k, kQuantGroup); }

// ---- float to integers -------------------------------------------------------------------------

template <class T>
void quantize_row_int8(const T* w, int64_t k, int8_t* q, float* scale) {
  VecF largest = VecF::zero();
  for (int64_t p = 0; p < k; p += kLanes)
    largest = max_nan(largest, abs(load(w + p, static_cast<int>(min<int64_t>(kLanes, k - p)))));
  const float top = reduce_max_nan(largest);
  *scale = top / 127.0f;
  const VecF inverse = VecF::broadcast(top > 0.0f ? 127.0f / top : 0.0f);
  for (int64_t p = 0; p < k; p += kLanes) {
    const int n = static_cast<int>(min<int64_t>(kLanes, k - p));
    store(q + p, load(w + p, n) * inverse, n);
  }
}

SEQLOOM_ALWAYS_INLINE VecF nibbles(VecF x, VecF inverse) {
  return max(min(round(x * inverse), VecF::broadcast(7.0f)), VecF::broadcast(-8.0f));
}

// The scale of 32 weights. Of nine steps around largest / -8 the one that, with its best scale
// sum(x q) / sum(q^2), leaves the least squared error.
SEQLOOM_ALWAYS_INLINE float group_scale(const float* x) {
  constexpr int kVectors = static_cast<int>(kQuantGroup) / kLanes;
  float largest = 0.0f;
  for (int i = 0; i < kQuantGroup; ++i)
    if (__builtin_fabsf(x[i]) > __builtin_fabsf(largest) || x[i] != x[i]) largest = x[i];
  if (!(__builtin_fabsf(largest) > 1e-30f)) return largest != largest ? largest : 0.0f;
  float best = 0.0f, scale = 0.0f;
  for (int step = -4; step <= 4; ++step) {
    const VecF inverse = VecF::broadcast(-(8.0f + 0.25f * static_cast<float>(step)) / largest);
    VecF xq = VecF::zero(), qq = VecF::zero();
    for (int v = 0; v < kVectors; ++v) {
      const VecF value = load(x + v * kLanes), q = nibbles(value, inverse);
      xq = fma(value, q, xq);
      qq = fma(q, q, qq);
    }
    const float a = reduce_add(xq), b = reduce_add(qq);
    if (b > 0.0f && a / b * a > best) {
      best = a / b * a;
      scale = a / b;
    }
  }
  return scale;
}

template <class T>
void quantize_row_int4(const T* w, int64_t k, uint8_t* out, bf16* scales) {
  for (int64_t g = 0; g * kQuantGroup < k; ++g, out += 16) {
    alignas(64) float x[kQuantGroup], q[kQuantGroup];
    for (int64_t i = 0; i < kQuantGroup; i += kLanes) {
      const int64_t at = g * kQuantGroup + i, n = max<int64_t>(0, min<int64_t>(kLanes, k - at));
      store(x + i, load(w + min(at, k), static_cast<int>(n)));
    }
    // Rounded first: the integers are then the best ones for the scale that is kept.
    scales[g] = from_float<bf16>(group_scale(x));
    const float scale = to_float(scales[g]);
    const VecF inverse = VecF::broadcast(scale != 0.0f ? 1.0f / scale : 0.0f);
    for (int64_t i = 0; i < kQuantGroup; i += kLanes) store(q + i, nibbles(load(x + i), inverse));
    for (int i = 0; i < 16; ++i)
      out[i] = static_cast<uint8_t>((static_cast<int>(q[i]) + 8) | (static_cast<int>(q[16 + i]) + 8)
                                                                       << 4);
  }
}

template <class T>
void quantize_rows(const ops::QuantizeArgs& a) {
  const T* w = static_cast<const T*>(a.weight);
  const int64_t groups = groups_of(a.k);
  const int64_t grain = ceil_div(1 << 14, max<int64_t>(1, a.k));
  cpu::parallel_for(a.n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      if (a.kind == QuantKind::kInt8)
        quantize_row_int8(w + j * a.k, a.k, static_cast<int8_t*>(a.quantized) + j * a.k,
                          static_cast<float*>(a.scales) + j);
      else
        quantize_row_int4(w + j * a.k, a.k, static_cast<uint8_t*>(a.quantized) + j * groups * 16,
                          static_cast<bf16*>(a.scales) + j * groups);
    }
  });
}

// ---- and back ----------------------------------------------------------------------------------

template <class T>
SEQLOOM_ALWAYS_INLINE void widen_row_int8(const int8_t* q, float scale, int64_t k, T* out) {
  for (int64_t p = 0; p < k; p += kLanes) {
    const int n = static_cast<int>(min<int64_t>(kLanes, k - p));
    store(out + p, load(q + p, n) * VecF::broadcast(scale), n);
  }
}

template <class T>
SEQLOOM_ALWAYS_INLINE void widen_row_int4(const uint8_t* q, const bf16* scales, int64_t k, T* out) {
  const VecF sixteenth = VecF::broadcast(0.0625f), sixteen = VecF::broadcast(16.0f);
  const VecF eight = VecF::broadcast(8.0f);
  for (int64_t p = 0; p < k; p += kQuantGroup, q += 16) {
    const VecF scale = VecF::broadcast(to_float(*scales++));
    for (int i = 0; i < 16; i += kLanes) {
      const VecF both = load(q + i), high = floor(both * sixteenth);
      const VecF low = fnma(high, sixteen, both);
      const int64_t left = k - p - i;
      const int n = static_cast<int>(max<int64_t>(0, min<int64_t>(kLanes, left)));
      const int m = static_cast<int>(max<int64_t>(0, min<int64_t>(kLanes, left - 16)));
      if (n > 0) store(out + p + i, (low - eight) * scale, n);
      if (m > 0) store(out + p + 16 + i, (high - eight) * scale, m);
    }
  }
}

template <class T>
SEQLOOM_ALWAYS_INLINE void widen(QuantKind kind, const void* q, const void* scales, int64_t j,
                                 int64_t k, T* out) {
  const int64_t groups = groups_of(k);
  if (kind == QuantKind::kInt8)
    widen_row_int8(static_cast<const int8_t*>(q) + j * k, static_cast<const float*>(scales)[j], k,
                   out);
  else
    widen_row_int4(static_cast<const uint8_t*>(q) + j * groups * 16,
                   static_cast<const bf16*>(scales) + j * groups, k, out);
}

template <class T>
void dequantize_rows(const ops::DequantizeArgs& a) {
  T* out = static_cast<T*>(a.weight);
  const int64_t grain = ceil_div(1 << 14, max<int64_t>(1, a.k));
  cpu::parallel_for(a.n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      widen(a.kind, a.quantized, a.scales, j, a.k, out + j * a.k);
  });
}

// ---- products ----------------------------------------------------------------------------------

// The layer as a float product of columns [j0, j0 + n).
GemmArgs product_of(const QuantizedLinearArgs& a, int64_t j0, int64_t n) {
  const int64_t item = item_size(a.dtype);
  GemmArgs g;
  g.m = a.m;
  g.n = n;
  g.k = a.k;
  g.a = a.x;
  g.lda = a.ldx;
  g.a_type = g.c_type = g.bias_type = a.dtype;
  g.c = static_cast<char*>(a.out) + j0 * item;
  g.ldc = a.n;
  g.bias = a.bias != nullptr ? static_cast<const char*>(a.bias) + j0 * item : nullptr;
  g.activation = static_cast<Activation>(a.epilogue);
  return g;
}

// Columns at a time whose widened weights stay near: some 2 MB, in whole panels.
SEQLOOM_ALWAYS_INLINE int64_t block_columns(const QuantizedLinearArgs& a, int64_t item) {
  const int64_t columns = (int64_t{2} << 20) / (max<int64_t>(1, a.k) * item);
  return min(a.n, max<int64_t>(2 * kNR, columns / kNR * kNR));
}

// W is widened to T a block of columns at a time; `operands` says what is multiplied.
template <class T, class Operands>
void multiply_blocks(const QuantizedLinearArgs& a, T* weight, int64_t block,
                     const Operands& operands) {
  const int64_t grain = ceil_div(1 << 14, max<int64_t>(1, a.k));
  for (int64_t j0 = 0; j0 < a.n; j0 += block) {
    const int64_t n = min(block, a.n - j0);
    cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j)
        widen(a.kind, a.quantized, a.scales, j0 + j, a.k, weight + j * a.k);
    });
    GemmArgs g = product_of(a, j0, n);
    g.b = weight;
    g.ldb = max<int64_t>(1, a.k);
    g.trans_b = true;
    operands(g);
    gemm_execute(g);
  }
}

template <class T>
void multiply_widened(const QuantizedLinearArgs& a, DType type) {
  const int64_t block = block_columns(a, sizeof(T));
  const cpu::Scratch scratch(static_cast<size_t>(block * a.k) * sizeof(T));
  multiply_blocks(a, scratch.as<T>(), block, [&](GemmArgs& g) { g.b_type = type; });
}

#if defined(__AVX512BF16__)

// The same with x rounded to bfloat16, whose products take half the time.
void multiply_rounded(const QuantizedLinearArgs& a) {
  const int64_t ldx = (ceil_div(a.k, 32) | 1) * 32;
  const cpu::Scratch scratch(static_cast<size_t>(a.m * ldx) * sizeof(bf16));
  bf16* const x = scratch.as<bf16>();
  cpu::parallel_for(a.m, ceil_div(1 << 15, max<int64_t>(1, a.k)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* from = static_cast<const float*>(a.x) + i * a.ldx;
      for (int64_t p = 0; p < a.k; p += kLanes) {
        const int n = static_cast<int>(min<int64_t>(kLanes, a.k - p));
        store(x + i * ldx + p, load(from + p, n), n);
      }
    }
  });
  const int64_t block = block_columns(a, sizeof(bf16));
  const cpu::Scratch weights(static_cast<size_t>(block * a.k) * sizeof(bf16));
  multiply_blocks<bf16>(a, weights.as<bf16>(), block, [&](GemmArgs& g) {
    g.a = x;
    g.lda = ldx;
    g.a_type = g.b_type = DType::kBFloat16;
  });
}

#endif

#if defined(__AVX512VNNI__)

// Bytes times bytes: the words of four consecutive k are transposed into panels, a block of columns
// at a time, and each row of x is rounded to 8 bits.
void multiply_int8(const QuantizedLinearArgs& a) {
  const int64_t words = a.k / 4, limit = max<int64_t>(4 * kNR, (int64_t{4} << 20) / a.k);
  const int64_t block = min(a.n, limit / (2 * kLanes) * (2 * kLanes));
  const int64_t columns = padded_columns(block);
  const cpu::Scratch scratch(static_cast<size_t>(columns * (words + 1)) * 4 + 64);
  float* const panels = scratch.as<float>();
  int32_t* const sums = reinterpret_cast<int32_t*>(panels + columns * words);
  for (int64_t j0 = 0; j0 < a.n; j0 += block) {
    const int64_t n = min(block, a.n - j0);
    const PanelMap map = panel_map(PackFormat::kInt8, n);
    const int8_t* const q = static_cast<const int8_t*>(a.quantized) + j0 * a.k;
    cpu::parallel_for(map.panels, ceil_div(1 << 15, 32 * a.k), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t j = map.begin(p), w = map.width(p), live = min(w, n - j);
        pack_panel_by_columns(reinterpret_cast<const float*>(q + j * a.k), words, words, live, w,
                              panels + j * words);
        for (int64_t c = 0; c < w; ++c)
          sums[j + c] = sum_bytes(q + (j + min(c, live - 1)) * a.k, a.k);
      }
    });
    cpu::PackedMatrix packed;
    packed.format = PackFormat::kInt8;
    packed.k = a.k;
    packed.n = n;
    packed.panels = panels;
    packed.scales = static_cast<const float*>(a.scales) + j0;
    packed.sums = sums;
    GemmArgs g = product_of(a, j0, n);
    g.packed_b = &packed;
    g.quantize_a = true;
    gemm_execute(g);
  }
}

// Few rows: W is streamed. Each start of four streams waits for memory and misses some prefetching,
// so pieces are long: tasks of some 512 KB, as many for each thread, and as many columns at a time
// as there is room for their sums. No column's sum depends on where the cuts lie.
template <class Weights>
void multiply_bytes(const QuantizedLinearArgs& a) {
  const SplitRows<Weights> x(a);
  const GemmArgs g = product_of(a, 0, a.n);
  const Weights weights(a);
  constexpr int64_t kSums = 4096;
  const int64_t block = kSums / a.m / 4 * 4;
  const int64_t bytes = a.n * max<int64_t>(1, weights.row_bytes), work = a.m * a.n * a.k;
  const int64_t threads = cpu::num_threads(), pieces = ceil_div(bytes, 1 << 19);
  const int64_t cuts = max<int64_t>(1, min(ceil_div(pieces, threads) * threads, work >> 17));
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kSums];
    for (int64_t cut = begin; cut < end; ++cut) {
      const int64_t j1 = cut + 1 < cuts ? (cut + 1) * a.n / cuts / 4 * 4 : a.n;
      for (int64_t j = cut * a.n / cuts / 4 * 4; j < j1; j += block) {
        const int64_t columns = min(block, j1 - j);
        byte_streams(weights, x, j, columns, a.m, sums, block);
        finish_tile(g, 0, 0, a.m, j, columns, sums, block, x.scales(), weights.column_scales);
      }
    }
  };
  if (cuts == 1) return run(0, 1);
  cpu::parallel_for(cuts, 1, run);
}

#endif

// Few rows, weights widened to float32: int8 in the dot products' loads, int4 four lines at a time.
void multiply_streamed(const QuantizedLinearArgs& a) {
  const GemmArgs g = product_of(a, 0, a.n);
  const int64_t ldx = ceil_div(a.k, kLanes) * kLanes;
  const bool int8 = a.kind == QuantKind::kInt8;
  const cpu::Scratch rows(static_cast<size_t>(max<int64_t>(1, a.m * ldx)) * 4);
  float* const x = rows.as<float>();
  for (int64_t i = 0; i < a.m; ++i) {
    const int64_t from = i * a.ldx;
    if (a.dtype == DType::kFloat32)
      widen_row(static_cast<const float*>(a.x) + from, a.k, x + i * ldx);
    if (a.dtype == DType::kBFloat16)
      widen_row(static_cast<const bf16*>(a.x) + from, a.k, x + i * ldx);
    if (a.dtype == DType::kFloat16)
      widen_row(static_cast<const f16*>(a.x) + from, a.k, x + i * ldx);
  }
  constexpr int64_t kColumns = 64;
  const int64_t tasks = ceil_div(a.n, kColumns),
                work = a.m * min(a.n, kColumns) * max<int64_t>(1, a.k);
  cpu::parallel_for(tasks, ceil_div(1 << 16, work), [&](int64_t begin, int64_t end) {
    const cpu::Scratch scratch(static_cast<size_t>(int8 ? 1 : 4 * a.k + 4) * 4);
    float* const lines = scratch.as<float>();
    alignas(64) float sums[ops::kFewRows * kColumns];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t j0 = t * kColumns, columns = min(kColumns, a.n - j0);
      if (int8) {
        dot_streams(a.m, columns, a.k, x, ldx, static_cast<const int8_t*>(a.quantized) + j0 * a.k,
                    a.k, sums, kColumns);
      } else {
        for (int64_t j = 0; j < columns; j += 4) {
          const int64_t live = min<int64_t>(4, columns - j);
          for (int64_t q = 0; q < live; ++q)
            widen(a.kind, a.quantized, a.scales, j0 + j + q, a.k, lines + q * a.k);
          dot_block(a.m, live, a.k, x, ldx, lines, a.k, FetchLines{4 * a.k}, sums + j, kColumns);
        }
      }
      finish_tile(g, 0, 0, a.m, j0, columns, sums, kColumns, nullptr,
                  int8 ? static_cast<const float*>(a.scales) : nullptr);
    }
  });
}

}  // namespace

void quantize_weight(const ops::QuantizeArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return quantize_rows<f16>(a);
    case DType::kBFloat16:
      return quantize_rows<bf16>(a);
    default:
      return quantize_rows<float>(a);
  }
}

void dequantize_weight(const ops::DequantizeArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return dequantize_rows<f16>(a);
    case DType::kBFloat16:
      return dequantize_rows<bf16>(a);
    default:
      return dequantize_rows<float>(a);
  }
}

void quantized_linear(const QuantizedLinearArgs& a) {
#if defined(__AVX512VNNI__)
  const bool int8 = a.kind == QuantKind::kInt8;
  if (a.k > 0 && a.m <= ops::kFewRows) {
    if (!int8) return multiply_bytes<Int4Weights>(a);
    if (a.m <= ops::kFineRows) return multiply_bytes<Int8Weights<2>>(a);
    return multiply_bytes<Int8Weights<1>>(a);
  }
  if (int8 && a.k > 0 && a.k % 4 == 0 && a.k <= 1 << 16) return multiply_int8(a);
#endif
  if (a.m <= ops::kFewRows) return multiply_streamed(a);
#if defined(__AVX512BF16__)
  if (a.dtype == DType::kFloat32) return multiply_rounded(a);
#endif
  if (a.dtype == DType::kBFloat16) return multiply_widened<bf16>(a, DType::kBFloat16);
  multiply_widened<float>(a, DType::kFloat32);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
