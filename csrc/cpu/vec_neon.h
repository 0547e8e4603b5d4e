// SPDX-License-Identifier: Apache-2.0
// The vector interface of vec.h on 64-bit ARM: four lanes, masks as vectors of all ones or all
// zeros, partial loads and stores through vec_partial.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "core/half.h"
#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int kLanes = 4;
constexpr bool kFusedMultiplyAdd = true;

struct Mask {
  uint32x4_t v;
};

struct VecF {
  static constexpr int kLanes = 4;
  float32x4_t v;
  static SEQLOOM_ALWAYS_INLINE VecF broadcast(float x) { return {vdupq_n_f32(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecF zero() { return {vdupq_n_f32(0.0f)}; }
};

struct VecI {
  static constexpr int kLanes = 4;
  int32x4_t v;
  static SEQLOOM_ALWAYS_INLINE VecI broadcast(int32_t x) { return {vdupq_n_s32(x)}; }
  static SEQLOOM_ALWAYS_INLINE VecI zero() { return {vdupq_n_s32(0)}; }
  static SEQLOOM_ALWAYS_INLINE VecI iota() { return {int32x4_t{0, 1, 2, 3}}; }
};

SEQLOOM_ALWAYS_INLINE VecF as_float(VecI a) { return {vreinterpretq_f32_s32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI as_int(VecF a) { return {vreinterpretq_s32_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE uint32x4_t as_uint(VecI a) { return vreinterpretq_u32_s32(a.v); }
SEQLOOM_ALWAYS_INLINE VecI from_uint(uint32x4_t a) { return {vreinterpretq_s32_u32(a)}; }

// ---- arithmetic ----
SEQLOOM_ALWAYS_INLINE VecF operator+(VecF a, VecF b) { return {vaddq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a, VecF b) { return {vsubq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator*(VecF a, VecF b) { return {vmulq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator/(VecF a, VecF b) { return {vdivq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a) { return {vnegq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF fma(VecF a, VecF b, VecF c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF abs(VecF a) { return {vabsq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF sqrt(VecF a) { return {vsqrtq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF round(VecF a) { return {vrndnq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF floor(VecF a) { return {vrndmq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF ceil(VecF a) { return {vrndpq_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF trunc(VecF a) { return {vrndq_f32(a.v)}; }

SEQLOOM_ALWAYS_INLINE VecI operator+(VecI a, VecI b) { return {vaddq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator-(VecI a, VecI b) { return {vsubq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator*(VecI a, VecI b) { return {vmulq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator&(VecI a, VecI b) { return {vandq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator|(VecI a, VecI b) { return {vorrq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator^(VecI a, VecI b) { return {veorq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator~(VecI a) { return {vmvnq_s32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_left(VecI a, int k) { return {vshlq_s32(a.v, vdupq_n_s32(k))}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right(VecI a, int k) { return {vshlq_s32(a.v, vdupq_n_s32(-k))}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right_logical(VecI a, int k) {
  return from_uint(vshlq_u32(as_uint(a), vdupq_n_s32(-k)));
}
SEQLOOM_ALWAYS_INLINE VecI select_bits(VecI which, VecI a, VecI b) {
  return {vbslq_s32(as_uint(which), a.v, b.v)};
}
SEQLOOM_ALWAYS_INLINE VecI min(VecI a, VecI b) { return {vminq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI max(VecI a, VecI b) { return {vmaxq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE void mul_wide(VecI a, VecI b, VecI* high, VecI* low) {
  const uint32x4_t x = as_uint(a), y = as_uint(b);
  const uint64x2_t first = vmull_u32(vget_low_u32(x), vget_low_u32(y));
  const uint64x2_t second = vmull_u32(vget_high_u32(x), vget_high_u32(y));
  *low = from_uint(vuzp1q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second)));
  *high = from_uint(vuzp2q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second)));
}

// ---- masks ----
SEQLOOM_ALWAYS_INLINE Mask operator<(VecF a, VecF b) { return {vcltq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator<=(VecF a, VecF b) { return {vcleq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>(VecF a, VecF b) { return {vcgtq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>=(VecF a, VecF b) { return {vcgeq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecF a, VecF b) { return {vceqq_f32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator!=(VecF a, VecF b) { return {vmvnq_u32(vceqq_f32(a.v, b.v))}; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecI a, VecI b) { return {vceqq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>(VecI a, VecI b) { return {vcgtq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator<(VecI a, VecI b) { return {vcltq_s32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator&(Mask a, Mask b) { return {vandq_u32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator~(Mask a) { return {vmvnq_u32(a.v)}; }
SEQLOOM_ALWAYS_INLINE Mask first_n(int n) { return VecI::iota() < VecI::broadcast(n); }
SEQLOOM_ALWAYS_INLINE uint32_t bits(Mask m) {
  return vaddvq_u32(vandq_u32(m.v, uint32x4_t{1, 2, 4, 8}));
}
SEQLOOM_ALWAYS_INLINE bool any(Mask m) { return vmaxvq_u32(m.v) != 0; }
SEQLOOM_ALWAYS_INLINE bool all(Mask m) { return vminvq_u32(m.v) != 0; }
SEQLOOM_ALWAYS_INLINE VecF select(Mask m, VecF a, VecF b) { return {vbslq_f32(m.v, a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI select(Mask m, VecI a, VecI b) { return {vbslq_s32(m.v, a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF zero_unless(Mask m, VecF a) {
  return as_float(from_uint(vandq_u32(m.v, as_uint(as_int(a)))));
}

// Compare and select: the ARM minimum and maximum would return the NaN.
SEQLOOM_ALWAYS_INLINE VecF min(VecF a, VecF b) { return select(a < b, a, b); }
SEQLOOM_ALWAYS_INLINE VecF max(VecF a, VecF b) { return select(a > b, a, b); }

// ---- conversions ----
SEQLOOM_ALWAYS_INLINE VecF to_float(VecI a) { return {vcvtq_f32_s32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecF uint_to_float(VecI a) { return {vcvtq_f32_u32(as_uint(a))}; }
SEQLOOM_ALWAYS_INLINE VecI round_to_int(VecF a) { return {vcvtnq_s32_f32(a.v)}; }
SEQLOOM_ALWAYS_INLINE VecI trunc_to_int(VecF a) { return {vcvtq_s32_f32(a.v)}; }

SEQLOOM_ALWAYS_INLINE VecF bf16_to_float(uint16x4_t x) {
  return as_float(from_uint(vshll_n_u16(x, 16)));
}
SEQLOOM_ALWAYS_INLINE uint16x4_t float_to_bf16(VecF a) {
  const uint32x4_t u = as_uint(as_int(a));
  const uint32x4_t top = vshrq_n_u32(u, 16);
  const uint32x4_t odd = vandq_u32(top, vdupq_n_u32(1));
  const uint32x4_t sum = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(top, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32((a != a).v, quiet, vshrq_n_u32(sum, 16)));
}
SEQLOOM_ALWAYS_INLINE VecF f16_to_float(uint16x4_t x) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(x))};
}
SEQLOOM_ALWAYS_INLINE uint16x4_t float_to_f16(VecF a) {
  return vreinterpret_u16_f16(vcvt_f16_f32(a.v));
}

// ---- memory ----
SEQLOOM_ALWAYS_INLINE uint8x16_t from_bytes16(Bytes16 b) {
  return vreinterpretq_u8_u64(uint64x2_t{b.low, b.high});
}
SEQLOOM_ALWAYS_INLINE Bytes16 to_bytes16(uint8x16_t x) {
  const uint64x2_t u = vreinterpretq_u64_u8(x);
  return {vgetq_lane_u64(u, 0), vgetq_lane_u64(u, 1)};
}
SEQLOOM_ALWAYS_INLINE VecF load(const float* p) { return {vld1q_f32(p)}; }
SEQLOOM_ALWAYS_INLINE VecF load(const float* p, int n) {
  return {vreinterpretq_f32_u8(from_bytes16(load_bytes16(p, 4 * n)))};
}
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a) { vst1q_f32(p, a.v); }
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a, int n) {
  store_bytes16(p, to_bytes16(vreinterpretq_u8_f32(a.v)), 4 * n);
}
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p) { return {vld1q_s32(p)}; }
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p, int n) {
  return {vreinterpretq_s32_u8(from_bytes16(load_bytes16(p, 4 * n)))};
}
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a) { vst1q_s32(p, a.v); }
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a, int n) {
  store_bytes16(p, to_bytes16(vreinterpretq_u8_s32(a.v)), 4 * n);
}

SEQLOOM_ALWAYS_INLINE uint16x4_t load16(const void* p, int n) {
  return vcreate_u16(load_bytes8(p, 2 * n));
}
SEQLOOM_ALWAYS_INLINE void store16(void* p, uint16x4_t x, int n) {
  store_bytes8(p, vget_lane_u64(vreinterpret_u64_u16(x), 0), 2 * n);
}
SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p) { return bf16_to_float(load16(p, 4)); }
SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p, int n) { return bf16_to_float(load16(p, n)); }
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a) { store16(p, float_to_bf16(a), 4); }
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a, int n) { store16(p, float_to_bf16(a), n); }
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p) { return f16_to_float(load16(p, 4)); }
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p, int n) { return f16_to_float(load16(p, n)); }
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a) { store16(p, float_to_f16(a), 4); }
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a, int n) { store16(p, float_to_f16(a), n); }

SEQLOOM_ALWAYS_INLINE VecI load_unsigned_bytes(const void* p, int n) {
  const uint8x8_t x = vcreate_u8(load_bytes8(p, n));
  return from_uint(vmovl_u16(vget_low_u16(vmovl_u8(x))));
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p, int n) {
  return to_float(load_unsigned_bytes(p, n));
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p) { return load(p, 4); }
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p, int n) {
  const int8x8_t x = vcreate_s8(load_bytes8(p, n));
  return to_float(VecI{vmovl_s16(vget_low_s16(vmovl_s8(x)))});
}
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p) { return load(p, 4); }
// max(NaN, low) is `low`.
SEQLOOM_ALWAYS_INLINE uint64_t saturate(VecF a, float low, float high) {
  const VecF clamped = min(max(a, VecF::broadcast(low)), VecF::broadcast(high));
  const uint16x4_t half = vmovn_u32(as_uint(round_to_int(clamped)));
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(half, half));
  return vget_lane_u64(vreinterpret_u64_u8(bytes), 0);
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a, int n) {
  store_bytes8(p, saturate(a, -128.0f, 127.0f), n);
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a) { store(p, a, 4); }
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a, int n) {
  store_bytes8(p, saturate(a, 0.0f, 255.0f), n);
}
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a) { store(p, a, 4); }

SEQLOOM_ALWAYS_INLINE Mask load_mask(const uint8_t* p, int n) {
  return load_unsigned_bytes(p, n) > VecI::zero();
}
SEQLOOM_ALWAYS_INLINE VecF gather(const float* base, VecI i) {
  return {float32x4_t{base[vgetq_lane_s32(i.v, 0)], base[vgetq_lane_s32(i.v, 1)],
                      base[vgetq_lane_s32(i.v, 2)], base[vgetq_lane_s32(i.v, 3)]}};
}
SEQLOOM_ALWAYS_INLINE void stream(float* p, VecF a) { store(p, a); }
SEQLOOM_ALWAYS_INLINE void stream_fence() {}

// ---- across lanes ----
SEQLOOM_ALWAYS_INLINE float reduce_add(VecF a) {
  const float32x2_t b = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
  return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
SEQLOOM_ALWAYS_INLINE float reduce_max(VecF a) { return vmaxvq_f32(a.v); }
SEQLOOM_ALWAYS_INLINE float reduce_min(VecF a) { return vminvq_f32(a.v); }
SEQLOOM_ALWAYS_INLINE void interleave(VecF a, VecF b, VecF* lo, VecF* hi) {
  lo->v = vzip1q_f32(a.v, b.v);
  hi->v = vzip2q_f32(a.v, b.v);
}
SEQLOOM_ALWAYS_INLINE void deinterleave(VecF lo, VecF hi, VecF* a, VecF* b) {
  a->v = vuzp1q_f32(lo.v, hi.v);
  b->v = vuzp2q_f32(lo.v, hi.v);
}
SEQLOOM_ALWAYS_INLINE void transpose(VecF rows[kLanes]) {
  const float32x4x2_t a = vtrnq_f32(rows[0].v, rows[1].v);
  const float32x4x2_t b = vtrnq_f32(rows[2].v, rows[3].v);
  rows[0].v = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  rows[1].v = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  rows[2].v = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  rows[3].v = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

}  // namespace seqloom::SEQLOOM_ISA_NS
