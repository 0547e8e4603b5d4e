// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on CUDA: a warp or a block a row (cuda/rows.h); the loss and, when asked for, the
// gradient come out of the same launch. A target outside [0, classes) reads nothing: its loss is
// NaN.
#include "cuda/rows.h"
#include "ops/loss/loss.h"

namespace seqloom::ops {
namespace {

using cuda::RowTeam;

template <class T, bool kVector, bool kWarp>
__global__ void __launch_bounds__(kWarp ? cuda::kWarpRowThreads : cuda::kWideRowThreads)
    rows_kernel(CrossEntropyArgs a) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const auto team = RowTeam<kWarp>::make(scratch);
  if (team.row >= a.rows) return;
  constexpr int kWidth = cuda::kRowWidth<T, kVector>;
  const int64_t n = a.classes, r = team.row, t = a.targets[r];
  const T* x = static_cast<const T*>(a.logits) + r * n;
  T* dx = a.dlogits == nullptr ? nullptr : static_cast<T*>(a.dlogits) + r * n;
  const bool ignored = t == a.ignore_index, outside = !ignored && (t < 0 || t >= n);
  float v[kWidth];
  if (ignored || outside) {
    const float fill = outside ? NAN : 0.f;
    if (team.rank == 0) {
      if (a.losses != nullptr) a.losses[r] = fill;
      if (!a.given_lse) a.lse[r] = fill;
    }
    for (int k = 0; k < kWidth; ++k) v[k] = fill;
    if (dx != nullptr)
      cuda::over_row<T, kVector>(team.rank, team.size, n,
                                 [&](int64_t i) { cuda::write_row<T, kVector>(dx + i, v); });
    return;
  }
  float lse;
  if (a.given_lse) {
    lse = a.lse[r];
  } else {
    float m = -INFINITY, s = 0.f;
    cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
      cuda::read_row<T, kVector>(x + i, v);
      for (int k = 0; k < kWidth; ++k) m = fmaxf(m, v[k]);
    });
    m = team.max(m);
    cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
      cuda::read_row<T, kVector>(x + i, v);
      for (int k = 0; k < kWidth; ++k) s += expf(v[k] - m);
    });
    lse = m + logf(team.sum(s));
  }
  const float wt = a.weight != nullptr ? a.weight[t] : 1.f;
  const float hit = (1.f - a.smoothing) * wt, each = a.smoothing / static_cast<float>(n);
  float smooth = 0.f;
  if (a.losses != nullptr && each != 0.f) {
    cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
      cuda::read_row<T, kVector>(x + i, v);
      for (int k = 0; k < kWidth; ++k)
        smooth += (a.weight != nullptr ? a.weight[i + k] : 1.f) * (lse - v[k]);
    });
    smooth = team.sum(smooth);
  }
  if (team.rank == 0) {
    if (a.losses != nullptr) a.losses[r] = hit * (lse - cuda::to_float(x[t])) + each * smooth;
    if (!a.given_lse) a.lse[r] = lse;
  }
  if (dx == nullptr) return;
  // The gradient may lie over the logits: whoever read x[t] above has done so before it is
  // replaced.
  if (kWarp)
    __syncwarp();
  else
    __syncthreads();
  const float g = a.row_scale != nullptr ? a.row_scale[r] : a.scale;
  const float pull = g * (hit + each * a.weight_sum), push = g * each;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(x + i, v);
    for (int k = 0; k < kWidth; ++k) {
      const float own = i + k == t ? g * hit : 0.f;
      v[k] = pull * expf(v[k] - lse) - push * (a.weight != nullptr ? a.weight[i + k] : 1.f) - own;
    }
    cuda::write_row<T, kVector>(dx + i, v);
  });
}

template <class T>
void run(const CrossEntropyArgs& a) {
  const auto r = cuda::row_launch(a.rows, a.classes);
  const bool aligned = cuda::rows_are_aligned<T>(a.classes, {a.logits, a.dlogits});
  cuda::launch(aligned ? (r.warp ? rows_kernel<T, true, true> : rows_kernel<T, true, false>)
                       : (r.warp ? rows_kernel<T, false, true> : rows_kernel<T, false, false>),
               r.config, a);
}

}  // namespace

void cross_entropy_cuda(const CrossEntropyArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    run<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

}  // namespace seqloom::ops
