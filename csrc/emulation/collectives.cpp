// SPDX-License-Identifier: Apache-2.0
// Warp collectives: the lanes of a mask meet, are checked against each other, and the last one to
// come computes for all.
#include <algorithm>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::kShuffle:
      return "shfl.sync";
    case WarpOp::kBallot:
      return "vote.sync";
    case WarpOp::kSyncWarp:
      return "__syncwarp";
    case WarpOp::kReduce:
      return "redux.sync";
    case WarpOp::kMatch:
      return "match.sync";
    case WarpOp::kElect:
      return "elect.sync";
    case WarpOp::kClusterArrive:
      return "barrier.cluster.arrive";
    case WarpOp::kMma:
      return "mma.sync";
    case WarpOp::kLdmatrix:
      return "ldmatrix";
    case WarpOp::kStmatrix:
      return "stmatrix";
  }
  return "?";
}

template <class F>
void for_each_lane(unsigned lanes, F f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

template <class T>
const T& input(const Warp& w, int lane) {
  return *static_cast<const T*>(w.lanes[lane]->request.in);
}
template <class T>
T& output(const Warp& w, int lane) {
  return *static_cast<T*>(w.lanes[lane]->request.out);
}

void shuffle_lanes(Warp& w, unsigned lanes) {
  for_each_lane(lanes, [&](int l) {
    const int source = input<ShuffleInput>(w, l).source;
    if (source < 0 || source > 31 || !(lanes >> source & 1))
      fail(w.lanes[l]->request.site,
           "shfl.sync: lane %d reads lane %d, which does not take part (mask %08x, live %08x)", l,
           source, w.lanes[l]->request.mask, w.live);
    output<std::uint64_t>(w, l) = input<ShuffleInput>(w, source).value;
  });
}

std::uint32_t combine(std::uint32_t a, std::uint32_t b, std::uint64_t op) {
  const auto sa = static_cast<std::int32_t>(a), sb = static_cast<std::int32_t>(b);
  switch (op) {
    case kAdd:
      return a + b;
    case kMaxUnsigned:
      return std::max(a, b);
    case kMaxSigned:
      return static_cast<std::uint32_t>(std::max(sa, sb));
    case kMinUnsigned:
      return std::min(a, b);
    case kMinSigned:
      return static_cast<std::uint32_t>(std::min(sa, sb));
    case kAnd:
      return a & b;
    case kOr:
      return a | b;
    default:
      return a ^ b;
  }
}

void perform(Warp& w, unsigned lanes, WarpOp op, std::uint64_t arg) {
  const int leader = __builtin_ctz(lanes);
  switch (op) {
    case WarpOp::kShuffle:
      shuffle_lanes(w, lanes);
      break;
    case WarpOp::kBallot: {
      std::uint32_t bits = 0;
      for_each_lane(lanes, [&](int l) { bits |= input<std::uint32_t>(w, l) << l; });
      for_each_lane(lanes, [&](int l) { output<std::uint32_t>(w, l) = bits; });
      break;
    }
    case WarpOp::kSyncWarp:
      warp_synchronised(w, lanes);
      break;
    case WarpOp::kReduce: {
      std::uint32_t r = input<std::uint32_t>(w, leader);
      for_each_lane(lanes & (lanes - 1),
                    [&](int l) { r = combine(r, input<std::uint32_t>(w, l), arg); });
      for_each_lane(lanes, [&](int l) { output<std::uint32_t>(w, l) = r; });
      break;
    }
    case WarpOp::kMatch:
      for_each_lane(lanes, [&](int l) {
        std::uint32_t same = 0;
        for_each_lane(lanes, [&](int k) {
          if (input<std::uint64_t>(w, k) == input<std::uint64_t>(w, l)) same |= 1u << k;
        });
        output<std::uint32_t>(w, l) = same;
      });
      break;
    case WarpOp::kElect:
      for_each_lane(lanes, [&](int l) { output<std::uint32_t>(w, l) = l == leader; });
      break;
    case WarpOp::kClusterArrive:
      warp_arrives_at_cluster(w);
      break;
    case WarpOp::kMma:
      ++machine.stats.mma;
      perform_mma(w, static_cast<MmaKind>(arg));
      break;
    case WarpOp::kLdmatrix:
      perform_ldmatrix(w, lanes, arg);
      break;
    case WarpOp::kStmatrix:
      perform_stmatrix(w, arg);
      break;
  }
}

// All waiting lanes of one mask must be in the same instruction.
void check_agreement(const Warp& w, unsigned mask, unsigned lanes, const LaneRequest& first) {
  if (lanes != mask)
    fail(first.site, "%s: mask %08x names lanes %08x that have exited or never existed",
         name_of(first.op), mask, mask & ~w.live);
  for_each_lane(lanes, [&](int l) {
    const LaneRequest& r = w.lanes[l]->request;
    if (r.mask != mask || r.op != first.op)
      fail(r.site,
           "divergent warp: lane %d is in %s with mask %08x, lane %d in %s with mask %08x (%s)", l,
           name_of(r.op), r.mask, __builtin_ctz(lanes), name_of(first.op), first.mask,
           describe(first.site).c_str());
    if (r.site != first.site)
      fail(r.site, "divergent warp: %s executed from two places, also at %s", name_of(r.op),
           describe(first.site).c_str());
  });
  if (first.op >= WarpOp::kMma && lanes != 0xffffffffu)
    fail(first.site, "%s needs all 32 lanes, live are %08x", name_of(first.op), w.live);
}

bool try_complete(Warp& w, unsigned mask) {
  const unsigned lanes = mask & w.live;
  if (!lanes || (lanes & ~w.pending)) return false;
  const LaneRequest first = w.lanes[__builtin_ctz(lanes)]->request;
  ++machine.stats.collectives;
  check_agreement(w, mask, lanes, first);
  perform(w, lanes, first.op, first.arg);
  w.pending &= ~lanes;
  for_each_lane(lanes, [&](int l) { wake(w.lanes[l]); });
  return true;
}

}  // namespace

void warp_collective(WarpOp op, unsigned mask, Site site, const void* in, void* out,
                     std::uint64_t arg) {
  InRuntime guard;
  if (op == WarpOp::kReduce) require_capability(80, "redux.sync (__reduce_*_sync)", site);
  Fiber* f = self();
  Warp& w = *f->warp;
  if (!(mask >> f->lane & 1))
    fail(site, "%s: calling lane %d is not in its mask %08x", name_of(op), f->lane, mask);
  f->request = {mask, op, site, in, out, arg};
  w.pending |= 1u << f->lane;
  if (!try_complete(w, mask)) suspend(name_of(op), site);
}

// Lanes that wait for one that has just exited: report them now rather than as a deadlock.
void warp_lane_exited(Warp& w) {
  for (unsigned left = w.pending; left;) {
    const int l = __builtin_ctz(left);
    const unsigned mask = w.lanes[l]->request.mask;
    left = try_complete(w, mask) ? w.pending : left & ~(mask | 1u << l);
  }
}

bool elect_one(Site site) {
  require_capability(90, "elect.sync", site);
  std::uint32_t out = 0;
  warp_collective(WarpOp::kElect, 0xffffffffu, site, nullptr, &out, 0);
  return out != 0;
}

}  // namespace seqloom::emulation
