// SPDX-License-Identifier: Apache-2.0
// SGD, Adam and gradient clipping over lists of parameters on CUDA: one launch a list.
//
// The table of items is copied to the device before the launch. Every block takes a run of units,
// finds its first item by bisection and walks on from there. Within a unit a thread handles eight
// elements with 16-byte accesses, all loads before the first use, so that eight (SGD: six) of them
// are under way at once; misaligned tensors and the last unit of each go element by element.
#include "cuda/gpu.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "cuda/vector_access.h"
#include "ops/optimizer/optimizer.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = static_cast<int>(kOptimizerUnit) / kThreads;  // elements of a thread
static_assert(kEach == 8, "two 16-byte accesses of float, one of a 16-bit type");
constexpr int kBlocksPerMultiprocessor = 8;
constexpr int64_t kNormBlocks = 1024;  // partial sums of the norm; they don't depend on the device

template <class T>
struct StateOf {
  using Type = float;
};
template <>
struct StateOf<double> {
  using Type = double;
};
template <class T>
using State = typename StateOf<T>::Type;

// Where a thread's eight elements lie: two runs of four, or one of eight beside 16-bit parameters.
template <class T>
SEQLOOM_DEVICE int run_of(int k) {
  const int t = static_cast<int>(threadIdx.x);
  return sizeof(T) == 2 ? t * kEach + k * 4 : k * kThreads * 4 + t * 4;
}

SEQLOOM_DEVICE void load_run(const float* p, float (&x)[kEach], int k) {
  float four[4];
  cuda::load_vector(p, four);
#pragma unroll
  for (int j = 0; j < 4; ++j) x[4 * k + j] = four[j];
}
SEQLOOM_DEVICE void store_run(float* p, const float (&x)[kEach], int k) {
  float four[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) four[j] = x[4 * k + j];
  cuda::store_vector(p, four);
}
SEQLOOM_DEVICE void load_run(const double* p, double (&x)[kEach], int k) {
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    const double2 two = *reinterpret_cast<const double2*>(p + j);
    x[4 * k + j] = two.x;
    x[4 * k + j + 1] = two.y;
  }
}
SEQLOOM_DEVICE void store_run(double* p, const double (&x)[kEach], int k) {
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    double2 two;
    two.x = x[4 * k + j];
    two.y = x[4 * k + j + 1];
    *reinterpret_cast<double2*>(p + j) = two;
  }
}

// Eight elements of U beside parameters of T.
template <class T, class U, class S>
SEQLOOM_DEVICE void load_eight(const U* unit, S (&x)[kEach]) {
  if constexpr (sizeof(U) == 2) {
    cuda::load_vector(unit + run_of<T>(0), x);
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) load_run(unit + run_of<T>(k), x, k);
  }
}
template <class T, class U, class S>
SEQLOOM_DEVICE void store_eight(U* unit, const S (&x)[kEach]) {
  if constexpr (sizeof(U) == 2) {
    cuda::store_vector(unit + run_of<T>(0), x);
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) store_run(unit + run_of<T>(k), x, k);
  }
}

SEQLOOM_DEVICE float widen(float x) { return x; }
SEQLOOM_DEVICE float widen(cuda::Half x) { return cuda::to_float(x); }
SEQLOOM_DEVICE float widen(cuda::BFloat16 x) { return cuda::to_float(x); }
SEQLOOM_DEVICE double widen(double x) { return x; }
template <class T, class S>
SEQLOOM_DEVICE T narrow(S x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return cuda::from_float<T>(x);
}
SEQLOOM_DEVICE float root_of(float x) { return ::sqrtf(x); }
SEQLOOM_DEVICE double root_of(double x) { return ::sqrt(x); }

// f(item, first element, elements left) for this block's units.
template <class F>
SEQLOOM_DEVICE void over_units(const OptimizerList& list, const F& f) {
  const int64_t each = (list.units + gridDim.x - 1) / gridDim.x;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * each;
  const int64_t end = begin + each < list.units ? begin + each : list.units;
  if (begin >= end) return;
  int64_t at = item_of_unit(list.items, list.count, begin);
  for (int64_t unit = begin; unit < end; ++unit) {
    while (at + 1 < list.count && list.items[at + 1].start <= unit) ++at;
    const OptimizerItem& item = list.items[at];
    const int64_t first = (unit - item.start) * kOptimizerUnit;
    f(item, first, item.size - first);
  }
}

// ---- SGD ---------------------------------------------------------------------------------------

template <class S>
struct SgdNumbers {
  S factor, decay, momentum, share, lr;
  bool nesterov, held, fresh;
};

template <class S>
SEQLOOM_DEVICE void sgd_one(const SgdNumbers<S>& a, S& w, S g, S& b) {
  S d = g * a.factor;
  if (a.decay != S(0)) d += w * a.decay;
  if (a.held) {
    b = a.fresh ? d : b * a.momentum + d * a.share;
    d = a.nesterov ? d + b * a.momentum : b;
  }
  w -= d * a.lr;
}

