// SPDX-License-Identifier: Apache-2.0
// Random arrays: element i is number offset + i of the Philox stream, whatever the thread.
#include "cpu/parallel.h"
#include "cpu/vec_philox.h"
#include "ops/elementwise/elementwise.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::RandomArgs;

template <class T>
SEQLOOM_ALWAYS_INLINE void put(T* to, VecF v, int n) {
  store(to, v, n);
}
SEQLOOM_ALWAYS_INLINE void put(double* to, VecF v, int n) {
  float values[kLanes];
  store(values, v);
  for (int i = 0; i < n; ++i) to[i] = values[i];
}
// Rounding to 16 bits could reach 1: the largest value below it stands in.
template <class T>
SEQLOOM_ALWAYS_INLINE VecF below_one(VecF u) {
  if constexpr (dtype_of<T>() == DType::kFloat16) return min(u, VecF::broadcast(0.99951172f));
  if constexpr (dtype_of<T>() == DType::kBFloat16) return min(u, VecF::broadcast(0.99609375f));
  return u;
}

// low + floor(word range / 2^32): two words where the range needs more than 32 bits.
template <class T>
void integers(const RandomArgs& a, T* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const uint64_t element = a.offset + static_cast<uint64_t>(i);
    const PhiloxBlock block = philox_block(a.seed, element / 4);
    const uint64_t word = block.word[element % 4];
    uint64_t value;
    if (a.range <= (uint64_t{1} << 32)) {
      value = (word * (a.range - 1) + word) >> 32;
    } else {
      const PhiloxBlock more = philox_block(a.seed, element / 4, 1);
      value = ((word << 32) | more.word[element % 4]) % a.range;
    }
    out[i] = static_cast<T>(static_cast<uint64_t>(a.low) + value);
  }
}

}  // namespace

void random_fill(const ops::RandomArgs& args) {
  cpu::parallel_for(args.count, 4096, [&](int64_t begin, int64_t end) {
    if (args.kind == 2) {
      dispatch_all(args.dtype, [&](auto t) {
        using T = typename decltype(t)::type;
        if constexpr (!is_floating(dtype_of<T>()))
          integers(args, static_cast<T*>(args.out), begin, end);
      });
      return;
    }
    dispatch_float(args.dtype, [&](auto t) {
      using T = typename decltype(t)::type;
      T* out = static_cast<T*>(args.out) + begin;
      const uint64_t offset = args.offset + static_cast<uint64_t>(begin);
      if (args.kind == 0)
        philox_uniforms(args.seed, offset, end - begin,
                        [&](int64_t i, VecF u, int n) { put(out + i, below_one<T>(u), n); });
      else
        philox_normals(args.seed, offset, end - begin,
                       [&](int64_t i, VecF u, int n) { put(out + i, u, n); });
    });
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
