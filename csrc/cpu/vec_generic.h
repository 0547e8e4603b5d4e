// SPDX-License-Identifier: Apache-2.0
// The vector interface of vec.h in GNU vector extensions, four lanes: plain C++ that any GCC or
// Clang compiles for any CPU. It is the baseline level (SSE2 on x86-64) and the documentation of
// what every other level must do.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "core/half.h"
#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int kLanes = 4;
constexpr bool kFusedMultiplyAdd = false;

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Uint4 __attribute__((vector_size(16)));

struct Mask {
  Int4 v;  // all ones or all zeros
};

struct VecF {
  static constexpr int kLanes = 4;
  Float4 v;
  static SEQLOOM_ALWAYS_INLINE VecF broadcast(float x) { return {Float4{x, x, x, x}}; }
  static SEQLOOM_ALWAYS_INLINE VecF zero() { return {Float4{}}; }
};

struct VecI {
  static constexpr int kLanes = 4;
  Int4 v;
  static SEQLOOM_ALWAYS_INLINE VecI broadcast(int32_t x) { return {Int4{x, x, x, x}}; }
  static SEQLOOM_ALWAYS_INLINE VecI zero() { return {Int4{}}; }
  static SEQLOOM_ALWAYS_INLINE VecI iota() { return {Int4{0, 1, 2, 3}}; }
};

SEQLOOM_ALWAYS_INLINE VecF as_float(VecI a) { return {(Float4)a.v}; }
SEQLOOM_ALWAYS_INLINE VecI as_int(VecF a) { return {(Int4)a.v}; }

// ---- arithmetic ----
SEQLOOM_ALWAYS_INLINE VecF operator+(VecF a, VecF b) { return {a.v + b.v}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a, VecF b) { return {a.v - b.v}; }
SEQLOOM_ALWAYS_INLINE VecF operator*(VecF a, VecF b) { return {a.v * b.v}; }
SEQLOOM_ALWAYS_INLINE VecF operator/(VecF a, VecF b) { return {a.v / b.v}; }
SEQLOOM_ALWAYS_INLINE VecF operator-(VecF a) { return {-a.v}; }
SEQLOOM_ALWAYS_INLINE VecF fma(VecF a, VecF b, VecF c) { return {a.v * b.v + c.v}; }
SEQLOOM_ALWAYS_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {c.v - a.v * b.v}; }

