// SPDX-License-Identifier: Apache-2.0
// Barriers, warp collectives and fences of CUDA C++. Included by emulation/device.h.
#pragma once

namespace seqloom::emulation {

enum class WarpOp : std::uint8_t {
  kShuffle,
  kBallot,
  kSyncWarp,
  kReduce,
  kMatch,
  kElect,
  kClusterArrive,
  // From here on all 32 lanes must take part, from one source line.
  kMma,
  kLdmatrix,
  kStmatrix
};
// Meets the other lanes of `mask`; the last one computes for all.
void warp_collective(WarpOp, unsigned mask, Site, const void* in, void* out, std::uint64_t arg);

enum class Vote { kNone, kOr, kAnd, kCount };
int block_barrier(int predicate, Vote, Site);
void named_barrier(int id, int threads, bool arrive_only, Site);
void memory_fence();
void pause_thread(Site);  // lets others run; in a spin loop
enum ReduceOp : std::uint64_t {
  kAdd,
  kMaxUnsigned,
  kMaxSigned,
  kMinUnsigned,
  kMinSigned,
  kAnd,
  kOr,
  kXor
};

// __half2 and friends are not trivially copyable for a host compiler, hence the casts.
template <class T>
inline SEQLOOM_UNCHECKED std::uint64_t to_bits(T v) {
  static_assert(sizeof(T) <= 8, "warp collectives move at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const void*>(&v), sizeof v);
  return bits;
}
template <class T>
inline SEQLOOM_UNCHECKED T from_bits(std::uint64_t bits) {
  T v;
  std::memcpy(static_cast<void*>(&v), &bits, sizeof v);
  return v;
}
struct ShuffleInput {
  std::uint64_t value;
  int source;
};
template <class T>
inline SEQLOOM_UNCHECKED T shuffle(unsigned mask, T v, int source, Site site) {
  ShuffleInput in{to_bits(v), source};
  std::uint64_t out = 0;
  warp_collective(WarpOp::kShuffle, mask, site, &in, &out, 0);
  return from_bits<T>(out);
}
inline SEQLOOM_UNCHECKED unsigned reduce(unsigned mask, unsigned v, ReduceOp op, Site site) {
  std::uint32_t out = 0;
  warp_collective(WarpOp::kReduce, mask, site, &v, &out, op);
  return out;
}

}  // namespace seqloom::emulation

// ---- barriers and fences
// ---------------------------------------------------------------------------
inline void __syncthreads(SEQLOOM_SITE_ONLY) {
  ::seqloom::emulation::block_barrier(0, ::seqloom::emulation::Vote::kNone, site);
}
inline int __syncthreads_or(int p SEQLOOM_SITE) {
  return ::seqloom::emulation::block_barrier(p, ::seqloom::emulation::Vote::kOr, site);
}
inline int __syncthreads_and(int p SEQLOOM_SITE) {
  return ::seqloom::emulation::block_barrier(p, ::seqloom::emulation::Vote::kAnd, site);
}
inline int __syncthreads_count(int p SEQLOOM_SITE) {
  return ::seqloom::emulation::block_barrier(p, ::seqloom::emulation::Vote::kCount, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu SEQLOOM_SITE) {
  ::seqloom::emulation::warp_collective(::seqloom::emulation::WarpOp::kSyncWarp, mask, site,
                                        nullptr, nullptr, 0);
}
inline void __threadfence() { ::seqloom::emulation::memory_fence(); }
inline void __threadfence_block() { ::seqloom::emulation::memory_fence(); }
inline void __threadfence_system() { ::seqloom::emulation::memory_fence(); }
inline void __nanosleep(unsigned SEQLOOM_SITE) { ::seqloom::emulation::pause_thread(site); }

// ---- shuffles: `w` is the width of the segments that exchange
// ----------------------------------------
template <class T>
inline T __shfl_sync(unsigned m, T v, int source, int w = 32 SEQLOOM_SITE) {
  const int l = ::seqloom::emulation::lane();
  return ::seqloom::emulation::shuffle(m, v, (l & ~(w - 1)) | (source & (w - 1)), site);
}
template <class T>
inline T __shfl_up_sync(unsigned m, T v, unsigned delta, int w = 32 SEQLOOM_SITE) {
  const int l = ::seqloom::emulation::lane(), s = l - static_cast<int>(delta);
  return ::seqloom::emulation::shuffle(m, v, s < (l & ~(w - 1)) ? l : s, site);
}
template <class T>
inline T __shfl_down_sync(unsigned m, T v, unsigned delta, int w = 32 SEQLOOM_SITE) {
  const int l = ::seqloom::emulation::lane(), d = static_cast<int>(delta);
  return ::seqloom::emulation::shuffle(m, v, (l & (w - 1)) + d >= w ? l : l + d, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32 SEQLOOM_SITE) {
  const int l = ::seqloom::emulation::lane(), s = l ^ x;
  return ::seqloom::emulation::shuffle(m, v, s > (l | (w - 1)) ? l : s, site);
}

// ---- votes, matches and integer reductions
// -------------------------------------------------------------
inline unsigned __ballot_sync(unsigned m, int p SEQLOOM_SITE) {
  std::uint32_t in = p != 0, out = 0;
  ::seqloom::emulation::warp_collective(::seqloom::emulation::WarpOp::kBallot, m, site, &in, &out,
                                        0);
  return out;
}
inline int __any_sync(unsigned m, int p SEQLOOM_SITE) { return __ballot_sync(m, p, site) != 0; }
inline int __all_sync(unsigned m, int p SEQLOOM_SITE) { return __ballot_sync(m, !p, site) == 0; }
template <class T>
inline unsigned __match_any_sync(unsigned m, T v SEQLOOM_SITE) {
  std::uint64_t in = ::seqloom::emulation::to_bits(v);
  std::uint32_t out = 0;
  ::seqloom::emulation::warp_collective(::seqloom::emulation::WarpOp::kMatch, m, site, &in, &out,
                                        0);
  return out;
}
#define SEQLOOM_REDUCE(name, T, op)                                                      \
  inline T name(unsigned m, T v SEQLOOM_SITE) {                                          \
    return static_cast<T>(::seqloom::emulation::reduce(m, static_cast<unsigned>(v),      \
                                                       ::seqloom::emulation::op, site)); \
  }
SEQLOOM_REDUCE(__reduce_add_sync, unsigned, kAdd)
SEQLOOM_REDUCE(__reduce_add_sync, int, kAdd)
SEQLOOM_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
SEQLOOM_REDUCE(__reduce_max_sync, int, kMaxSigned)
SEQLOOM_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
SEQLOOM_REDUCE(__reduce_min_sync, int, kMinSigned)
SEQLOOM_REDUCE(__reduce_and_sync, unsigned, kAnd)
SEQLOOM_REDUCE(__reduce_or_sync, unsigned, kOr)
SEQLOOM_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef SEQLOOM_REDUCE

// Which lanes are converged is up to the hardware; code that asks is not portable.
unsigned __activemask() __attribute__((error("pass explicit masks instead of __activemask()")));
