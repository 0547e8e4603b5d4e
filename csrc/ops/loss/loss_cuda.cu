// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on CUDA (cuda/row_team.h): the loss and, when asked for, the gradient come out of
// one launch that reads the logits once. A target outside [0, classes) reads nothing: its loss is
// NaN, and the device's fault slot is told.
#include "cuda/row_team.h"
#include "cuda/rows.h"
// After gpu.h, for the device half.
#include "cuda/fault.h"
#include "ops/loss/loss.h"

namespace seqloom::ops {
namespace {

template <class T, bool kShared>
__global__ void __launch_bounds__(kShared ? cuda::kSharedRowThreads : cuda::kRegisterRowThreads)
    rows_kernel(CrossEntropyArgs a, cuda::RowLayout layout, cuda::Fault* fault) {
  SHARED_ARRAY(cuda::RowScratch, scratch, [1]);
  DYNAMIC_SHARED(memory, 16);
  constexpr int kWidth = cuda::kVectorWidth<T>;
  cuda::RowTeam<kShared> team(layout, scratch);
  cuda::KeptRow<T, kShared, 1> kept(layout, memory);
  const int64_t n = a.classes, r = team.row, t = team.live ? a.targets[r] : a.ignore_index;
  const bool ignored = t == a.ignore_index, outside = !ignored && (t < 0 || t >= n);
  const bool counts = !ignored && !outside;
  const T* x = static_cast<const T*>(a.logits) + r * n;
  // The chunks follow the gradient, or without one the logits.
  const T* shape = a.dlogits != nullptr ? static_cast<const T*>(a.dlogits) + r * n : x;
  const cuda::RowChunks<T> all(shape, team.live ? n : 0);
  const cuda::RowChunks<T> chunks(shape, counts ? n : 0);
  const auto in = cuda::row_of(x, all.phase);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) { kept.fetch(0, j, in, c); });
  // Before the gradient may replace it: every way on passes a barrier of the row.
  const float hit_logit = counts && a.losses != nullptr ? cuda::to_float(x[t]) : 0.f;
  kept.wait();

  float v[kWidth];
  float2 total = cuda::MaxAndExpSum::identity();
  if (a.given) {
    if (counts) total = make_float2(a.max_sum[2 * r], a.max_sum[2 * r + 1]);
    team.sync();
  } else {
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, in, c, -INFINITY, v);
      cuda::add_exponentials(v, total);
    });
    total = team.template reduce<cuda::MaxAndExpSum>(total);
  }
  const float m = total.x, log_s = logf(total.y);
  const float wt = counts && a.weight != nullptr ? a.weight[t] : 1.f;
  const float hit = (1.f - a.smoothing) * wt, each = a.smoothing / static_cast<float>(n);
  float smooth = 0.f;
  if (a.losses != nullptr && each != 0.f) {
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, in, c, 0.f, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        if (k >= c.lo && k < c.hi)
          smooth += (a.weight != nullptr ? a.weight[c.first + k] : 1.f) * (m - v[k] + log_s);
    });
    smooth = team.sum(smooth);
  }
  const float fill = outside ? NAN : 0.f;  // of rows that do not count
  if (team.rank == 0 && outside) cuda::report_fault(fault, cuda::FaultOp::kTargets, t, n);
  if (team.rank == 0 && team.live) {
    if (a.losses != nullptr)
      a.losses[r] = counts ? hit * (m - hit_logit + log_s) + each * smooth : fill;
    if (!a.given) {
      a.max_sum[2 * r] = counts ? m : fill;
      a.max_sum[2 * r + 1] = counts ? total.y : fill;
    }
  }
  if (a.dlogits == nullptr) return;
  const auto out = cuda::row_of(static_cast<T*>(a.dlogits) + r * n, all.phase);
  if (!counts) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = fill;
    cuda::over_chunks(team, all,
                      [&](int, const cuda::RowChunk& c) { cuda::write_chunk(out, c, v); });
    return;
  }
  const float g = a.row_scale != nullptr ? a.row_scale[r] : a.scale;
  const float pull = g * (hit + each * a.weight_sum) / total.y, push = g * each;
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, in, c, 0.f, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const bool inside = k >= c.lo && k < c.hi;
      const float own = c.first + k == t ? g * hit : 0.f;
      v[k] = pull * expf(v[k] - m) -
             push * (a.weight != nullptr && inside ? a.weight[c.first + k] : 1.f) - own;
    }
    cuda::write_chunk(out, c, v);
  });
}

template <class T>
void run(const CrossEntropyArgs& a) {
  const auto plan =
      cuda::plan_rows(a.dlogits != nullptr ? a.dlogits : a.logits, a.rows, a.classes, sizeof(T), 1);
  cuda::launch(plan.shared ? rows_kernel<T, true> : rows_kernel<T, false>, plan.config, a,
               plan.layout, cuda::fault_slot());
}

}  // namespace

void cross_entropy_cuda(const CrossEntropyArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    run<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

}  // namespace seqloom::ops
