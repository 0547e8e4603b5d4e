// SPDX-License-Identifier: Apache-2.0
// CTC on CUDA: a block a sequence, its threads along the states of a step. alpha of all steps lies
// in memory, beta in two rows of it, and a barrier parts the steps. A class that several states
// stand for is summed by the thread of its first state along a chain of the others, so that the
// gradient has one order of additions.
#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "ops/loss/ctc.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;

// Memory of all sequences, a share each. Rows of states are `stride` floats: two states that no
// path reaches before and after those of the sequence.
struct CtcWork {
  float* alpha;    // [batch, steps, stride]
  float* beta;     // [batch, 2, stride]
  double* offset;  // [batch, steps]
  int32_t* chain;  // [batch, longest]: the next label of the same class, or -1
  uint8_t* first;  // [batch, longest]: no label before has this class
  int64_t stride;
};

SEQLOOM_DEVICE float log_add(float a, float b, float c) {
  const float most = ::fmaxf(::fmaxf(a, b), c);
  return most + ::logf(::expf(a - most) + ::expf(b - most) + ::expf(c - most));
}
SEQLOOM_DEVICE float at_least(float least, float x) { return x < least ? least : x; }  // NaN stays

template <class T>
struct Sequence {
  const CtcArgs& a;
  int64_t b, steps, states, stride;
  const int64_t* labels;
  float *alpha, *beta;
  double* offset;

  SEQLOOM_DEVICE const T* log_probs(int64_t t) const {
    return static_cast<const T*>(a.log_probs) + (t * a.batch + b) * a.classes;
  }
  SEQLOOM_DEVICE float* row(int64_t t) const { return alpha + t * stride + 2; }
  SEQLOOM_DEVICE float emit(int64_t t, int64_t s) const {
    const int64_t c = s % 2 == 0 ? a.blank : labels[s / 2];
    return at_least(kNoPath, cuda::to_float(log_probs(t)[c]));
  }
  // Whether a path may come from two states before.
  SEQLOOM_DEVICE bool skips(int64_t s) const {
    return s % 2 == 1 && s >= 3 && s < states && labels[s / 2] != labels[s / 2 - 1];
  }
};

// Fills alpha; every thread gets the log-likelihood, or kNoPath.
template <class T>
SEQLOOM_DEVICE double forward(const Sequence<T>& q, float* scratch) {
  if (q.steps == 0) return q.states == 1 ? 0.0 : static_cast<double>(kNoPath);
  double offset = 0.0;
  float shift = 0.f;
  for (int64_t t = 0; t < q.steps; ++t) {
    float* const now = q.row(t);
    if (threadIdx.x < 2) {
      now[static_cast<int64_t>(threadIdx.x) - 2] = kNoPath;
      now[q.states + threadIdx.x] = kNoPath;
    }
    if (threadIdx.x == 0) q.offset[t] = offset;
    float most = kNoPath;
    for (int64_t s = threadIdx.x; s < q.states; s += kThreads) {
      float value;
      if (t == 0) {
        value = s < 2 ? q.emit(0, s) : kNoPath;
      } else {
        const float* const before = now - q.stride;
        const float skip = q.skips(s) ? before[s - 2] : kNoPath;
        value = at_least(kNoPath, log_add(before[s], before[s - 1], skip) - shift + q.emit(t, s));
      }
      now[s] = value;
      most = ::fmaxf(most, value);
    }
    // Its barriers part the steps as well.
    most = cuda::block_max(most, scratch);
    shift = most > kHasPath ? most : 0.f;
    offset += shift;
  }
  __syncthreads();
  const float* const last = q.row(q.steps - 1);
  const float end = last[q.states - 1], label = last[q.states - 2];  // no path before the first
  __syncthreads();                                                   // backward writes there
  const float most = ::fmaxf(end, label);
  if (most < kHasPath) return static_cast<double>(kNoPath);
  return q.offset[q.steps - 1] + most +
         ::log(::exp(static_cast<double>(end) - most) + ::exp(static_cast<double>(label) - most));
}

