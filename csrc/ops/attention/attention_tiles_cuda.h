// SPDX-License-Identifier: Apache-2.0
// Tiles in shared memory and the two products that attention is made of, for one warp:
//
//   product_nt   S[16, n]  = A[16, d] B[n, d]^T    both operands in shared memory
//   product_nn   O[16, d] += P[16, n] B[n, d]      P in registers, as product_nt left it
//
// Forward is S = Q K^T, O += P V. Backward is the same two shapes again: a pass that owns queries
// has dP = G V^T and dQ += dS K, a pass that owns keys has S^T = K Q^T, dV += P^T G and
// dK += dS^T Q. So no kernel ever writes scores anywhere but into registers.
//
// Two classes provide the products: TensorCore (mma.sync on float16 and bfloat16) and FloatCore
// (multiply-adds on float32, whose result tensor cores would round). In both, lane 4 g + t owns
// rows g and g + 8 and the columns 8 n + 2 t and 8 n + 2 t + 1 of S, as elements [n][0..1] and
// [n][2..3].
//
// A kernel for another generation (warpgroup products, bulk copies) has other tiles and can share
// everything in attention_cuda.h.
#pragma once

#include "cuda/half_types.h"
#include "cuda/ptx.h"

namespace seqloom::ops::attention_device {

namespace ptx = cuda::ptx;

constexpr unsigned kAllLanes = 0xffffffffu;

// ---- shared memory ------------------------------------------------------------------------------

// A tile of rows of kD elements of T, in chunks of 16 bytes. Eight neighbouring rows keep the same
// chunk in eight different groups of four banks, so that ldmatrix, and float4 reads of eight rows,
// meet no bank twice.
template <class T, int kD>
struct Tile {
  static constexpr int kRowBytes = kD * static_cast<int>(sizeof(T));
  static constexpr int kChunkElements = 16 / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kRowBytes / 16;
  static_assert(kRowBytes >= 64 && (kRowBytes & (kRowBytes - 1)) == 0, "a power of two");

