// SPDX-License-Identifier: Apache-2.0
// Warp-level tensor-core instructions: mma.sync, ldmatrix, stmatrix. Included by cuda/ptx.h.
//
// Fragment layout of a lane with g = lane / 4, t = lane % 4 (rows x columns, two 16-bit values a
// register, low half first):
//   A 16x16: a[0] = (g, 2t), a[1] = (g+8, 2t), a[2] = (g, 2t+8), a[3] = (g+8, 2t+8)
//   B 16x8 : b[0] = (2t, g), b[1] = (2t+8, g)          C, D 16x8: (g, 2t), (g, 2t+1), (g+8, ..)
#pragma once

namespace seqloom::cuda::ptx {

#if defined(__CUDACC__)
#define SEQLOOM_MMA_4_2(shape_and_types)                                                      \
  asm volatile("mma.sync.aligned." shape_and_types                                            \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                   \
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), \
                 "f"(c[1]), "f"(c[2]), "f"(c[3]))
#define SEQLOOM_MMA_2_1(shape_and_types)                        \
  asm volatile("mma.sync.aligned." shape_and_types              \
               " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]))
#endif

// D = A B + C with A 16x16, B 16x8, fp32 accumulation. D and C may be the same array.
SEQLOOM_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                      const float (&c)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(SEQLOOM_MMA_4_2("m16n8k16.row.col.f32.bf16.bf16.f32"));
#else
  emulation::mma(emulation::MmaKind::kBf16K16, d, a, b, c, site);
#endif
}

SEQLOOM_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const float (&c)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(SEQLOOM_MMA_4_2("m16n8k16.row.col.f32.f16.f16.f32"));
#else
  emulation::mma(emulation::MmaKind::kF16K16, d, a, b, c, site);
#endif
}

// The sm_75 form: A 16x8 in two registers, B 8x8 in one.
SEQLOOM_DEVICE void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b,
                                    const float (&c)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM75(SEQLOOM_MMA_2_1("m16n8k8.row.col.f32.f16.f16.f32"));
#else
  emulation::mma(emulation::MmaKind::kF16K8, d, a, &b, c, site);
#endif
}

SEQLOOM_DEVICE void mma_m16n8k8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b,
                                     const float (&c)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(SEQLOOM_MMA_2_1("m16n8k8.row.col.f32.bf16.bf16.f32"));
#else
  emulation::mma(emulation::MmaKind::kBf16K8, d, a, &b, c, site);
#endif
}

// tf32, one 32-bit value a register: A 16x8 = (g, t), (g+8, t), (g, t+4), (g+8, t+4);
// B 8x8 = (t, g), (t+4, g). Round operands with to_tf32 first: the unit drops the low 13 bits.
SEQLOOM_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const float (&c)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(SEQLOOM_MMA_4_2("m16n8k8.row.col.f32.tf32.tf32.f32"));
#else
  emulation::mma(emulation::MmaKind::kTf32K8, d, a, b, c, site);
#endif
}

#undef SEQLOOM_MMA_4_2
#undef SEQLOOM_MMA_2_1

// The same by element type, for kernels written once for both 16-bit types.
template <class T>
SEQLOOM_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                 const float (&c)[4] SEQLOOM_SITE) {
  if constexpr (std::is_same_v<T, __half>) {
    mma_m16n8k16_f16(d, a, b, c SEQLOOM_PASS_SITE);
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>, "mma_m16n8k16 takes half or bfloat16");
    mma_m16n8k16_bf16(d, a, b, c SEQLOOM_PASS_SITE);
  }
}

// ldmatrix: lane i gives the shared address of one 16-byte row (row i%8 of matrix i/8; an x1 or x2
// load uses the first 8 or 16 lanes). Register j of a lane gets two neighbours of row g of matrix
// j; with .trans, of column g.
#if defined(__CUDACC__)
#define SEQLOOM_LDMATRIX(count_and_trans, registers, ...)                                 \
  asm volatile("ldmatrix.sync.aligned.m8n8." count_and_trans ".shared.b16 " registers ";" \
               : __VA_ARGS__                                                              \
               : "r"(address)                                                             \
               : "memory")
#define SEQLOOM_LDMATRIX_BODY(count, trans, ptx, registers, ...) \
  SEQLOOM_SM75(SEQLOOM_LDMATRIX(ptx, registers, __VA_ARGS__))
#else
#define SEQLOOM_LDMATRIX_BODY(count, trans, ptx, registers, ...) \
  emulation::ldmatrix(r, count, trans, address, site)
#endif

SEQLOOM_DEVICE void ldmatrix_x1(uint32_t (&r)[1], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(1, false, "x1", "{%0}, [%1]", "=r"(r[0]));
}
SEQLOOM_DEVICE void ldmatrix_x2(uint32_t (&r)[2], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(2, false, "x2", "{%0,%1}, [%2]", "=r"(r[0]), "=r"(r[1]));
}
SEQLOOM_DEVICE void ldmatrix_x4(uint32_t (&r)[4], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(4, false, "x4", "{%0,%1,%2,%3}, [%4]", "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
                        "=r"(r[3]));
}
SEQLOOM_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(1, true, "x1.trans", "{%0}, [%1]", "=r"(r[0]));
}
SEQLOOM_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(2, true, "x2.trans", "{%0,%1}, [%2]", "=r"(r[0]), "=r"(r[1]));
}
SEQLOOM_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address SEQLOOM_SITE) {
  SEQLOOM_LDMATRIX_BODY(4, true, "x4.trans", "{%0,%1,%2,%3}, [%4]", "=r"(r[0]), "=r"(r[1]),
                        "=r"(r[2]), "=r"(r[3]));
}
#undef SEQLOOM_LDMATRIX_BODY
#undef SEQLOOM_LDMATRIX

// stmatrix (sm_90): the reverse of ldmatrix.
SEQLOOM_DEVICE void stmatrix_x2(uint32_t address, const uint32_t (&r)[2] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(address),
                   "r"(r[0]), "r"(r[1]) : "memory"));
#else
  emulation::stmatrix(r, 2, false, address, site);
#endif
}
SEQLOOM_DEVICE void stmatrix_x4(uint32_t address, const uint32_t (&r)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
                   "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory"));
#else
  emulation::stmatrix(r, 4, false, address, site);
#endif
}
SEQLOOM_DEVICE void stmatrix_x4_trans(uint32_t address, const uint32_t (&r)[4] SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory"));
#else
  emulation::stmatrix(r, 4, true, address, site);
#endif
}

}  // namespace seqloom::cuda::ptx