template <class T>
__global__ void __launch_bounds__(kThreads) sgd_kernel(SgdArgs args) {
  using S = State<T>;
  SgdNumbers<S> a{static_cast<S>(gradient_factor(args.list)),
                  static_cast<S>(args.decay),
                  static_cast<S>(args.momentum),
                  static_cast<S>(1.0 - args.dampening),
                  static_cast<S>(args.lr),
                  args.nesterov,
                  false,
                  false};
  over_units(args.list, [&](const OptimizerItem& item, int64_t first, int64_t left) {
    T* const w = static_cast<T*>(item.parameter) + first;
    const T* const g = static_cast<const T*>(item.gradient) + first;
    S* const b = item.first == nullptr ? nullptr : static_cast<S*>(item.first) + first;
    a.held = b != nullptr;
    a.fresh = item.fresh;
    if (item.aligned && left >= kOptimizerUnit) {
      S x[kEach], d[kEach], m[kEach] = {};
      load_eight<T>(w, x);
      load_eight<T>(g, d);
      if (a.held && !a.fresh) load_eight<T>(b, m);
#pragma unroll
      for (int j = 0; j < kEach; ++j) sgd_one(a, x[j], d[j], m[j]);
      store_eight<T>(w, x);
      if (a.held) store_eight<T>(b, m);
      return;
    }
    for (int64_t i = threadIdx.x; i < kOptimizerUnit && i < left; i += kThreads) {
      S x = widen(w[i]), m = S(0);
      if (a.held && !a.fresh) m = b[i];
      sgd_one(a, x, widen(g[i]), m);
      w[i] = narrow<T>(x);
      if (a.held) b[i] = m;
    }
  });
}

// ---- Adam --------------------------------------------------------------------------------------

template <class S>
struct AdamNumbers {
  S factor, decay, shrink, beta1, beta2, share1, share2, eps, step_size, root;
};

template <bool kAmsgrad, class S>
SEQLOOM_DEVICE void adam_one(const AdamNumbers<S>& a, S& w, S g, S& m, S& v, S& largest) {
  S d = g * a.factor;
  if (a.decay != S(0)) d += w * a.decay;
  m = m * a.beta1 + d * a.share1;
  v = v * a.beta2 + d * a.share2 * d;
  S square = v;
  if (kAmsgrad) {
    // NaN stays.
    largest = largest > v || largest != largest ? largest : v;
    square = largest;
  }
  w = w * a.shrink - m / (root_of(square) * a.root + a.eps) * a.step_size;
}

template <bool kAmsgrad, class T>
__global__ void __launch_bounds__(kThreads) adam_kernel(AdamArgs args) {
  using S = State<T>;
  AdamNumbers<S> a{static_cast<S>(gradient_factor(args.list)),
                   static_cast<S>(args.decay),
                   static_cast<S>(args.shrink),
                   static_cast<S>(args.beta1),
                   static_cast<S>(args.beta2),
                   static_cast<S>(1.0 - args.beta1),
                   static_cast<S>(1.0 - args.beta2),
                   static_cast<S>(args.eps),
                   S(0),
                   S(0)};
  over_units(args.list, [&](const OptimizerItem& item, int64_t first, int64_t left) {
    T* const w = static_cast<T*>(item.parameter) + first;
    const T* const g = static_cast<const T*>(item.gradient) + first;
    S* const m = static_cast<S*>(item.first) + first;
    S* const v = static_cast<S*>(item.second) + first;
    S* const largest = kAmsgrad ? static_cast<S*>(item.largest) + first : nullptr;
    a.step_size = static_cast<S>(item.step_size);
    a.root = static_cast<S>(item.root);
    if (item.aligned && left >= kOptimizerUnit) {
      S x[kEach], d[kEach], mean[kEach], square[kEach], most[kEach] = {};
      load_eight<T>(w, x);
      load_eight<T>(g, d);
      load_eight<T>(m, mean);
      load_eight<T>(v, square);
      // The largest squares come late and leave early: with them all, sm_75 runs out of registers.
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (kAmsgrad) load_run(largest + run_of<T>(k), most, k);
#pragma unroll
        for (int j = 4 * k; j < 4 * k + 4; ++j)
          adam_one<kAmsgrad>(a, x[j], d[j], mean[j], square[j], most[j]);
        if (kAmsgrad) store_run(largest + run_of<T>(k), most, k);
      }
      store_eight<T>(w, x);
      store_eight<T>(m, mean);
      store_eight<T>(v, square);
      return;
    }
    for (int64_t i = threadIdx.x; i < kOptimizerUnit && i < left; i += kThreads) {
      S x = widen(w[i]), mean = m[i], square = v[i], most = kAmsgrad ? largest[i] : S(0);
      adam_one<kAmsgrad>(a, x, static_cast<S>(widen(g[i])), mean, square, most);
      w[i] = narrow<T>(x);
      m[i] = mean;
      v[i] = square;
      if (kAmsgrad) largest[i] = most;
    }
  });
}

// ---- clipping ----------------------------------------------------------------------------------

