// SPDX-License-Identifier: Apache-2.0
// mma.sync, ldmatrix and stmatrix: fragments of 32 lanes to dense tiles and back. Products are
// exact in float and accumulated in float; tensor cores truncate instead, so no test may expect
// the hardware's bits.
#include <algorithm>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

float bf16_value(std::uint32_t bits) { return from_bits<float>(bits << 16); }
float f16_value(std::uint32_t bits) {
  __half_raw raw;
  raw.x = static_cast<unsigned short>(bits);
  return __half2float(__half(raw));
}
float tf32_value(std::uint32_t bits) { return from_bits<float>(bits & 0xffffe000u); }

struct MmaInput {
  std::uint32_t a[4], b[2];
  float c[4];
};

using Vector8 = float __attribute__((vector_size(32)));
// Two clones, not a template of the whole program: this file is the emulator's hot spot.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEQLOOM_CLONES __attribute__((target_clones("arch=haswell", "default")))
#else
#define SEQLOOM_CLONES
#endif
// C[16][8] += A[16][K] B[K][8]; eight independent rows hide the multiply-add latency.
SEQLOOM_CLONES void multiply_tile(int depth, const float* a, const float* b, float* c) {
  for (int i = 0; i < 16; i += 8) {
    Vector8 rows[8];
    for (int r = 0; r < 8; ++r) std::memcpy(&rows[r], c + (i + r) * 8, 32);
    for (int k = 0; k < depth; ++k) {
      Vector8 column;
      std::memcpy(&column, b + k * 8, 32);
      for (int r = 0; r < 8; ++r) rows[r] += a[(i + r) * depth + k] * column;
    }
    for (int r = 0; r < 8; ++r) std::memcpy(c + (i + r) * 8, &rows[r], 32);
  }
}

// `wide` 16-bit operands with K = 16 or 8.
template <class Convert>
void multiply_16bit(Warp& w, int depth, Convert value) {
  float a[16 * 16], b[16 * 8], c[16 * 8];
  const int halves = depth / 8;
  for (int l = 0; l < 32; ++l) {
    const auto& in = *static_cast<const MmaInput*>(w.lanes[l]->request.in);
    const int g = l >> 2, t = l & 3;
    for (int r = 0; r < 2 * halves; ++r) {
      float* p = a + (g + (r & 1) * 8) * depth + t * 2 + (r >> 1) * 8;
      p[0] = value(in.a[r] & 0xffff);
      p[1] = value(in.a[r] >> 16);
    }
    for (int r = 0; r < halves; ++r) {
      float* p = b + (t * 2 + r * 8) * 8 + g;
      p[0] = value(in.b[r] & 0xffff);
      p[8] = value(in.b[r] >> 16);
    }
    for (int e = 0; e < 4; ++e) c[(g + (e >> 1) * 8) * 8 + t * 2 + (e & 1)] = in.c[e];
  }
  multiply_tile(depth, a, b, c);
  for (int l = 0; l < 32; ++l) {
    float* d = static_cast<float*>(w.lanes[l]->request.out);
    for (int e = 0; e < 4; ++e) d[e] = c[((l >> 2) + (e >> 1) * 8) * 8 + (l & 3) * 2 + (e & 1)];
  }
}

void multiply_tf32(Warp& w) {
  float a[16 * 8], b[8 * 8], c[16 * 8];
  for (int l = 0; l < 32; ++l) {
    const auto& in = *static_cast<const MmaInput*>(w.lanes[l]->request.in);
    const int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; ++r) a[(g + (r & 1) * 8) * 8 + t + (r >> 1) * 4] = tf32_value(in.a[r]);
    for (int r = 0; r < 2; ++r) b[(t + r * 4) * 8 + g] = tf32_value(in.b[r]);
    for (int e = 0; e < 4; ++e) c[(g + (e >> 1) * 8) * 8 + t * 2 + (e & 1)] = in.c[e];
  }
  multiply_tile(8, a, b, c);
  for (int l = 0; l < 32; ++l) {
    float* d = static_cast<float*>(w.lanes[l]->request.out);
    for (int e = 0; e < 4; ++e) d[e] = c[((l >> 2) + (e >> 1) * 8) * 8 + (l & 3) * 2 + (e & 1)];
  }
}

constexpr std::uint64_t kTransposed = 256;
struct StmatrixInput {
  std::uint32_t address, r[4];
};

}  // namespace

float ex2_ftz(float x) {
  if (std::fpclassify(x) == FP_SUBNORMAL) x = 0.f;
  const float r = ::exp2f(x);
  return std::fpclassify(r) == FP_SUBNORMAL ? 0.f : r;
}
float lg2_ftz(float x) {
  if (std::fpclassify(x) == FP_SUBNORMAL) x = std::copysign(0.f, x);
  return ::log2f(x);
}
std::uint32_t round_to_tf32(float x, Site site) {
  require_capability(80, "cvt.rna.tf32", site);
  const auto bits = static_cast<std::uint32_t>(to_bits(x));
  if ((bits & 0x7f800000u) == 0x7f800000u) {
    return bits & 0x007fffffu ? 0x7fffe000u : bits;  // a NaN stays one after truncation
  }
  return (bits + 0x1000u) & 0xffffe000u;
}