SEQLOOM_ALWAYS_INLINE VecI operator+(VecI a, VecI b) { return {(Int4)((Uint4)a.v + (Uint4)b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator-(VecI a, VecI b) { return {(Int4)((Uint4)a.v - (Uint4)b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator*(VecI a, VecI b) { return {(Int4)((Uint4)a.v * (Uint4)b.v)}; }
SEQLOOM_ALWAYS_INLINE VecI operator&(VecI a, VecI b) { return {a.v & b.v}; }
SEQLOOM_ALWAYS_INLINE VecI operator|(VecI a, VecI b) { return {a.v | b.v}; }
SEQLOOM_ALWAYS_INLINE VecI operator^(VecI a, VecI b) { return {a.v ^ b.v}; }
SEQLOOM_ALWAYS_INLINE VecI operator~(VecI a) { return {~a.v}; }
SEQLOOM_ALWAYS_INLINE VecI shift_left(VecI a, int k) { return {(Int4)((Uint4)a.v << k)}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right(VecI a, int k) { return {a.v >> k}; }
SEQLOOM_ALWAYS_INLINE VecI shift_right_logical(VecI a, int k) { return {(Int4)((Uint4)a.v >> k)}; }
// Bits of a where `which` is set, else of b.
SEQLOOM_ALWAYS_INLINE VecI select_bits(VecI which, VecI a, VecI b) {
  return {(a.v & which.v) | (b.v & ~which.v)};
}

// ---- masks ----
SEQLOOM_ALWAYS_INLINE Mask operator<(VecF a, VecF b) { return {(Int4)(a.v < b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator<=(VecF a, VecF b) { return {(Int4)(a.v <= b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>(VecF a, VecF b) { return {(Int4)(a.v > b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>=(VecF a, VecF b) { return {(Int4)(a.v >= b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecF a, VecF b) { return {(Int4)(a.v == b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator!=(VecF a, VecF b) { return {(Int4)(a.v != b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator==(VecI a, VecI b) { return {(Int4)(a.v == b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator>(VecI a, VecI b) { return {(Int4)(a.v > b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator<(VecI a, VecI b) { return {(Int4)(a.v < b.v)}; }
SEQLOOM_ALWAYS_INLINE Mask operator&(Mask a, Mask b) { return {a.v & b.v}; }
SEQLOOM_ALWAYS_INLINE Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }
SEQLOOM_ALWAYS_INLINE Mask operator~(Mask a) { return {~a.v}; }
SEQLOOM_ALWAYS_INLINE Mask first_n(int n) { return VecI::iota() < VecI::broadcast(n); }
SEQLOOM_ALWAYS_INLINE uint32_t bits(Mask m) {
#if defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)m.v));
#else
  return (m.v[0] & 1u) | (m.v[1] & 2u) | (m.v[2] & 4u) | (m.v[3] & 8u);
#endif
}
SEQLOOM_ALWAYS_INLINE bool any(Mask m) { return bits(m) != 0; }
SEQLOOM_ALWAYS_INLINE bool all(Mask m) { return bits(m) == 0xf; }
SEQLOOM_ALWAYS_INLINE VecI select(Mask m, VecI a, VecI b) { return select_bits({m.v}, a, b); }
SEQLOOM_ALWAYS_INLINE VecF select(Mask m, VecF a, VecF b) {
  return as_float(select(m, as_int(a), as_int(b)));
}
SEQLOOM_ALWAYS_INLINE VecF zero_unless(Mask m, VecF a) { return {(Float4)(m.v & (Int4)a.v)}; }

SEQLOOM_ALWAYS_INLINE VecF min(VecF a, VecF b) { return select(a < b, a, b); }
SEQLOOM_ALWAYS_INLINE VecF max(VecF a, VecF b) { return select(a > b, a, b); }
SEQLOOM_ALWAYS_INLINE VecI min(VecI a, VecI b) { return select(a < b, a, b); }
SEQLOOM_ALWAYS_INLINE VecI max(VecI a, VecI b) { return select(a > b, a, b); }
SEQLOOM_ALWAYS_INLINE VecF abs(VecF a) { return as_float(as_int(a) & VecI::broadcast(0x7fffffff)); }

SEQLOOM_ALWAYS_INLINE VecF sqrt(VecF a) {
#if defined(__SSE2__)
  return {(Float4)_mm_sqrt_ps((__m128)a.v)};
#else
  return {Float4{__builtin_sqrtf(a.v[0]), __builtin_sqrtf(a.v[1]), __builtin_sqrtf(a.v[2]),
                 __builtin_sqrtf(a.v[3])}};
#endif
}

// ---- conversions ----
SEQLOOM_ALWAYS_INLINE VecF to_float(VecI a) { return {__builtin_convertvector(a.v, Float4)}; }
SEQLOOM_ALWAYS_INLINE VecI trunc_to_int(VecF a) { return {__builtin_convertvector(a.v, Int4)}; }
// high * 2^16 is exact, so only the sum rounds.
SEQLOOM_ALWAYS_INLINE VecF uint_to_float(VecI a) {
  const VecF high = to_float(shift_right_logical(a, 16));
  const VecF low = to_float(a & VecI::broadcast(0xffff));
  return fma(high, VecF::broadcast(65536.0f), low);
}

// Adding 1.5 * 2^23 leaves no fraction bits; from 2^23 on a float has none anyway. The sign is
// put back so that -0.3 gives -0.
SEQLOOM_ALWAYS_INLINE VecF round(VecF a) {
  const VecI sign = as_int(a) & VecI::broadcast(static_cast<int32_t>(0x80000000u));
  const VecF magic = VecF::broadcast(8388608.0f);
  const VecF magnitude = abs(a);
  const VecF rounded = (magnitude + magic) - magic;
  return select(magnitude < magic, as_float(as_int(rounded) | sign), a);
}
SEQLOOM_ALWAYS_INLINE VecI round_to_int(VecF a) { return trunc_to_int(round(a)); }
SEQLOOM_ALWAYS_INLINE VecF floor(VecF a) {
  const VecF r = round(a);
  return select(r > a, r - VecF::broadcast(1.0f), r);
}
SEQLOOM_ALWAYS_INLINE VecF ceil(VecF a) { return -floor(-a); }
SEQLOOM_ALWAYS_INLINE VecF trunc(VecF a) {
  const VecI sign = as_int(a) & VecI::broadcast(static_cast<int32_t>(0x80000000u));
  return as_float(as_int(floor(abs(a))) | sign);
}

SEQLOOM_ALWAYS_INLINE void mul_wide(VecI a, VecI b, VecI* high, VecI* low) {
  Int4 h, l;
  for (int i = 0; i < 4; ++i) {
    const uint64_t product =
        static_cast<uint64_t>(static_cast<uint32_t>(a.v[i])) * static_cast<uint32_t>(b.v[i]);
    h[i] = static_cast<int32_t>(product >> 32);
    l[i] = static_cast<int32_t>(product);
  }
  high->v = h;
  low->v = l;
}

// ---- memory ----
SEQLOOM_ALWAYS_INLINE VecF load(const float* p) {
  VecF a;
  memcpy(&a.v, p, 16);
  return a;
}
SEQLOOM_ALWAYS_INLINE VecF load(const float* p, int n) {
  const Bytes16 b = load_bytes16(p, 4 * n);
  VecF a;
  memcpy(&a.v, &b, 16);
  return a;
}
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a) { memcpy(p, &a.v, 16); }
SEQLOOM_ALWAYS_INLINE void store(float* p, VecF a, int n) {
  Bytes16 b;
  memcpy(&b, &a.v, 16);
  store_bytes16(p, b, 4 * n);
}

SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p) {
  VecI a;
  memcpy(&a.v, p, 16);
  return a;
}
SEQLOOM_ALWAYS_INLINE VecI load_int(const int32_t* p, int n) {
  const Bytes16 b = load_bytes16(p, 4 * n);
  VecI a;
  memcpy(&a.v, &b, 16);
  return a;
}
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a) { memcpy(p, &a.v, 16); }
SEQLOOM_ALWAYS_INLINE void store_int(int32_t* p, VecI a, int n) {
  Bytes16 b;
  memcpy(&b, &a.v, 16);
  store_bytes16(p, b, 4 * n);
}

// Four 16-bit numbers spread over 32-bit lanes, and back.
SEQLOOM_ALWAYS_INLINE VecI spread16(uint64_t x) {
  return {Int4{static_cast<int32_t>(x & 0xffff), static_cast<int32_t>(x >> 16 & 0xffff),
               static_cast<int32_t>(x >> 32 & 0xffff), static_cast<int32_t>(x >> 48)}};
}
SEQLOOM_ALWAYS_INLINE uint64_t pack16(VecI a) {
  return static_cast<uint64_t>(static_cast<uint16_t>(a.v[0])) |
         static_cast<uint64_t>(static_cast<uint16_t>(a.v[1])) << 16 |
         static_cast<uint64_t>(static_cast<uint16_t>(a.v[2])) << 32 |
         static_cast<uint64_t>(static_cast<uint16_t>(a.v[3])) << 48;
}

SEQLOOM_ALWAYS_INLINE VecF bf16_to_float(uint64_t x) {
  return as_float(shift_left(spread16(x), 16));
}
SEQLOOM_ALWAYS_INLINE uint64_t float_to_bf16(VecF a) {
  const VecI u = as_int(a);
  const VecI top = shift_right_logical(u, 16);
  const VecI rounded =
      shift_right_logical(u + VecI::broadcast(0x7fff) + (top & VecI::broadcast(1)), 16);
  return pack16(select(a != a, top | VecI::broadcast(0x40), rounded));
}
SEQLOOM_ALWAYS_INLINE VecF f16_to_float(uint64_t x) {
  Float4 v;
  for (int i = 0; i < 4; ++i) {
    v[i] = seqloom::to_float(f16{static_cast<uint16_t>(x >> (16 * i))});
  }
  return {v};
}
SEQLOOM_ALWAYS_INLINE uint64_t float_to_f16(VecF a) {
  uint64_t x = 0;
  for (int i = 0; i < 4; ++i) {
    x |= static_cast<uint64_t>(from_float<f16>(a.v[i]).bits) << (16 * i);
  }
  return x;
}

SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p) { return bf16_to_float(load_bytes8(p, 8)); }
SEQLOOM_ALWAYS_INLINE VecF load(const bf16* p, int n) {
  return bf16_to_float(load_bytes8(p, 2 * n));
}
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a) { store_bytes8(p, float_to_bf16(a), 8); }
SEQLOOM_ALWAYS_INLINE void store(bf16* p, VecF a, int n) {
  store_bytes8(p, float_to_bf16(a), 2 * n);
}
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p) { return f16_to_float(load_bytes8(p, 8)); }
SEQLOOM_ALWAYS_INLINE VecF load(const f16* p, int n) { return f16_to_float(load_bytes8(p, 2 * n)); }
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a) { store_bytes8(p, float_to_f16(a), 8); }
SEQLOOM_ALWAYS_INLINE void store(f16* p, VecF a, int n) { store_bytes8(p, float_to_f16(a), 2 * n); }

SEQLOOM_ALWAYS_INLINE VecI spread8(uint64_t x) {
  return {Int4{static_cast<int32_t>(x & 0xff), static_cast<int32_t>(x >> 8 & 0xff),
               static_cast<int32_t>(x >> 16 & 0xff), static_cast<int32_t>(x >> 24 & 0xff)}};
}
SEQLOOM_ALWAYS_INLINE uint64_t pack8(VecI a) {
  return (a.v[0] & 0xffu) | (a.v[1] & 0xffu) << 8 | (a.v[2] & 0xffu) << 16 | (a.v[3] & 0xffu) << 24;
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p, int n) {
  return to_float(spread8(load_bytes8(p, n)));
}
SEQLOOM_ALWAYS_INLINE VecF load(const uint8_t* p) { return load(p, 4); }
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p, int n) {
  return to_float(shift_right(shift_left(spread8(load_bytes8(p, n)), 24), 24));
}
SEQLOOM_ALWAYS_INLINE VecF load(const int8_t* p) { return load(p, 4); }
// Clamped before the conversion; min(x, high) first, so that NaN becomes `low` in max.
SEQLOOM_ALWAYS_INLINE VecI saturate(VecF a, float low, float high) {
  const VecF clamped = max(min(a, VecF::broadcast(high)), VecF::broadcast(low));
  return round_to_int(select(a == a, clamped, VecF::broadcast(low)));
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a, int n) {
  store_bytes8(p, pack8(saturate(a, -128.0f, 127.0f)), n);
}
SEQLOOM_ALWAYS_INLINE void store(int8_t* p, VecF a) { store(p, a, 4); }
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a, int n) {
  store_bytes8(p, pack8(saturate(a, 0.0f, 255.0f)), n);
}
SEQLOOM_ALWAYS_INLINE void store(uint8_t* p, VecF a) { store(p, a, 4); }

SEQLOOM_ALWAYS_INLINE Mask load_mask(const uint8_t* p, int n) {
  return ~(spread8(load_bytes8(p, n)) == VecI::zero());
}
SEQLOOM_ALWAYS_INLINE VecF gather(const float* base, VecI i) {
  return {Float4{base[i.v[0]], base[i.v[1]], base[i.v[2]], base[i.v[3]]}};
}
SEQLOOM_ALWAYS_INLINE void stream(float* p, VecF a) {
#if defined(__SSE2__)
  _mm_stream_ps(p, (__m128)a.v);
#else
  store(p, a);
#endif
}
SEQLOOM_ALWAYS_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// ---- across lanes ----
SEQLOOM_ALWAYS_INLINE float reduce_add(VecF a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
SEQLOOM_ALWAYS_INLINE float reduce_max(VecF a) {
  return max(max(a.v[0], a.v[2]), max(a.v[1], a.v[3]));
}
SEQLOOM_ALWAYS_INLINE float reduce_min(VecF a) {
  return min(min(a.v[0], a.v[2]), min(a.v[1], a.v[3]));
}
SEQLOOM_ALWAYS_INLINE void interleave(VecF a, VecF b, VecF* lo, VecF* hi) {
  lo->v = Float4{a.v[0], b.v[0], a.v[1], b.v[1]};
  hi->v = Float4{a.v[2], b.v[2], a.v[3], b.v[3]};
}
SEQLOOM_ALWAYS_INLINE void deinterleave(VecF lo, VecF hi, VecF* a, VecF* b) {
  a->v = Float4{lo.v[0], lo.v[2], hi.v[0], hi.v[2]};
  b->v = Float4{lo.v[1], lo.v[3], hi.v[1], hi.v[3]};
}
SEQLOOM_ALWAYS_INLINE void transpose(VecF rows[kLanes]) {
  for (int i = 0; i < 4; ++i) {
    for (int j = i + 1; j < 4; ++j) {
      const float t = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = t;
    }
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