template <class T>
SEQLOOM_DEVICE void backward(const Sequence<T>& q, const CtcWork& work, double likelihood,
                             float* scratch) {
  const int32_t* const chain = work.chain + q.b * q.a.longest;
  const uint8_t* const first = work.first + q.b * q.a.longest;
  double offset = 0.0;
  for (int64_t t = q.steps - 1; t >= 0; --t) {
    float* const beta = q.beta + (t & 1) * q.stride + 2;
    float* const after = q.beta + ((t + 1) & 1) * q.stride + 2;
    float shift = 0.f;
    if (t < q.steps - 1) {
      float most = kNoPath;
      for (int64_t s = threadIdx.x; s < q.states; s += kThreads) {
        after[s] = at_least(kNoPath, after[s] + q.emit(t + 1, s));
        most = ::fmaxf(most, after[s]);
      }
      most = cuda::block_max(most, scratch);  // its barriers also part the two loops
      shift = most > kHasPath ? most : 0.f;
      offset += shift;
    }
    float* const now = q.row(t);
    const float add = static_cast<float>(q.offset[t] + offset - likelihood);
    float blank = 0.f, total = 0.f;
    for (int64_t s = threadIdx.x; s < q.states; s += kThreads) {
      float value = s + 2 >= q.states ? 0.f : kNoPath;
      if (t < q.steps - 1) {
        const float skip = q.skips(s + 2) ? after[s + 2] : kNoPath;
        value = at_least(kNoPath, log_add(after[s], after[s + 1], skip) - shift);
      }
      beta[s] = value;
      const float sum = now[s] + value + add;
      const float posterior = ::expf(sum > 1.f ? 1.f : sum);
      now[s] = posterior;
      total += posterior;
      if (s % 2 == 0) blank += posterior;
    }
    blank = cuda::block_sum(blank, scratch);
    // The posteriors of a step add up to 1: dividing takes out what hundreds of steps have rounded.
    const float whole = q.a.share[q.b], share = whole / cuda::block_sum(total, scratch);
    float* const g = q.a.gradient + (t * q.a.batch + q.b) * q.a.classes;
    const T* const p = q.log_probs(t);
    for (int64_t c = threadIdx.x; c < q.a.classes; c += kThreads) {
      const float taken = c == q.a.blank ? blank : 0.f;
      g[c] = ::expf(cuda::to_float(p[c])) * whole - taken * share;
    }
    __syncthreads();
    for (int64_t k = threadIdx.x; 2 * k + 1 < q.states; k += kThreads) {
      if (!first[k] || q.labels[k] == q.a.blank) continue;
      float taken = 0.f;
      for (int64_t j = k; j >= 0; j = chain[j]) taken += now[2 * j + 1];
      g[q.labels[k]] -= taken * share;
    }
    if (threadIdx.x == 0)  // labels that are the blank themselves
      for (int64_t k = 0; 2 * k + 1 < q.states; ++k)
        if (q.labels[k] == q.a.blank) g[q.a.blank] -= now[2 * k + 1] * share;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) ctc_kernel(CtcArgs a, CtcWork work) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const int64_t b = blockIdx.x, size = a.sizes[b];
  const Sequence<T> q{a,
                      b,
                      a.steps_of[b],
                      2 * size + 1,
                      work.stride,
                      a.labels + b * a.longest,
                      work.alpha + b * a.steps * work.stride,
                      work.beta + b * 2 * work.stride,
                      work.offset + b * a.steps};
  for (int64_t k = threadIdx.x; k < size; k += kThreads) {
    int64_t next = k + 1;
    while (next < size && q.labels[next] != q.labels[k]) ++next;
    bool first = true;
    for (int64_t j = 0; j < k; ++j) first = first && q.labels[j] != q.labels[k];
    work.chain[b * a.longest + k] = next < size ? static_cast<int32_t>(next) : -1;
    work.first[b * a.longest + k] = first;
  }
  for (int64_t i = threadIdx.x; i < 2 * work.stride; i += kThreads) q.beta[i] = kNoPath;
  __syncthreads();
  const double likelihood = forward(q, scratch);
  const bool impossible = likelihood < static_cast<double>(kHasPath);
  if (threadIdx.x == 0)
    a.losses[b] = !impossible       ? static_cast<float>(-likelihood)
                  : a.zero_infinity ? 0.f
                                    : __int_as_float(0x7f800000);
  if (a.gradient == nullptr) return;
  int64_t from = 0;
  if (!impossible) {
    backward(q, work, likelihood, scratch);
    from = q.steps;
  }
  const float nothing = __int_as_float(0x7fc00000);
  for (int64_t t = from; t < a.steps; ++t) {
    const float value = t < q.steps && !a.zero_infinity ? nothing : 0.f;
    float* const g = a.gradient + (t * a.batch + b) * a.classes;
    for (int64_t c = threadIdx.x; c < a.classes; c += kThreads) g[c] = value;
  }
}

}  // namespace

void ctc_cuda(const CtcArgs& args) {
  CtcWork work{};
  work.stride = 2 * args.longest + 1 + 4;
  const auto count = [](int64_t n) { return static_cast<std::size_t>(n); };
  const cuda::Workspace rows(count(args.batch * (args.steps + 2) * work.stride) * sizeof(float));
  const cuda::Workspace offsets(count(args.batch * args.steps) * sizeof(double));
  const cuda::Workspace chain(count(args.batch * args.longest) * sizeof(int32_t));
  const cuda::Workspace first(count(args.batch * args.longest));
  work.alpha = rows.as<float>();
  work.beta = work.alpha + args.batch * args.steps * work.stride;
  work.offset = offsets.as<double>();
  work.chain = chain.as<int32_t>();
  work.first = first.as<uint8_t>();
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(args.batch));
  config.block = dim3(kThreads);
  dispatch_kernel_float(args.dtype, [&](auto type) {
    using T = typename cuda::DeviceType<typename decltype(type)::type>::type;
    cuda::launch(ctc_kernel<T>, config, args, work);
  });
}

}  // namespace seqloom::ops