  // What the chunk index is combined with by exclusive or. Rows of 64 bytes lie two to a line of
  // 128, the lowest bit of the row being the half.
  SEQLOOM_DEVICE static constexpr int swizzle(int row) {
    return kChunks >= 8 ? row & 7 : (row >> 1) & 3;
  }
  SEQLOOM_DEVICE static constexpr int offset(int row, int chunk) {
    return row * kRowBytes + ((chunk ^ swizzle(row)) << 4);
  }
  // Whether eight neighbouring lanes, which are served together, store chunks of a tile (load_tile)
  // in different groups of banks.
  static constexpr bool stores_are_spread() {
    for (int first = 0; first < 8 * kChunks; first += 8) {
      int groups = 0;
      for (int x = first; x < first + 8; ++x)
        groups |= 1 << (offset(x / kChunks, x % kChunks) >> 4 & 7);
      if (groups != 255) return false;
    }
    return true;
  }
};

// A size that depends on the head size.
constexpr int by_width(int width, int to_64, int to_128, int above) {
  return width <= 64 ? to_64 : width <= 128 ? to_128 : above;
}

// Fills a tile: row r comes from row_at(r); rows from `live` on and columns from `width` on become
// zeros. `aligned`: every row starts on a 16-byte boundary. Asynchronous copies are committed as
// one group by the caller.
template <class T, int kRows, int kD, int kThreads, bool kAsync, class RowAt>
SEQLOOM_DEVICE void load_tile(unsigned char* tile, int live, int width, bool aligned,
                              const RowAt& row_at) {
  using Layout = Tile<T, kD>;
  constexpr int kElements = Layout::kChunkElements;
  static_assert(Layout::stores_are_spread(), "bank conflicts");
  // A few loads in flight a thread: more would take registers from the accumulators.
  [[maybe_unused]] constexpr int kUnroll = kAsync ? 4 : 2;
#pragma unroll kUnroll
  for (int base = 0; base < kRows * Layout::kChunks; base += kThreads) {
    const int x = base + static_cast<int>(threadIdx.x);
    if (kRows * Layout::kChunks % kThreads != 0 && x >= kRows * Layout::kChunks) break;
    const int row = x / Layout::kChunks, chunk = x % Layout::kChunks;
    int n = row < live ? width - chunk * kElements : 0;
    n = n < 0 ? 0 : n > kElements ? kElements : n;
    const T* from = row_at(n > 0 ? row : 0) + (n > 0 ? chunk * kElements : 0);
    unsigned char* to = tile + Layout::offset(row, chunk);
    if (kAsync && aligned) {
      ptx::cp_async_16(ptx::shared_address(to), from, n * static_cast<int>(sizeof(T)));
    } else {
      uint4 bits = make_uint4(0, 0, 0, 0);
      if (aligned && n == kElements) {
        bits = *reinterpret_cast<const uint4*>(from);
      } else if (n > 0) {
        alignas(16) T values[kElements];
        memset(static_cast<void*>(values), 0, sizeof(values));
#pragma unroll
        for (int i = 0; i < kElements; ++i)
          if (i < n) values[i] = from[i];
        memcpy(&bits, static_cast<const void*>(values), 16);
      }
      *reinterpret_cast<uint4*>(to) = bits;
    }
  }
}

// A tile of the rows first, first + 1, .. of a matrix, as far as `end`.
template <class P, int kRows, int kD, int kThreads>
SEQLOOM_DEVICE void load_matrix(unsigned char* tile, const typename P::Element* matrix,
                                int64_t stride, int first, int end, int64_t width, bool aligned) {
  load_tile<typename P::Element, kRows, kD, kThreads, P::kAsync>(
      tile, end - first, static_cast<int>(width), aligned,
      [&](int r) { return matrix + (first + r) * stride; });
}

// ---- float16 and bfloat16: tensor cores ---------------------------------------------------------

// kTuring: sm_75, which has half of the instruction (float16 alone) and no asynchronous copies.
template <class T, bool kTuring>
struct TensorCore {
  using Element = T;
  static constexpr bool kTensorCores = true;
  static constexpr bool kAsync = !kTuring;
  static constexpr bool kSmallHeads = !kTuring;  // whether there are instances for 32 and less
  // What a block may ask for on every device that runs this: sm_75, or sm_86 and sm_120.
  static constexpr int kSharedLimit = (kTuring ? 64 : 99) * 1024;
  // nvcc compiles the kernels of one generation for that generation only.
#if defined(__CUDACC__)
  static constexpr bool kCompiled = kTuring ? SEQLOOM_ARCH < 800 : SEQLOOM_ARCH >= 800;
#else
  static constexpr bool kCompiled = true;
#endif
  template <int kN>
  static constexpr int kStagingFloats = 0;  // shared memory a warp needs for product_nn

  SEQLOOM_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
    if constexpr (kTuring) {
      // The fragments of m16n8k16 are those of two m16n8k8, one after the other.
      const uint32_t low[2] = {a[0], a[1]}, high[2] = {a[2], a[3]};
      ptx::mma_m16n8k8_f16(d, low, b0, d);
      ptx::mma_m16n8k8_f16(d, high, b1, d);
    } else {
      const uint32_t b[2] = {b0, b1};
      ptx::mma_m16n8k16<T>(d, a, b, d);
    }
  }

