// SPDX-License-Identifier: Apache-2.0
// CTC on the CPU: threads over sequences, vectors over the states of a step. The forward recursion
// keeps alpha for all steps; the backward one keeps two rows of beta and writes the gradient of a
// step as it passes.
#include "ops/loss/ctc.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"
#include "cpu/vec_row.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::kHasPath;
using ops::kNoPath;

// log(e^a + e^b + e^c)
SEQLOOM_ALWAYS_INLINE VecF log_add(VecF a, VecF b, VecF c) {
  const VecF most = max(max(a, b), c);
  return most + log(exp_below(a - most) + exp_below(b - most) + exp_below(c - most));
}

// A sequence, and rows of `stride` floats that begin with two states that no path reaches and end
// with as many as a vector may read.
template <class T>
struct Sequence {
  const ops::CtcArgs& a;
  int64_t b, steps, states, stride;
  int64_t* classes;  // [states]
  float* closed;     // [states + 2]: 0 where a path may skip the state before, else kNoPath
  float* emit;       // [states]
  float* alpha;      // [steps, stride]
  float* beta;       // [2, stride]
  double* offset;    // [steps]: alpha_t is alpha + offset

  const T* log_probs(int64_t t) const {
    return static_cast<const T*>(a.log_probs) + (t * a.batch + b) * a.classes;
  }
  float* row(int64_t t) const { return alpha + t * stride + 2; }
};

template <class T>
void prepare(const Sequence<T>& q) {
  const int64_t* labels = q.a.labels + q.b * q.a.longest;
  for (int64_t s = 0; s < q.states; ++s) {
    q.classes[s] = s % 2 == 0 ? q.a.blank : labels[s / 2];
    q.closed[s] = s % 2 == 1 && s >= 3 && labels[s / 2] != labels[s / 2 - 1] ? 0.0f : kNoPath;
  }
  q.closed[q.states] = q.closed[q.states + 1] = kNoPath;
  for (int64_t i = 0; i < 2 * q.stride; ++i) q.beta[i] = kNoPath;
}

template <class T>
void gather_emissions(const Sequence<T>& q, int64_t t) {
  const T* p = q.log_probs(t);
  for (int64_t s = 0; s < q.states; ++s) {
    const float x = seqloom::to_float(p[q.classes[s]]);
    q.emit[s] = x < kNoPath ? kNoPath : x;  // NaN stays
  }
}

// Fills alpha; gives the log-likelihood, or kNoPath.
template <class T>
double forward(const Sequence<T>& q) {
  if (q.steps == 0) return q.states == 1 ? 0.0 : static_cast<double>(kNoPath);
  double offset = 0.0;
  for (int64_t t = 0; t < q.steps; ++t) {
    gather_emissions(q, t);
    float* const now = q.row(t);
    for (int64_t i = 0; i < q.stride; ++i) now[i - 2] = kNoPath;
    q.offset[t] = offset;
    VecF largest = VecF::broadcast(kNoPath);
    if (t == 0) {
      for (int64_t s = 0; s < min<int64_t>(2, q.states); ++s) now[s] = q.emit[s];
      over_row(q.states, [&](int64_t s, int n) {
        largest = max(largest, load_or(now + s, n, VecF::broadcast(kNoPath)));
      });
    } else {
      const float* const before = now - q.stride;
      const float shift = static_cast<float>(offset - q.offset[t - 1]);
      over_row(q.states, [&](int64_t s, int n) {
        const VecF skip = load(before + s - 2, n) + load(q.closed + s, n);
        const VecF sum = log_add(load(before + s, n), load(before + s - 1, n), skip);
        const VecF value =
            max(VecF::broadcast(kNoPath), (sum - VecF::broadcast(shift)) + load(q.emit + s, n));
        store(now + s, value, n);
        largest = max(largest, select(first_n(n), value, VecF::broadcast(kNoPath)));
      });
    }
    const float most = reduce_max(largest);
    if (most > kHasPath) offset += most;
  }
  const float* const last = q.row(q.steps - 1);
  const float end = last[q.states - 1], label = q.states > 1 ? last[q.states - 2] : kNoPath;
  const float most = end > label ? end : label;
  if (most < kHasPath) return static_cast<double>(kNoPath);
  const double sum = __builtin_exp(static_cast<double>(end) - most) +
                     __builtin_exp(static_cast<double>(label) - most);
  return q.offset[q.steps - 1] + most + __builtin_log(sum);
}

