// SPDX-License-Identifier: Apache-2.0
// The vector interface of vec.h on AVX2, FMA and F16C: eight lanes, masks as vectors of all ones or
// all zeros. 32-bit partial loads and stores are masked instructions, narrower ones go through
// vec_partial.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/half.h"
#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int kLanes = 8;
constexpr bool kFusedMultiplyAdd = true;

struct Mask {
  __m256 v;
};

struct VecF {
  static constexpr int kLanes = 8;
  __m256 v;
  static SEQLOOM_ALWAYS_INLINE VecF broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecF zero() { return {_mm256_setzero_ps()}; }
};

struct VecI {
  static constexpr int kLanes = 8;
  __m256i v;
  static SEQLOOM_ALWAYS_INLINE VecI broadcast(int32_t x) { return {_mm256_set1_epi32(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecI zero() { return {_mm256_setzero_si256()}; }
  static SEQLOOM_ALWAYS_INLINE VecI iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }
};

SEQLOOM_ALWAYS_INLINE VecF as_float(VecI a) { return {_mm256_castsi256_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI as_int(VecF a) { return {_mm256_castps_si256(a.v)}; }

// ---- arithmetic ----
SEQLOOM_ALWAYS_INLINE VecF operator+(VecF a, VecF b) { return {_mm256_add_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a, VecF b) { return {_mm256_sub_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator*(VecF a, VecF b) { return {_mm256_mul_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator/(VecF a, VecF b) { return {_mm256_div_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
SEQLOOM_ALWAYS_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
SEQLOOM_ALWAYS_INLINE VecF fnma(VecF a, VecF b, VecF c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
// vminps and vmaxps give the second operand when either is NaN: the rule of vec.h.
SEQLOOM_ALWAYS_INLINE VecF min(VecF a, VecF b) { return {_mm256_min_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF max(VecF a, VecF b) { return {_mm256_max_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF abs(VecF a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF sqrt(VecF a) { return {_mm256_sqrt_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF round(VecF a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
SEQLOOM_ALWAYS_INLINE VecF floor(VecF a) { return {_mm256_floor_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF ceil(VecF a) { return {_mm256_ceil_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF trunc(VecF a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
}

SEQLOOM_ALWAYS_INLINE VecI operator+(VecI a, VecI b) { return {_mm256_add_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator-(VecI a, VecI b) { return {_mm256_sub_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator*(VecI a, VecI b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator&(VecI a, VecI b) { return {_mm256_and_si256(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator|(VecI a, VecI b) { return {_mm256_or_si256(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator^(VecI a, VecI b) { return {_mm256_xor_si256(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator~(VecI a) {
  return {_mm256_xor_si256(a.v, _mm256_set1_epi32(-1))};
}
// Vector shifts of the language, so that a constant count becomes an immediate.
typedef int32_t IntLanes __attribute__((vector_size(32)));
typedef uint32_t UintLanes __attribute__((vector_size(32)));
SEQLOOM_ALWAYS_INLINE VecI shift_left(VecI a, int k) { return {(__m256i)((UintLanes)a.v << k)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right(VecI a, int k) { return {(__m256i)((IntLanes)a.v >> k)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right_logical(VecI a, int k) {
  return {(__m256i)((UintLanes)a.v >> k)};
}
SEQLOOM_ALWAYS_INLINE VecI select_bits(VecI which, VecI a, VecI b) {
  return {_mm256_or_si256(_mm256_and_si256(which.v, a.v), _mm256_andnot_si256(which.v, b.v))};
}
SEQLOOM_ALWAYS_INLINE VecI min(VecI a, VecI b) { return {_mm256_min_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI max(VecI a, VecI b) { return {_mm256_max_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE void mul_wide(VecI a, VecI b, VecI* high, VecI* low) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32));
  low->v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high->v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

// ---- masks ----
SEQLOOM_ALWAYS_INLINE Mask operator<(VecF a, VecF b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator<=(VecF a, VecF b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator>(VecF a, VecF b) { return b < a; }
SEQLOOM_ALWAYS_INLINE Mask operator>=(VecF a, VecF b) { return b <= a; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecF a, VecF b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator!=(VecF a, VecF b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator==(VecI a, VecI b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))};
}
SEQLOOM_ALWAYS_INLINE Mask operator>(VecI a, VecI b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(a.v, b.v))};
}
SEQLOOM_ALWAYS_INLINE Mask operator<(VecI a, VecI b) { return b > a; }
SEQLOOM_ALWAYS_INLINE Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator~(Mask a) {
  return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
SEQLOOM_ALWAYS_INLINE Mask first_n(int n) { return VecI::iota() < VecI::broadcast(n); }
SEQLOOM_ALWAYS_INLINE uint32_t bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.v));
}
SEQLOOM_ALWAYS_INLINE bool any(Mask m) { return bits(m) != 0; }
SEQLOOM_ALWAYS_INLINE bool all(Mask m) { return bits(m) == 0xff; }
SEQLOOM_ALWAYS_INLINE VecF select(Mask m, VecF a, VecF b) {
  return {_mm256_blendv_ps(b.v, a.v, m.v)};
}
SEQLOOM_ALWAYS_INLINE VecI select(Mask m, VecI a, VecI b) {
  return as_int(select(m, as_float(a), as_float(b)));
}
SEQLOOM_ALWAYS_INLINE VecF zero_unless(Mask m, VecF a) { return {_mm256_and_ps(m.v, a.v)}; }

// ---- conversions ----
SEQLOOM_ALWAYS_INLINE VecF to_float(VecI a) { return {_mm256_cvtepi32_ps(a.v)}; }
// high * 2^16 is exact, so only the sum rounds.
SEQLOOM_ALWAYS_INLINE VecF uint_to_float(VecI a) {
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(a.v, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(a.v, _mm256_set1_epi32(0xffff)));
  return {_mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low)};
}
SEQLOOM_ALWAYS_INLINE VecI round_to_int(VecF a) { return {_mm256_cvtps_epi32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI trunc_to_int(VecF a) { return {_mm256_cvttps_epi32(a.v)}; }

SEQLOOM_ALWAYS_INLINE VecF bf16_to_float(__m128i x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
}
// The low 16 bits of each lane (upper bits zero) side by side.
SEQLOOM_ALWAYS_INLINE __m128i pack16(__m256i a) {
  return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
SEQLOOM_ALWAYS_INLINE __m128i float_to_bf16(VecF a) {
  const __m256i u = _mm256_castps_si256(a.v);
  const __m256i top = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
  const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
  const __m256i rounded = _mm256_srli_epi32(sum, 16);
  return pack16(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)));
}
SEQLOOM_ALWAYS_INLINE __m128i to_m128i(Bytes16 b) {
  return _mm_set_epi64x(static_cast<int64_t>(b.high), static_cast<int64_t>(b.low));
}
SEQLOOM_ALWAYS_INLINE Bytes16 to_bytes16(__m128i x) {
  return {static_cast<uint64_t>(_mm_cvtsi128_si64(x)),
          static_cast<uint64_t>(_mm_extract_epi64(x, 1))};
}

// ---- memory ----
SEQLOOM_ALWAYS_INLINE __m256i lanes_below(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), VecI::iota().v);
}
SEQLOOM_ALWAYS_INLINE VecF load(const float* p) { return {_mm256_loadu_ps(p)}; }
SEQLOOM_ALWAYS_INLINE VecF load(const float* p, int n) {
  return {_mm256_maskload_ps(p, lanes_below(n))};
}
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a) { _mm256_storeu_ps(p, a.v); }
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a, int n) {
  _mm256_maskstore_ps(p, lanes_below(n), a.v);
}
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p, int n) {
  return {_mm256_maskload_epi32(p, lanes_below(n))};
}
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a, int n) {
  _mm256_maskstore_epi32(p, lanes_below(n), a.v);
}

SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p) {
  return bf16_to_float(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p, int n) {
  return bf16_to_float(to_m128i(load_bytes16(p, 2 * n)));
}
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), float_to_bf16(a));
}
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a, int n) {
  store_bytes16(p, to_bytes16(float_to_bf16(a)), 2 * n);
}
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p, int n) {
  return {_mm256_cvtph_ps(to_m128i(load_bytes16(p, 2 * n)))};
}
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a, int n) {
  store_bytes16(p, to_bytes16(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)), 2 * n);
}

SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p, int n) {
  const __m128i x = _mm_cvtsi64_si128(static_cast<int64_t>(load_bytes8(p, n)));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p) { return load(p, 8); }
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p, int n) {
  const __m128i x = _mm_cvtsi64_si128(static_cast<int64_t>(load_bytes8(p, n)));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p) { return load(p, 8); }
// Clamped before the conversion, which would wrap; max(NaN, low) is `low`.
SEQLOOM_ALWAYS_INLINE __m128i saturate(VecF a, float low, float high) {
  const VecF clamped = min(max(a, VecF::broadcast(low)), VecF::broadcast(high));
  const __m256i i = _mm256_cvtps_epi32(clamped.v);
  return pack16(_mm256_and_si256(i, _mm256_set1_epi32(0xff)));
}
SEQLOOM_ALWAYS_INLINE uint64_t pack8(__m128i a) {
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(a, a)));
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a, int n) {
  store_bytes8(p, pack8(saturate(a, -128.0f, 127.0f)), n);
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a) { store(p, a, 8); }
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a, int n) {
  store_bytes8(p, pack8(saturate(a, 0.0f, 255.0f)), n);
}
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a) { store(p, a, 8); }

SEQLOOM_ALWAYS_INLINE Mask load_mask(const uint8_t* p, int n) {
  const __m128i x = _mm_cvtsi64_si128(static_cast<int64_t>(load_bytes8(p, n)));
  return VecI{_mm256_cvtepu8_epi32(x)} > VecI::zero();
}
SEQLOOM_ALWAYS_INLINE VecF gather(const float* base, VecI index) {
  return {_mm256_i32gather_ps(base, index.v, 4)};
}
SEQLOOM_ALWAYS_INLINE void stream(float* p, VecF a) { _mm256_stream_ps(p, a.v); }
SEQLOOM_ALWAYS_INLINE void stream_fence() { _mm_sfence(); }

// ---- across lanes ----
SEQLOOM_ALWAYS_INLINE float reduce_add(VecF a) {
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SEQLOOM_ALWAYS_INLINE float reduce_max(VecF a) {
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
SEQLOOM_ALWAYS_INLINE float reduce_min(VecF a) {
  __m128 c = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  c = _mm_min_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}

SEQLOOM_ALWAYS_INLINE void interleave(VecF a, VecF b, VecF* lo, VecF* hi) {
  const __m256 x = _mm256_unpacklo_ps(a.v, b.v);
  const __m256 y = _mm256_unpackhi_ps(a.v, b.v);
  lo->v = _mm256_permute2f128_ps(x, y, 0x20);
  hi->v = _mm256_permute2f128_ps(x, y, 0x31);
}
SEQLOOM_ALWAYS_INLINE void deinterleave(VecF lo, VecF hi, VecF* a, VecF* b) {
  const __m256 x = _mm256_permute2f128_ps(lo.v, hi.v, 0x20);
  const __m256 y = _mm256_permute2f128_ps(lo.v, hi.v, 0x31);
  a->v = _mm256_shuffle_ps(x, y, 0x88);
  b->v = _mm256_shuffle_ps(x, y, 0xdd);
}

// 8x8: 4x4 blocks inside the 128-bit halves first, then halves among rows.
SEQLOOM_ALWAYS_INLINE void transpose(VecF rows[kLanes]) {
  __m256 t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    const __m256 b = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    const __m256 c = _mm256_unpacklo_ps(rows[i + 2].v, rows[i + 3].v);
    const __m256 d = _mm256_unpackhi_ps(rows[i + 2].v, rows[i + 3].v);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j].v = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
    rows[j + 4].v = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