void mma(MmaKind kind, float* d, const std::uint32_t* a, const std::uint32_t* b, const float* c,
         Site site) {
  InRuntime guard;
  require_capability(kind == MmaKind::kF16K8 ? 75 : 80, "mma.sync of this kind", site);
  MmaInput in{};
  const bool short_k = kind == MmaKind::kBf16K8 || kind == MmaKind::kF16K8;
  std::memcpy(in.a, a, short_k ? 8 : 16);
  std::memcpy(in.b, b, short_k ? 4 : 8);
  std::memcpy(in.c, c, 16);
  warp_collective(WarpOp::kMma, 0xffffffffu, site, &in, d, static_cast<std::uint64_t>(kind));
}

void perform_mma(Warp& w, MmaKind kind) {
  for (int l = 1; l < 32; ++l)
    if (w.lanes[l]->request.arg != w.lanes[0]->request.arg)
      fail(w.lanes[l]->request.site, "mma.sync: lanes differ in operand type");
  switch (kind) {
    case MmaKind::kBf16K16:
      multiply_16bit(w, 16, bf16_value);
      break;
    case MmaKind::kF16K16:
      multiply_16bit(w, 16, f16_value);
      break;
    case MmaKind::kBf16K8:
      multiply_16bit(w, 8, bf16_value);
      break;
    case MmaKind::kF16K8:
      multiply_16bit(w, 8, f16_value);
      break;
    case MmaKind::kTf32K8:
      multiply_tf32(w);
      break;
  }
}

void ldmatrix(std::uint32_t* r, int matrices, bool trans, std::uint32_t address, Site site) {
  InRuntime guard;
  warp_collective(WarpOp::kLdmatrix, 0xffffffffu, site, &address, r,
                  static_cast<std::uint64_t>(matrices) | (trans ? kTransposed : 0));
}

void perform_ldmatrix(Warp& w, unsigned, std::uint64_t arg) {
  const int matrices = static_cast<int>(arg & 255);
  const bool trans = (arg & kTransposed) != 0;
  std::uint16_t m[4][8][8];
  for (int j = 0; j < matrices; ++j) {
    int banks[8] = {}, worst = 0;
    for (int row = 0; row < 8; ++row) {
      Fiber* f = w.lanes[j * 8 + row];
      const std::uint32_t address = *static_cast<const std::uint32_t*>(f->request.in);
      if (address & 15)
        fail(f->request.site, "ldmatrix: row address 0x%x of lane %d is not 16-byte aligned",
             address, f->lane);
      ActAs owner(f);
      const SharedRef ref = shared_at(address, 16, f->request.site);
      check_access(ref.p, 16, kRead, f->request.site);
      std::memcpy(m[j][row], ref.p, 16);
      worst = std::max(worst, ++banks[address >> 4 & 7]);
    }
    ++machine.stats.ldmatrix;
    machine.stats.ldmatrix_conflicts += static_cast<std::uint64_t>(worst - 1);
  }
  for (int l = 0; l < 32; ++l) {
    auto* r = static_cast<std::uint32_t*>(w.lanes[l]->request.out);
    const int g = l >> 2, t = (l & 3) * 2;
    for (int j = 0; j < matrices; ++j)
      r[j] = trans ? m[j][t][g] | static_cast<std::uint32_t>(m[j][t + 1][g]) << 16
                   : m[j][g][t] | static_cast<std::uint32_t>(m[j][g][t + 1]) << 16;
  }
}

void stmatrix(const std::uint32_t* r, int matrices, bool trans, std::uint32_t address, Site site) {
  InRuntime guard;
  require_capability(90, "stmatrix", site);
  StmatrixInput in{address, {}};
  std::memcpy(in.r, r, static_cast<std::size_t>(matrices) * 4);
  warp_collective(WarpOp::kStmatrix, 0xffffffffu, site, &in, nullptr,
                  static_cast<std::uint64_t>(matrices) | (trans ? kTransposed : 0));
}

void perform_stmatrix(Warp& w, std::uint64_t arg) {
  const int matrices = static_cast<int>(arg & 255);
  const bool trans = (arg & kTransposed) != 0;
  const auto element = [&](int j, int row, int column) {
    const int lane = trans ? column * 4 + row / 2 : row * 4 + column / 2;
    const std::uint32_t pair = static_cast<const StmatrixInput*>(w.lanes[lane]->request.in)->r[j];
    return static_cast<std::uint16_t>((trans ? row : column) & 1 ? pair >> 16 : pair & 0xffff);
  };
  for (int j = 0; j < matrices; ++j) {
    for (int row = 0; row < 8; ++row) {
      Fiber* f = w.lanes[j * 8 + row];
      const std::uint32_t address = static_cast<const StmatrixInput*>(f->request.in)->address;
      if (address & 15)
        fail(f->request.site, "stmatrix: row address 0x%x of lane %d is not 16-byte aligned",
             address, f->lane);
      std::uint16_t values[8];
      for (int column = 0; column < 8; ++column) values[column] = element(j, row, column);
      ActAs owner(f);
      const SharedRef ref = shared_at(address, 16, f->request.site);
      check_access(ref.p, 16, kWrite, f->request.site);
      std::memcpy(ref.p, values, 16);
      set_state(ref.p, 16, kInitialised);
    }
  }
}

}  // namespace seqloom::emulation