// One row of the gradient from exp(alpha + beta + shift), which replaces alpha.
template <class T>
void write_gradient(const Sequence<T>& q, int64_t t, const float* beta, float shift) {
  float* const now = q.row(t);
  float* const g = q.a.gradient + (t * q.a.batch + q.b) * q.a.classes;
  const T* const p = q.log_probs(t);
  const VecF add = VecF::broadcast(shift), factor = VecF::broadcast(q.a.share[q.b]);
  VecF total = VecF::zero();
  over_row(q.states, [&](int64_t s, int n) {
    const VecF sum = load(now + s, n) + load(beta + s, n) + add;
    const VecF posterior = exp(min(VecF::broadcast(1.0f), sum));
    store(now + s, posterior, n);
    total += zero_unless(first_n(n), posterior);
  });
  // The posteriors of a step add up to 1: dividing takes out what hundreds of steps have rounded.
  const float share = q.a.share[q.b] / reduce_add(total);
  over_row(q.a.classes,
           [&](int64_t c, int n) { put_row(g + c, exp(get_row(p + c, n)) * factor, n); });
  float blank = 0.0f;
  for (int64_t s = 0; s < q.states; s += 2) blank += now[s];
  g[q.a.blank] -= blank * share;
  for (int64_t s = 1; s < q.states; s += 2) g[q.classes[s]] -= now[s] * share;
}

template <class T>
void backward(const Sequence<T>& q, double likelihood) {
  double offset = 0.0;
  for (int64_t t = q.steps - 1; t >= 0; --t) {
    float* const beta = q.beta + (t & 1) * q.stride + 2;
    float* const after = q.beta + ((t + 1) & 1) * q.stride + 2;
    if (t == q.steps - 1) {
      beta[q.states - 1] = 0.0f;
      if (q.states > 1) beta[q.states - 2] = 0.0f;
    } else {
      // The emissions of the step after, added in place; states past the end have no path.
      gather_emissions(q, t + 1);
      VecF most = VecF::broadcast(kNoPath);
      over_row(q.states, [&](int64_t s, int n) {
        const VecF v = max(VecF::broadcast(kNoPath), load(after + s, n) + load(q.emit + s, n));
        store(after + s, v, n);
        most = max(most, select(first_n(n), v, VecF::broadcast(kNoPath)));
      });
      const float shift = reduce_max(most) > kHasPath ? reduce_max(most) : 0.0f;
      offset += shift;
      over_row(q.states, [&](int64_t s, int n) {
        const VecF skip = load(after + s + 2, n) + load(q.closed + s + 2, n);
        const VecF sum = log_add(load(after + s, n), load(after + s + 1, n), skip);
        store(beta + s, max(VecF::broadcast(kNoPath), sum - VecF::broadcast(shift)), n);
      });
    }
    write_gradient(q, t, beta, static_cast<float>(q.offset[t] + offset - likelihood));
  }
}

void fill_rows(const ops::CtcArgs& a, int64_t b, int64_t begin, float value) {
  for (int64_t t = begin; t < a.steps; ++t) {
    float* const g = a.gradient + (t * a.batch + b) * a.classes;
    over_row(a.classes, [&](int64_t c, int n) { put_row(g + c, VecF::broadcast(value), n); });
  }
}

template <class T>
void one_sequence(const ops::CtcArgs& a, int64_t b) {
  const int64_t steps = a.steps_of[b], states = 2 * a.sizes[b] + 1, stride = states + 2 + kLanes;
  const auto floats = [](int64_t n) { return static_cast<size_t>(n) * sizeof(float); };
  cpu::Scratch wide(static_cast<size_t>(states + steps) * sizeof(int64_t));
  cpu::Scratch rows(floats((steps + 2) * stride + 2 * states + 2 + kLanes));
  Sequence<T> q{a,       b,       steps,   states, stride, wide.as<int64_t>(), rows.as<float>(),
                nullptr, nullptr, nullptr, nullptr};
  q.emit = q.closed + states + 2;
  q.beta = q.emit + states;
  q.alpha = q.beta + 2 * stride;
  q.offset = reinterpret_cast<double*>(q.classes + states);
  prepare(q);
  const double likelihood = forward(q);
  const bool impossible = likelihood < static_cast<double>(kHasPath);
  a.losses[b] =
      impossible ? (a.zero_infinity ? 0.0f : __builtin_inff()) : static_cast<float>(-likelihood);
  if (a.gradient == nullptr) return;
  if (impossible)
    fill_rows(a, b, 0, a.zero_infinity ? 0.0f : __builtin_nanf(""));
  else
    backward(q, likelihood);
  fill_rows(a, b, steps, 0.0f);
}

}  // namespace

void ctc(const ops::CtcArgs& a) {
  dispatch_kernel_float(a.dtype, [&a](auto type) {
    using T = typename decltype(type)::type;
    cpu::parallel_for(a.batch, 1, [&a](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) one_sequence<T>(a, b);
    });
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
