// SPDX-License-Identifier: Apache-2.0
// Conformance of scalar intrinsics and conversions: word i in, word i out, 256 of them.
#include <cfloat>

#include "../registry.h"

namespace seqloom_test {
namespace {

#define FLOAT_FUNCTION(name, compare, capability, expression)       \
  CONFORMANCE(name, "float", compare, 256, 256, capability, 256, 0, \
              const float x = as_float(in[thread()]);               \
              out[thread()] = as_bits(expression);)
#define WORD_FUNCTION(name, expression)                                                     \
  CONFORMANCE(name, "bits", "exact", 256, 256, 75, 256, 0, const uint32_t x = in[thread()]; \
              const uint32_t y = in[(thread() + 7) & 255]; (void)y;                         \
              out[thread()] = static_cast<uint32_t>(expression);)
#define PAIR_FUNCTION(name, inputs, expression)                                                    \
  CONFORMANCE(name, inputs, "exact", 256, 256, 75, 256, 0, const float x = as_float(in[thread()]); \
              const float y = as_float(in[(thread() + 7) & 255]); (void)y;                         \
              out[thread()] = expression;)

FLOAT_FUNCTION(ex2_approx, "3e-7", 75, ptx::ex2_approx(x))
// Near 1 a logarithm's error is absolute.
FLOAT_FUNCTION(lg2_approx, "1e-6", 75, 4.f + ptx::lg2_approx(x))
FLOAT_FUNCTION(tanh_approx, "1e-3", 75, ptx::tanh_approx(x))
FLOAT_FUNCTION(fast_expf, "1e-4", 75, __expf(x))
FLOAT_FUNCTION(fast_logf, "1e-5", 75, 4.f + __logf(x))
FLOAT_FUNCTION(fast_log2f, "1e-5", 75, 4.f + __log2f(x))
FLOAT_FUNCTION(fast_log10f, "1e-5", 75, 4.f + __log10f(x))
FLOAT_FUNCTION(expf, "3e-7", 75, expf(x))
FLOAT_FUNCTION(logf, "3e-7", 75, logf(x))
FLOAT_FUNCTION(log1pf, "3e-7", 75, log1pf(x))
FLOAT_FUNCTION(expm1f, "3e-7", 75, expm1f(x))
FLOAT_FUNCTION(tanhf, "3e-7", 75, tanhf(x))
FLOAT_FUNCTION(erff, "3e-7", 75, erff(x))
FLOAT_FUNCTION(rsqrtf, "3e-7", 75, rsqrtf(x))
FLOAT_FUNCTION(sqrt_rn, "exact", 75, __fsqrt_rn(x))
FLOAT_FUNCTION(rcp_rn, "exact", 75, __frcp_rn(x))
FLOAT_FUNCTION(rsqrt_rn, "3e-7", 75, __frsqrt_rn(x))
FLOAT_FUNCTION(rsqrt_of_double, "3e-7", 75, static_cast<float>(rsqrt(static_cast<double>(x))))
FLOAT_FUNCTION(normal_cdf, "1e-6", 75, x > -5.f ? normcdff(x) : 0.f)
FLOAT_FUNCTION(saturate, "exact", 75, __saturatef(x))
FLOAT_FUNCTION(fast_divide, "1e-6", 75, __fdividef(1.f, x))
FLOAT_FUNCTION(to_half, "exact", 75, __half2float(__float2half_rn(x)))
FLOAT_FUNCTION(to_bfloat16, "exact", 75, __bfloat162float(__float2bfloat16_rn(x)))
FLOAT_FUNCTION(fast_exp10f, "1e-4", 75, __exp10f(x))
FLOAT_FUNCTION(fast_powf, "1e-4", 75, __powf(x, 1.7f))
// Errors of sine and cosine are absolute, and hold between -pi and pi: beyond, what is finite says
// nothing.
SEQLOOM_DEVICE float angle(float x) { return fabsf(x) > 3.f && fabsf(x) <= FLT_MAX ? 1.f : x; }
FLOAT_FUNCTION(fast_sinf, "1e-4", 75, 2.f + __sinf(angle(x)))
FLOAT_FUNCTION(fast_cosf, "1e-4", 75, 2.f + __cosf(angle(x)))
CONFORMANCE(fast_sincosf, "float", "1e-4", 256, 512, 75, 256, 0, float s; float c;
            __sincosf(angle(as_float(in[thread()])), &s, &c); out[2 * thread()] = as_bits(2.f + s);
            out[2 * thread() + 1] = as_bits(2.f + c);)
PAIR_FUNCTION(to_tf32, "float", ptx::to_tf32(x))
PAIR_FUNCTION(pack_half, "float", pack_pair<Half>(x, y))
PAIR_FUNCTION(pack_bfloat16, "float", pack_pair<BFloat16>(x, y))
PAIR_FUNCTION(min_of, "float", as_bits(fminf(x, y)))
PAIR_FUNCTION(max_of, "float", as_bits(fmaxf(x, y)))
PAIR_FUNCTION(add_rn, "float", as_bits(__fadd_rn(x, y)))
PAIR_FUNCTION(sub_rn, "float", as_bits(__fsub_rn(x, y)))
PAIR_FUNCTION(mul_rn, "float", as_bits(__fmul_rn(x, y)))
PAIR_FUNCTION(div_rn, "float", as_bits(__fdiv_rn(x, y)))
PAIR_FUNCTION(fma_rn, "float", as_bits(__fmaf_rn(x, y, 1.5f)))
// Integers from floats: out of range ends at the nearest one, NaN is 0.
#define INTEGER_FUNCTION(name, expression)                                  \
  CONFORMANCE(name, "float", "words", 256, 256, 75, 256, 0,                 \
              const float x = as_float(in[thread()]) * (1 + thread() % 97); \
              out[thread()] = static_cast<uint32_t>(expression);)
INTEGER_FUNCTION(int_nearest, __float2int_rn(x))
INTEGER_FUNCTION(int_below, __float2int_rd(x))
INTEGER_FUNCTION(int_above, __float2int_ru(x))
INTEGER_FUNCTION(int_towards_zero, __float2int_rz(x))
INTEGER_FUNCTION(unsigned_nearest, __float2uint_rn(x))
INTEGER_FUNCTION(unsigned_below, __float2uint_rd(x))
INTEGER_FUNCTION(unsigned_above, __float2uint_ru(x))
INTEGER_FUNCTION(unsigned_towards_zero, __float2uint_rz(x))
PAIR_FUNCTION(min_of_any, "float", as_bits(min(x, y)))
PAIR_FUNCTION(max_of_any, "float", as_bits(max(x, y)))
CONFORMANCE(extremes_of_double, "float", "exact", 256, 512, 75, 256, 0,
            const double x = as_float(in[thread()]);
            const double y = as_float(in[(thread() + 7) & 255]);
            out[2 * thread()] = as_bits(static_cast<float>(min(x, y)));
            out[2 * thread() + 1] = as_bits(static_cast<float>(max(x, y)));)
PAIR_FUNCTION(bits_of_float, "float", static_cast<uint32_t>(__float_as_int(x)) ^ 1u)
CONFORMANCE(half_of_bits, "half", "exact", 256, 512, 75, 256, 0,
            const float2 v = unpack_pair<Half>(in[thread()]);
            out[2 * thread()] = as_bits(v.x); out[2 * thread() + 1] = as_bits(v.y);)
CONFORMANCE(bfloat16_of_bits, "bfloat16", "exact", 256, 512, 75, 256, 0,
            const float2 v = unpack_pair<BFloat16>(in[thread()]);
            out[2 * thread()] = as_bits(v.x); out[2 * thread() + 1] = as_bits(v.y);)

// A half's or bfloat16's own arithmetic: one rounding to 16 bits. Two to the word.
#define HALF_FMA(name, inputs, type, capability)                                         \
  CONFORMANCE(name, inputs, "exact", 256, 512, capability, 256, 0, type x[2]; type y[2]; \
              type z[2]; memcpy(static_cast<void*>(x), &in[thread()], 4);                \
              memcpy(static_cast<void*>(y), &in[(thread() + 7) & 255], 4);               \
              memcpy(static_cast<void*>(z), &in[(thread() + 31) & 255], 4);              \
              const float low = to_float(__hfma(x[0], y[0], z[0]));                      \
              const float high = to_float(__hfma(x[1], y[1], z[1]));                     \
              out[2 * thread()] = as_bits(low); out[2 * thread() + 1] = as_bits(high);)
#define PACKED_FMA(name, inputs, type, widen, capability)                                  \
  CONFORMANCE(name, inputs, "exact", 256, 512, capability, 256, 0, type x; type y; type z; \
              memcpy(static_cast<void*>(&x), &in[thread()], 4);                            \
              memcpy(static_cast<void*>(&y), &in[(thread() + 7) & 255], 4);                \
              memcpy(static_cast<void*>(&z), &in[(thread() + 31) & 255], 4);               \
              const float2 r = widen(__hfma2(x, y, z)); out[2 * thread()] = as_bits(r.x);  \
              out[2 * thread() + 1] = as_bits(r.y);)
HALF_FMA(fma_half, "half", Half, 75)
PACKED_FMA(fma_half2, "half", __half2, __half22float2, 75)
// bfloat16 arithmetic is of compute capability 8.0; older ones compute it in float32.
HALF_FMA(fma_bfloat16, "bfloat16", BFloat16, 80)
PACKED_FMA(fma_bfloat162, "bfloat16", __nv_bfloat162, __bfloat1622float2, 80)

WORD_FUNCTION(float_of_bits, __float_as_uint(__int_as_float(static_cast<int>(x & 0x7fbfffffu))))
WORD_FUNCTION(float_of_int, __float_as_uint(__int2float_rn(static_cast<int>(x))))
WORD_FUNCTION(float_of_unsigned, __float_as_uint(__uint2float_rn(x)))
WORD_FUNCTION(bits_of_double,
              __double_as_longlong(static_cast<double>(x)) >> 20 ^
                  __double_as_longlong(__longlong_as_double(static_cast<long long>(y))))
WORD_FUNCTION(popcll, __popcll((static_cast<unsigned long long>(x) << 32) | y))
WORD_FUNCTION(clzll, __clzll(static_cast<long long>(y & 1 ? x : y)))
WORD_FUNCTION(popc, __popc(x))
WORD_FUNCTION(clz, __clz(static_cast<int>(x)))
WORD_FUNCTION(ffs, __ffs(static_cast<int>(x)))
WORD_FUNCTION(brev, __brev(x))
WORD_FUNCTION(umulhi, __umulhi(x, y))
WORD_FUNCTION(mulhi, __mulhi(static_cast<int>(x), static_cast<int>(y)))
WORD_FUNCTION(byte_perm, __byte_perm(x, y, x & 0x7777u))
WORD_FUNCTION(funnel_left, __funnelshift_l(x, y, x & 63))
WORD_FUNCTION(funnel_right, __funnelshift_r(x, y, x & 63))
WORD_FUNCTION(umul64hi, __umul64hi((static_cast<uint64_t>(x) << 32) | y, 0x9E3779B97F4A7C15ull))

WORD_FUNCTION(extremes_of_int,
              min(static_cast<int>(x), static_cast<int>(y)) ^ max(static_cast<int>(x), 12345))
WORD_FUNCTION(extremes_of_unsigned, min(x, y) ^ max(x, 0x90000000u))
// Halves that differ in their upper words, whose signs matter.
WORD_FUNCTION(extremes_of_long,
              static_cast<uint64_t>(min(static_cast<long long>(static_cast<uint64_t>(x) << 32 | y),
                                        static_cast<long long>(static_cast<uint64_t>(y) << 32))) >>
                      32 ^
                  static_cast<uint64_t>(max(static_cast<long long>(static_cast<uint64_t>(x) << 32),
                                            12345ll)) >>
                      32)
WORD_FUNCTION(extremes_of_unsigned_long, min(static_cast<unsigned long long>(x) << 32,
                                             static_cast<unsigned long long>(y) << 32) >>
                                                 32 ^
                                             max(static_cast<unsigned long long>(x), 1ull << 31))
// The clock runs, and forwards.
CONFORMANCE(clock, "bits", "exact", 32, 32, 75, 32, 0, const long long before = clock64();
            for (int i = 0; i < 8; ++i) __nanosleep(100);
            out[thread()] = in[thread()] ^ (clock64() > before);)

// Loads and stores with a hint for the caches move the same bits.
WORD_FUNCTION(cached_loads, x + __ldg(in + 3) + __ldca(in + 5) + __ldcg(in + 7) + __ldcs(in + 9) +
                                __ldlu(in + 11) + __ldcv(in + 13))
CONFORMANCE(cached_stores, "bits", "exact", 256, 256, 75, 64, 0, const int i = thread() * 4;
            __stwb(out + i, in[i]); __stcg(out + i + 1, in[i + 1]); __stcs(out + i + 2, in[i + 2]);
            __stwt(out + i + 3, in[i + 3]);)

// 16-byte vectors through the conversion helpers.
CONFORMANCE(vector_half, "half", "exact", 128, 128, 75, 32, 0, float v[8];
            load_vector(reinterpret_cast<const Half*>(in) + thread() * 8, v);
            store_vector(reinterpret_cast<Half*>(out) + thread() * 8, v);)
CONFORMANCE(vector_bfloat16, "bfloat16", "exact", 128, 128, 75, 32, 0, float v[8];
            load_vector_streaming(reinterpret_cast<const BFloat16*>(in) + thread() * 8, v);
            store_vector_streaming(reinterpret_cast<BFloat16*>(out) + thread() * 8, v);)
CONFORMANCE(vector_float, "float", "exact", 128, 128, 75, 32, 0, float v[4];
            load_vector_readonly(reinterpret_cast<const float*>(in) + thread() * 4, v);
            store_vector(reinterpret_cast<float*>(out) + thread() * 4, v);)

}  // namespace
}  // namespace seqloom_test
