// SPDX-License-Identifier: Apache-2.0
// The vector interface of vec.h on AVX-512 (F, BW, VL, DQ): sixteen lanes, masks in mask registers,
// so that every partial load and store is one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/half.h"
#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int kLanes = 16;
constexpr bool kFusedMultiplyAdd = true;

struct Mask {
  __mmask16 v;
};

struct VecF {
  static constexpr int kLanes = 16;
  __m512 v;
  static SEQLOOM_ALWAYS_INLINE VecF broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecF zero() { return {_mm512_setzero_ps()}; }
};

struct VecI {
  static constexpr int kLanes = 16;
  __m512i v;
  static SEQLOOM_ALWAYS_INLINE VecI broadcast(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecI zero() { return {_mm512_setzero_si512()}; }
  static SEQLOOM_ALWAYS_INLINE VecI iota() {
    return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  }
};

SEQLOOM_ALWAYS_INLINE VecF as_float(VecI a) { return {_mm512_castsi512_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI as_int(VecF a) { return {_mm512_castps_si512(a.v)}; }

// ---- arithmetic ----
SEQLOOM_ALWAYS_INLINE VecF operator+(VecF a, VecF b) { return {_mm512_add_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a, VecF b) { return {_mm512_sub_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator*(VecF a, VecF b) { return {_mm512_mul_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator/(VecF a, VecF b) { return {_mm512_div_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
SEQLOOM_ALWAYS_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SEQLOOM_ALWAYS_INLINE VecF fnma(VecF a, VecF b, VecF c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
// vminps and vmaxps give the second operand when either is NaN: the rule of vec.h.
SEQLOOM_ALWAYS_INLINE VecF min(VecF a, VecF b) { return {_mm512_min_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF max(VecF a, VecF b) { return {_mm512_max_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF abs(VecF a) { return {_mm512_abs_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF sqrt(VecF a) { return {_mm512_sqrt_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF round(VecF a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
SEQLOOM_ALWAYS_INLINE VecF floor(VecF a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
SEQLOOM_ALWAYS_INLINE VecF ceil(VecF a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)};
}
SEQLOOM_ALWAYS_INLINE VecF trunc(VecF a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
}

SEQLOOM_ALWAYS_INLINE VecI operator+(VecI a, VecI b) { return {_mm512_add_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator-(VecI a, VecI b) { return {_mm512_sub_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator*(VecI a, VecI b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator&(VecI a, VecI b) { return {_mm512_and_si512(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator|(VecI a, VecI b) { return {_mm512_or_si512(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator^(VecI a, VecI b) { return {_mm512_xor_si512(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator~(VecI a) {
  return {_mm512_ternarylogic_epi32(a.v, a.v, a.v, 0x55)};
}
// Vector shifts of the language, so that a constant count becomes an immediate.
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef uint32_t UintLanes __attribute__((vector_size(64)));
SEQLOOM_ALWAYS_INLINE VecI shift_left(VecI a, int k) { return {(__m512i)((UintLanes)a.v << k)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right(VecI a, int k) { return {(__m512i)((IntLanes)a.v >> k)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right_logical(VecI a, int k) {
  return {(__m512i)((UintLanes)a.v >> k)};
}
SEQLOOM_ALWAYS_INLINE VecI select_bits(VecI which, VecI a, VecI b) {
  return {_mm512_ternarylogic_epi32(which.v, a.v, b.v, 0xca)};
}
SEQLOOM_ALWAYS_INLINE VecI min(VecI a, VecI b) { return {_mm512_min_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI max(VecI a, VecI b) { return {_mm512_max_epi32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE void mul_wide(VecI a, VecI b, VecI* high, VecI* low) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  low->v = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
  high->v = _mm512_mask_mov_epi32(_mm512_shuffle_epi32(even, _MM_PERM_DDBB), 0xaaaa, odd);
}

// ---- masks ----
SEQLOOM_ALWAYS_INLINE Mask operator<(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator<=(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator>(VecF a, VecF b) { return b < a; }
SEQLOOM_ALWAYS_INLINE Mask operator>=(VecF a, VecF b) { return b <= a; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator!=(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)};
}
SEQLOOM_ALWAYS_INLINE Mask operator==(VecI a, VecI b) {
  return {_mm512_cmpeq_epi32_mask(a.v, b.v)};
}
SEQLOOM_ALWAYS_INLINE Mask operator>(VecI a, VecI b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator<(VecI a, VecI b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.v & b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator~(Mask a) { return {static_cast<__mmask16>(~a.v)}; }
SEQLOOM_ALWAYS_INLINE Mask first_n(int n) { return {static_cast<__mmask16>((1u << n) - 1u)}; }
SEQLOOM_ALWAYS_INLINE uint32_t bits(Mask m) { return m.v; }
SEQLOOM_ALWAYS_INLINE bool any(Mask m) { return m.v != 0; }
SEQLOOM_ALWAYS_INLINE bool all(Mask m) { return m.v == 0xffff; }
SEQLOOM_ALWAYS_INLINE VecF select(Mask m, VecF a, VecF b) {
  return {_mm512_mask_blend_ps(m.v, b.v, a.v)};
}
SEQLOOM_ALWAYS_INLINE VecI select(Mask m, VecI a, VecI b) {
  return {_mm512_mask_blend_epi32(m.v, b.v, a.v)};
}
SEQLOOM_ALWAYS_INLINE VecF zero_unless(Mask m, VecF a) { return {_mm512_maskz_mov_ps(m.v, a.v)}; }

// ---- conversions ----
SEQLOOM_ALWAYS_INLINE VecF to_float(VecI a) { return {_mm512_cvtepi32_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF uint_to_float(VecI a) { return {_mm512_cvtepu32_ps(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI round_to_int(VecF a) { return {_mm512_cvtps_epi32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI trunc_to_int(VecF a) { return {_mm512_cvttps_epi32(a.v)}; }

SEQLOOM_ALWAYS_INLINE VecF bf16_to_float(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
SEQLOOM_ALWAYS_INLINE __m256i float_to_bf16(VecF a) {
#if defined(__AVX512BF16__)
  // vcvtneps2bf16 takes subnormals for zero, so it serves only where none is present.
  const __mmask16 subnormal = _mm512_fpclass_ps_mask(a.v, 0x20);
  if (SEQLOOM_LIKELY(subnormal == 0)) {
    const __m256bh y = _mm512_cvtneps_pbh(a.v);
    __m256i bits;
    memcpy(&bits, &y, sizeof(bits));
    return bits;
  }
#endif
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i top = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i rounded =
      _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, top, _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(rounded);
}

// ---- memory ----
SEQLOOM_ALWAYS_INLINE VecF load(const float* p) { return {_mm512_loadu_ps(p)}; }
SEQLOOM_ALWAYS_INLINE VecF load(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_n(n).v, p)};
}
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a) { _mm512_storeu_ps(p, a.v); }
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a, int n) {
  _mm512_mask_storeu_ps(p, first_n(n).v, a.v);
}
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p, int n) {
  return {_mm512_maskz_loadu_epi32(first_n(n).v, p)};
}
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a) { _mm512_storeu_si512(p, a.v); }
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a, int n) {
  _mm512_mask_storeu_epi32(p, first_n(n).v, a.v);
}

SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p) {
  return bf16_to_float(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p, int n) {
  return bf16_to_float(_mm256_maskz_loadu_epi16(first_n(n).v, p));
}
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), float_to_bf16(a));
}
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a, int n) {
  _mm256_mask_storeu_epi16(p, first_n(n).v, float_to_bf16(a));
}
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p, int n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_n(n).v, p))};
}
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a, int n) {
  _mm256_mask_storeu_epi16(p, first_n(n).v, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p, int n) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_n(n).v, p)))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x))};
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p, int n) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_n(n).v, p)))};
}
// Clamped before the conversion, which would wrap; max(NaN, low) is `low`.
SEQLOOM_ALWAYS_INLINE __m128i saturate(VecF a, float low, float high) {
  const VecF clamped = min(max(a, VecF::broadcast(low)), VecF::broadcast(high));
  return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped.v));
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), saturate(a, -128.0f, 127.0f));
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a, int n) {
  _mm_mask_storeu_epi8(p, first_n(n).v, saturate(a, -128.0f, 127.0f));
}
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), saturate(a, 0.0f, 255.0f));
}
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a, int n) {
  _mm_mask_storeu_epi8(p, first_n(n).v, saturate(a, 0.0f, 255.0f));
}

SEQLOOM_ALWAYS_INLINE Mask load_mask(const uint8_t* p, int n) {
  const __m128i x = _mm_maskz_loadu_epi8(first_n(n).v, p);
  return {_mm_test_epi8_mask(x, x)};
}
SEQLOOM_ALWAYS_INLINE VecF gather(const float* base, VecI index) {
  return {_mm512_i32gather_ps(index.v, base, 4)};
}
SEQLOOM_ALWAYS_INLINE void stream(float* p, VecF a) { _mm512_stream_ps(p, a.v); }
SEQLOOM_ALWAYS_INLINE void stream_fence() { _mm_sfence(); }

// ---- across lanes ----
SEQLOOM_ALWAYS_INLINE __m256 low_half(VecF a) { return _mm512_castps512_ps256(a.v); }
SEQLOOM_ALWAYS_INLINE __m256 high_half(VecF a) { return _mm512_extractf32x8_ps(a.v, 1); }

SEQLOOM_ALWAYS_INLINE float reduce_add(VecF a) {
  const __m256 b = _mm256_add_ps(low_half(a), high_half(a));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SEQLOOM_ALWAYS_INLINE float reduce_max(VecF a) {
  const __m256 b = _mm256_max_ps(low_half(a), high_half(a));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
SEQLOOM_ALWAYS_INLINE float reduce_min(VecF a) {
  const __m256 b = _mm256_min_ps(low_half(a), high_half(a));
  __m128 c = _mm_min_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_min_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}

SEQLOOM_ALWAYS_INLINE void interleave(VecF a, VecF b, VecF* lo, VecF* hi) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  lo->v = _mm512_permutex2var_ps(a.v, first, b.v);
  hi->v = _mm512_permutex2var_ps(a.v, second, b.v);
}
SEQLOOM_ALWAYS_INLINE void deinterleave(VecF lo, VecF hi, VecF* a, VecF* b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  a->v = _mm512_permutex2var_ps(lo.v, even, hi.v);
  b->v = _mm512_permutex2var_ps(lo.v, odd, hi.v);
}

// 16x16 in 64 shuffles: 4x4 blocks inside the 128-bit quarters first, then quarters among rows.
SEQLOOM_ALWAYS_INLINE void transpose(VecF rows[kLanes]) {
  __m512 t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    const __m512 b = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    const __m512 c = _mm512_unpacklo_ps(rows[i + 2].v, rows[i + 3].v);
    const __m512 d = _mm512_unpackhi_ps(rows[i + 2].v, rows[i + 3].v);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  // t[4 g + j] holds, in quarter q, column 4 q + j of rows 4 g .. 4 g + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[j + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    rows[j + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[j + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