  // Rows a_row.. of A against the kN rows of B.
  template <int kN, int kD>
  SEQLOOM_DEVICE static void product_nt(float (&s)[kN / 8][4], const unsigned char* a, int a_row,
                                        const unsigned char* b, int lane) {
    using Layout = Tile<T, kD>;
#pragma unroll
    for (int n = 0; n < kN / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = 0.f;
    // Matrices of A: (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8); of B: (n, k),
    // (n, k + 8), (n + 8, k), (n + 8, k + 8). A lane names one row of one of them; steps of k
    // change its address by an exclusive or with a constant.
    const int line_a = a_row + (lane & 15), half_a = lane >> 4;
    const int line_b = (lane & 7) + ((lane >> 4) << 3), half_b = (lane >> 3) & 1;
    const uint32_t at_a =
        ptx::shared_address(a) + static_cast<uint32_t>(line_a * Layout::kRowBytes);
    const uint32_t at_b =
        ptx::shared_address(b) + static_cast<uint32_t>(line_b * Layout::kRowBytes);
    const int x_a = half_a ^ Layout::swizzle(line_a), x_b = half_b ^ Layout::swizzle(line_b);
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
      uint32_t frag[4];
      ptx::ldmatrix_x4(frag, at_a + static_cast<uint32_t>(((2 * k) ^ x_a) << 4));
#pragma unroll
      for (int n = 0; n < kN / 8; n += 2) {
        uint32_t pair[4];
        ptx::ldmatrix_x4(
            pair, at_b + static_cast<uint32_t>(n * 8 * Layout::kRowBytes + (((2 * k) ^ x_b) << 4)));
        multiply(s[n], frag, pair[0], pair[1]);
        multiply(s[n + 1], frag, pair[2], pair[3]);
      }
    }
  }

  // The layout of an accumulator is that of an A operand twice as wide: P needs no exchange.
  template <int kN, int kD>
  SEQLOOM_DEVICE static void product_nn(float (&o)[kD / 8][4], const float (&p)[kN / 8][4],
                                        const unsigned char* b, float*, int lane) {
    using Layout = Tile<T, kD>;
    const int line = lane & 15, half = lane >> 4;
    const uint32_t at = ptx::shared_address(b) + static_cast<uint32_t>(line * Layout::kRowBytes);
    const int x = half ^ Layout::swizzle(line);
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      const uint32_t frag[4] = {cuda::pack_pair<T>(p[2 * k][0], p[2 * k][1]),
                                cuda::pack_pair<T>(p[2 * k][2], p[2 * k][3]),
                                cuda::pack_pair<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                                cuda::pack_pair<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
      for (int n = 0; n < kD / 8; n += 2) {
        uint32_t pair[4];
        ptx::ldmatrix_x4_trans(
            pair, at + static_cast<uint32_t>(k * 16 * Layout::kRowBytes + ((n ^ x) << 4)));
        multiply(o[n], frag, pair[0], pair[1]);
        multiply(o[n + 1], frag, pair[2], pair[3]);
      }
    }
  }

  // First of the two columns of O that elements [n][0..1] and [n][2..3] hold.
  SEQLOOM_DEVICE static int output_column(int n, int lane) { return n * 8 + (lane & 3) * 2; }
};

// ---- float32: multiply-adds ---------------------------------------------------------------------

struct FloatCore {
  using Element = float;
  static constexpr bool kTensorCores = false;
  static constexpr bool kAsync = false;
  static constexpr bool kSmallHeads = true;
  static constexpr int kSharedLimit = 64 * 1024;
  static constexpr bool kCompiled = true;
  static constexpr int kPad = 4;  // keeps the eight rows of a float4 read in different banks
  template <int kN>
  static constexpr int kStagingFloats = 16 * (kN + kPad);

  SEQLOOM_DEVICE static float4 chunk_at(const unsigned char* tile, int offset) {
    return *reinterpret_cast<const float4*>(tile + offset);
  }
  // Four products are added up on their own: long sums lose half as much as in one chain.
  SEQLOOM_DEVICE static float dot(float4 a, float4 b, float sum) {
    return sum + fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
  }

  template <int kN, int kD>
  SEQLOOM_DEVICE static void product_nt(float (&s)[kN / 8][4], const unsigned char* a, int a_row,
                                        const unsigned char* b, int lane) {
    using Layout = Tile<float, kD>;
#pragma unroll
    for (int n = 0; n < kN / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = 0.f;
    const int row = a_row + (lane >> 2), column = (lane & 3) * 2;
#pragma unroll 1
    for (int k = 0; k < Layout::kChunks; ++k) {
      const float4 low = chunk_at(a, Layout::offset(row, k));
      const float4 high = chunk_at(a, Layout::offset(row + 8, k));
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
        const float4 b0 = chunk_at(b, Layout::offset(n * 8 + column, k));
        const float4 b1 = chunk_at(b, Layout::offset(n * 8 + column + 1, k));
        s[n][0] = dot(low, b0, s[n][0]);
        s[n][1] = dot(low, b1, s[n][1]);
        s[n][2] = dot(high, b0, s[n][2]);
        s[n][3] = dot(high, b1, s[n][3]);
      }
    }
  }

