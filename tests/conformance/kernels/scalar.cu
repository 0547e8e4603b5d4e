// SPDX-License-Identifier: Apache-2.0
// Conformance of scalar intrinsics and conversions: word i in, word i out, 256 of them.
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
FLOAT_FUNCTION(lg2_approx, "1e-6", 75, ptx::lg2_approx(x))
FLOAT_FUNCTION(tanh_approx, "1e-3", 75, ptx::tanh_approx(x))
FLOAT_FUNCTION(fast_expf, "1e-4", 75, __expf(x))
FLOAT_FUNCTION(fast_logf, "1e-5", 75, __logf(x))
FLOAT_FUNCTION(expf, "3e-7", 75, expf(x))
FLOAT_FUNCTION(logf, "3e-7", 75, logf(x))
FLOAT_FUNCTION(log1pf, "3e-7", 75, log1pf(x))
FLOAT_FUNCTION(expm1f, "3e-7", 75, expm1f(x))
FLOAT_FUNCTION(tanhf, "3e-7", 75, tanhf(x))
FLOAT_FUNCTION(erff, "3e-7", 75, erff(x))
FLOAT_FUNCTION(rsqrtf, "3e-7", 75, rsqrtf(x))
FLOAT_FUNCTION(sqrt_rn, "exact", 75, __fsqrt_rn(x))
FLOAT_FUNCTION(rcp_rn, "exact", 75, __frcp_rn(x))
FLOAT_FUNCTION(saturate, "exact", 75, __saturatef(x))
FLOAT_FUNCTION(fast_divide, "1e-6", 75, __fdividef(1.f, x))
FLOAT_FUNCTION(to_half, "exact", 75, __half2float(__float2half_rn(x)))
FLOAT_FUNCTION(to_bfloat16, "exact", 75, __bfloat162float(__float2bfloat16_rn(x)))
PAIR_FUNCTION(to_tf32, "float", ptx::to_tf32(x))
PAIR_FUNCTION(pack_half, "float", pack_pair<Half>(x, y))
PAIR_FUNCTION(pack_bfloat16, "float", pack_pair<BFloat16>(x, y))
PAIR_FUNCTION(min_of, "float", as_bits(fminf(x, y)))
PAIR_FUNCTION(max_of, "float", as_bits(fmaxf(x, y)))
PAIR_FUNCTION(fma_rn, "float", as_bits(__fmaf_rn(x, y, 1.5f)))
PAIR_FUNCTION(int_of, "small", static_cast<uint32_t>(__float2int_rn(x * 1000.f)))
CONFORMANCE(half_of_bits, "half", "exact", 256, 512, 75, 256, 0,
            const float2 v = unpack_pair<Half>(in[thread()]);
            out[2 * thread()] = as_bits(v.x); out[2 * thread() + 1] = as_bits(v.y);)
CONFORMANCE(bfloat16_of_bits, "bfloat16", "exact", 256, 512, 75, 256, 0,
            const float2 v = unpack_pair<BFloat16>(in[thread()]);
            out[2 * thread()] = as_bits(v.x); out[2 * thread() + 1] = as_bits(v.y);)

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