// The sum of squares of this block's units. A block has a share of the list, not of the device, so
// that the bits are the same on every GPU.
template <class T>
__global__ void __launch_bounds__(kThreads) squares_kernel(OptimizerList list, double* partial) {
  using S = State<T>;
  SHARED_ARRAY(double, scratch, [cuda::kMaxWarps]);
  double sum = 0.0;
  over_units(list, [&](const OptimizerItem& item, int64_t first, int64_t left) {
    const T* const g = static_cast<const T*>(item.gradient) + first;
    S unit = S(0);
    if (item.aligned && left >= kOptimizerUnit) {
      S x[kEach];
      load_eight<T>(g, x);
#pragma unroll
      for (int j = 0; j < kEach; ++j) unit += x[j] * x[j];
    } else {
      for (int64_t i = threadIdx.x; i < kOptimizerUnit && i < left; i += kThreads) {
        const S x = widen(g[i]);
        unit += x * x;
      }
    }
    sum += unit;
  });
  sum = cuda::block_sum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    root_kernel(const double* partial, int64_t count, float* norm) {
  SHARED_ARRAY(double, scratch, [cuda::kMaxWarps]);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = cuda::block_sum(sum, scratch);
  if (threadIdx.x == 0) *norm = static_cast<float>(::sqrt(sum));
}

template <class T>
__global__ void __launch_bounds__(kThreads) scale_kernel(OptimizerList list) {
  using S = State<T>;
  const float factor = gradient_factor(list);
  if (factor == 1.f) return;
  over_units(list, [&](const OptimizerItem& item, int64_t first, int64_t left) {
    T* const g = static_cast<T*>(item.gradient) + first;
    if (item.aligned && left >= kOptimizerUnit) {
      S x[kEach];
      load_eight<T>(g, x);
#pragma unroll
      for (int j = 0; j < kEach; ++j) x[j] *= factor;
      store_eight<T>(g, x);
      return;
    }
    for (int64_t i = threadIdx.x; i < kOptimizerUnit && i < left; i += kThreads)
      g[i] = narrow<T>(static_cast<S>(widen(g[i])) * factor);
  });
}

// ---- launches ----------------------------------------------------------------------------------

// The list with its table on the device, for the length of a launcher.
class DeviceList {
 public:
  explicit DeviceList(const OptimizerList& list)
      : table_(static_cast<std::size_t>(list.count) * sizeof(OptimizerItem)), list_(list) {
    cuda::copy_to_device(table_.as<OptimizerItem>(), list.items,
                         static_cast<std::size_t>(list.count) * sizeof(OptimizerItem),
                         cuda::current_stream());
    list_.items = table_.as<OptimizerItem>();
  }
  const OptimizerList& get() const { return list_; }

 private:
  cuda::Workspace table_;
  OptimizerList list_;
};

cuda::LaunchConfig configuration(int64_t units, int64_t blocks) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(units < blocks ? units : blocks));
  config.block = dim3(kThreads);
  return config;
}
int64_t one_wave() {
  return static_cast<int64_t>(cuda::current_device_properties().multiprocessors) *
         kBlocksPerMultiprocessor;
}

// Calls f(Type<T>{}) with the CUDA type of a floating dtype.
template <class F>
void dispatch(DType dtype, const F& f) {
  dispatch_float(dtype, [&f](auto type) {
    f(Type<typename cuda::DeviceType<typename decltype(type)::type>::type>{});
  });
}

}  // namespace

void sgd_step_cuda(const SgdArgs& args) {
  const DeviceList list(args.list);
  SgdArgs there = args;
  there.list = list.get();
  dispatch(args.list.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::launch(sgd_kernel<T>, configuration(args.list.units, one_wave()), there);
  });
}

void adam_step_cuda(const AdamArgs& args) {
  const DeviceList list(args.list);
  AdamArgs there = args;
  there.list = list.get();
  const bool amsgrad = args.list.items[0].largest != nullptr;
  dispatch(args.list.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const cuda::LaunchConfig config = configuration(args.list.units, one_wave());
    if (amsgrad)
      cuda::launch(adam_kernel<true, T>, config, there);
    else
      cuda::launch(adam_kernel<false, T>, config, there);
  });
}

void gradient_norm_cuda(const GradientNormArgs& args) {
  const DeviceList list(args.list);
  const cuda::LaunchConfig config = configuration(args.list.units, kNormBlocks);
  const cuda::Workspace partial(config.grid.x * sizeof(double));
  dispatch(args.list.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::launch(squares_kernel<T>, config, list.get(), partial.as<double>());
  });
  cuda::LaunchConfig one;
  one.block = dim3(kThreads);
  cuda::launch(root_kernel, one, partial.as<double>(), static_cast<int64_t>(config.grid.x),
               args.norm);
}

void gradient_scale_cuda(const GradientScaleArgs& args) {
  const DeviceList list(args.list);
  dispatch(args.list.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::launch(scale_kernel<T>, configuration(args.list.units, one_wave()), list.get());
  });
}

}  // namespace seqloom::ops