  // Every lane needs whole rows of P, which four lanes hold: they go through the warp's own piece
  // of shared memory.
  template <int kN, int kD>
  SEQLOOM_DEVICE static void product_nn(float (&o)[kD / 8][4], const float (&p)[kN / 8][4],
                                        const unsigned char* b, float* staging, int lane) {
    using Layout = Tile<float, kD>;
    constexpr int kLine = kN + kPad;
    const int row = lane >> 2, column = (lane & 3) * 2;
    __syncwarp();  // the previous product has read the staging
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
      float* to = staging + row * kLine + n * 8 + column;
      *reinterpret_cast<float2*>(to) = make_float2(p[n][0], p[n][1]);
      *reinterpret_cast<float2*>(to + 8 * kLine) = make_float2(p[n][2], p[n][3]);
    }
    __syncwarp();
    // Columns in groups, or reading ahead in one long run takes more registers than there are.
    constexpr int kGroup = kD <= 128 ? kD / 8 : 8;
#pragma unroll
    for (int first = 0; first < kD / 8; first += kGroup) {
#pragma unroll 1
      for (int k = 0; k < kN; ++k) {
        const float low = staging[row * kLine + k], high = staging[(row + 8) * kLine + k];
#pragma unroll
        for (int n = first; n < first + kGroup; n += 2) {
          const float4 v = chunk_at(b, Layout::offset(k, n * 2 + (lane & 3)));
          o[n][0] = fmaf(low, v.x, o[n][0]);
          o[n][1] = fmaf(low, v.y, o[n][1]);
          o[n + 1][0] = fmaf(low, v.z, o[n + 1][0]);
          o[n + 1][1] = fmaf(low, v.w, o[n + 1][1]);
          o[n][2] = fmaf(high, v.x, o[n][2]);
          o[n][3] = fmaf(high, v.y, o[n][3]);
          o[n + 1][2] = fmaf(high, v.z, o[n + 1][2]);
          o[n + 1][3] = fmaf(high, v.w, o[n + 1][3]);
        }
      }
    }
  }

  // Four neighbouring columns a lane: [n] and [n + 1] for even n.
  SEQLOOM_DEVICE static int output_column(int n, int lane) {
    return (n >> 1) * 16 + (lane & 3) * 4 + (n & 1) * 2;
  }
};

// ---- what hidden pairs hold ---------------------------------------------------------------------

// Whether an accumulator holds NaN or an infinity in row g, and in row g + 8, where they exist.
template <int kColumns>
SEQLOOM_DEVICE bool any_special(const float (&o)[kColumns][4], bool low, bool high) {
  bool special = false;
#pragma unroll
  for (int n = 0; n < kColumns; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      special |= (e < 2 ? low : high) && (__float_as_uint(o[n][e]) & 0x7f800000u) == 0x7f800000u;
  return special;
}

// Writes one row's pairs of an accumulator, `which` = 0 for row g and 2 for row g + 8.
template <class P, int kD, class To>
SEQLOOM_DEVICE void store_row(To* row, int width, const float (&o)[kD / 8][4], int which,
                              float factor, int lane) {
#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
    const int column = P::output_column(n, lane);
    const float low = (which ? o[n][2] : o[n][0]) * factor;
    const float high = (which ? o[n][3] : o[n][1]) * factor;
    // Rows of even width start where a pair may be written at once.
    if ((width & 1) == 0) {
      if (column < width) {
        if constexpr (sizeof(To) == 4) {
          *reinterpret_cast<float2*>(row + column) = make_float2(low, high);
        } else {
          *reinterpret_cast<uint32_t*>(row + column) = cuda::pack_pair<To>(low, high);
        }
      }
    } else {
      if (column < width) row[column] = cuda::from_float<To>(low);
      if (column + 1 < width) row[column + 1] = cuda::from_float<To>(high);
    }
  }
}

}  // namespace seqloom::ops::attention_device
