// SPDX-License-Identifier: Apache-2.0
// Elementwise ops on CUDA, two kernels:
//
//   vector   one per float type and formula that models spend time in: operands of one dtype that
//   lie
//            flat (or are numbers, or a row that repeats), 16 bytes a thread and access.
//   strided  one per compute type: any dtypes and strides, an element a thread; the formula is
//   chosen
//            by a switch on the op, which all threads take the same way.
#include "cuda/gpu.h"
#include "ops/elementwise/elementwise_device.h"

namespace seqloom::ops {
namespace {

using namespace device_math;

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;

dim3 blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
}

// The dropout factor of element i.
SEQLOOM_DEVICE float dropout_factor(uint64_t seed, uint64_t element, float p, float q) {
  return philox_uniform(seed, element) >= p ? q : 0.f;
}

// The formulas that have vector kernels; each costs code for every architecture.
template <class F, class... Others>
constexpr bool kIsOneOf = (std::is_same_v<F, Others> || ...);
template <class F>
constexpr bool kHasVectorKernel =
    kIsOneOf<F, Copy, Neg, Exp, Tanh, Sigmoid, Relu, Gelu, GeluTanh, Silu, Dropout, Add, Sub, Mul,
             Div, Maximum, Swiglu, Geglu, BiasRelu, BiasGelu, BiasGeluTanh, BiasSilu, DropoutAdd,
             ScaleAdd, ScaleMaskedFill, Where, BiasDropoutAdd, ExpBackward, TanhBackward,
             SigmoidBackward, ReluBackward, GeluBackward, GeluTanhBackward, SiluBackward,
             BiasReluBackward, BiasGeluBackward, BiasGeluTanhBackward, BiasSiluBackward,
             SwigluBackward, GegluBackward>;
// has_float64_on_cuda, by formula.
template <class F>
constexpr bool kInFloat64 = kIsOneOf<F, Copy, Neg, Abs, Sqrt, LogicalNot, Clamp, Add, Sub, Mul, Div,
                                     Maximum, Minimum, Eq, Ne, Lt, Le, Gt, Ge, Where>;
// Which input may be bool beside operands of T; -1 for none.
template <class F>
constexpr int kMaskInput = kIsOneOf<F, Where>             ? 0
                           : kIsOneOf<F, ScaleMaskedFill> ? 1
                                                          : -1;

// ---- vectors -----------------------------------------------------------------------------------

struct VectorOperand {
  const void* data;  // null for a number
  float number;
  int64_t period;  // 0: flat; n: element i is data[i % n]
};
struct VectorArgs {
  int64_t count;
  float p, q;
  uint64_t seed, offset;
  VectorOperand in[kMaxInputs];
  void* out[kMaxOutputs];
};

template <class T, bool Mask, int W>
SEQLOOM_DEVICE void load_operand(const VectorOperand& o, int64_t first, int64_t left,
                                 float (&x)[W]) {
  if (o.data == nullptr) {
#pragma unroll
    for (int k = 0; k < W; ++k) x[k] = o.number;
    return;
  }
  const int64_t at = o.period == 0 ? first : first % o.period;
  if constexpr (Mask) {
    const uint8_t* bytes = static_cast<const uint8_t*>(o.data) + at;
#pragma unroll
    for (int k = 0; k < W; ++k) x[k] = k < left ? static_cast<float>(bytes[k]) : 0.f;
    return;
  }
  const T* p = static_cast<const T*>(o.data) + at;
  if (left >= W)
    cuda::load_vector(p, x);
  else
    cuda::load_partial(p, static_cast<int>(left), 0.f, x);
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads) vector_kernel(VectorArgs args) {
  constexpr int W = cuda::kVectorWidth<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * W;
  const int64_t start = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  for (int64_t first = start; first < args.count; first += step) {
    const int64_t left = args.count - first;
    float x[F::kInputs + 1][W], y[F::kOutputs][W];
#pragma unroll
    for (int i = 0; i < F::kInputs; ++i) {
      if (i == kMaskInput<F>)
        load_operand<T, true>(args.in[i], first, left, x[i]);
      else
        load_operand<T, false>(args.in[i], first, left, x[i]);
    }
    if constexpr (F::kRandom) {
      // `first` and the offset of a key are multiples of 4: whole Philox blocks.
#pragma unroll
      for (int k = 0; k < W; k += 4) {
        const PhiloxBlock b =
            philox_block(args.seed, (args.offset + static_cast<uint64_t>(first + k)) / 4);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          x[F::kInputs][k + j] = philox_to_uniform(b.word[j]) >= args.p ? args.q : 0.f;
      }
    }
#pragma unroll
    for (int k = 0; k < W; ++k) {
      float in[F::kInputs + 1], out[F::kOutputs];
#pragma unroll
      for (int i = 0; i < F::kInputs + (F::kRandom ? 1 : 0); ++i) in[i] = x[i][k];
      if constexpr (F::kOutputs == 1)
        out[0] = F::of(in, args.p, args.q);
      else
        F::both(in, out);
#pragma unroll
      for (int i = 0; i < F::kOutputs; ++i) y[i][k] = out[i];
    }
#pragma unroll
    for (int i = 0; i < F::kOutputs; ++i) {
      T* to = static_cast<T*>(args.out[i]) + first;
      if (left >= W)
        cuda::store_vector(to, y[i]);
      else
        cuda::store_partial(to, static_cast<int>(left), y[i]);
    }
  }
}

bool is_aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Whether the operands suit the vector kernel, and how they are passed.
bool vector_args(const ElementwiseArgs& args, VectorArgs* v) {
  const int mask_input = args.op == ElementwiseOp::kWhere             ? 0
                         : args.op == ElementwiseOp::kScaleMaskedFill ? 1
                                                                      : -1;
  const DType dtype = args.out[0].dtype;
  if (args.compute != DType::kFloat32 || !is_kernel_float(dtype)) return false;
  const int64_t width = 16 / item_size(dtype);
  if (args.offset % 4 != 0) return false;
  for (int i = 0; i < args.outputs; ++i) {
    const Operand& o = args.out[i];
    if (!o.flat || o.dtype != dtype || !is_aligned(o.data)) return false;
    v->out[i] = o.data;
  }
  for (int i = 0; i < args.inputs; ++i) {
    const Operand& o = args.in[i];
    v->in[i] = VectorOperand{o.data, static_cast<float>(o.real), 0};
    if (i == mask_input) {
      if (o.data == nullptr || o.dtype != DType::kBool) return false;
    } else {
      if (o.data == nullptr) continue;
      if (o.dtype != dtype || !is_aligned(o.data)) return false;
    }
    if (o.flat) continue;
    // A row that repeats: contiguous along the last axis, not moving along the others.
    const int last = args.rank - 1;
    if (o.strides[last] != 1 || args.shape[last] % width != 0) return false;
    for (int k = 0; k < last; ++k)
      if (o.strides[k] != 0) return false;
    v->in[i].period = args.shape[last];
  }
  v->count = args.count;
  v->p = static_cast<float>(args.p);
  v->q = static_cast<float>(args.q);
  v->seed = args.seed;
  v->offset = args.offset;
  return true;
}

template <class T>
bool launch_vector(ElementwiseOp op, const VectorArgs& v) {
  const cuda::LaunchConfig config{
      blocks_for((v.count + cuda::kVectorWidth<T> - 1) / cuda::kVectorWidth<T>), dim3(kThreads)};
  bool launched = false;
  visit_formula(op, [&](auto formula) {
    if constexpr (kHasVectorKernel<decltype(formula)>) {
      cuda::launch(vector_kernel<T, decltype(formula)>, config, v);
      launched = true;
    }
  });
  return launched;
}

// ---- any strides -------------------------------------------------------------------------------

SEQLOOM_DEVICE int64_t offset_of(const ElementwiseArgs& args, const Operand& o, int64_t i) {
  int64_t offset = 0;
  for (int axis = args.rank - 1; axis > 0; --axis) {
    const int64_t extent = args.shape[axis], quotient = i / extent;
    offset += (i - quotient * extent) * o.strides[axis];
    i = quotient;
  }
  return offset + i * o.strides[0];
}

template <class C>
SEQLOOM_DEVICE C load_input(const ElementwiseArgs& args, const Operand& o, int64_t i) {
  if (o.data == nullptr) {
    if constexpr (dtype_of<C>() == DType::kInt64)
      return o.integer;
    else
      return static_cast<C>(o.real);
  }
  return load_as<C>(o.data, o.dtype, o.flat ? i : offset_of(args, o, i));
}

template <class C>
__global__ void __launch_bounds__(kThreads) strided_kernel(ElementwiseArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += step) {
    C y[kMaxOutputs] = {};
    if constexpr (dtype_of<C>() == DType::kInt64) {
      visit_integer_formula(args.op, [&](auto formula) {
        using F = decltype(formula);
        int64_t x[F::kInputs];
        for (int k = 0; k < F::kInputs; ++k) x[k] = load_input<int64_t>(args, args.in[k], i);
        y[0] = F::of(x, to_integer(args.p), to_integer(args.q));
      });
    } else {
      visit_formula(args.op, [&](auto formula) {
        using F = decltype(formula);
        if constexpr (dtype_of<C>() != DType::kFloat64 || kInFloat64<F>) {
          C x[F::kInputs + 1];
          for (int k = 0; k < F::kInputs; ++k) x[k] = load_input<C>(args, args.in[k], i);
          if constexpr (F::kRandom)
            x[F::kInputs] = dropout_factor(args.seed, args.offset + static_cast<uint64_t>(i),
                                           static_cast<float>(args.p), 1.f) *
                            static_cast<C>(args.q);
          if constexpr (F::kOutputs == 1)
            y[0] = F::of(x, static_cast<C>(args.p), static_cast<C>(args.q));
          else
            F::both(x, y);
        }
      });
    }
    for (int k = 0; k < args.outputs; ++k) {
      const Operand& o = args.out[k];
      store_as<C>(o.data, o.dtype, o.flat ? i : offset_of(args, o, i), y[k]);
    }
  }
}

// ---- copies ------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) strided_copy_kernel(StridedCopyArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += step) {
    int64_t from = 0, to = 0, rest = i;
    for (int axis = args.rank - 1; axis >= 0; --axis) {
      const int64_t extent = args.shape[axis], quotient = axis > 0 ? rest / extent : 0;
      const int64_t index = rest - quotient * extent;
      from += index * args.from_strides[axis];
      to += index * args.to_strides[axis];
      rest = quotient;
    }
    static_cast<T*>(args.to)[to] = static_cast<const T*>(args.from)[from];
  }
}

// A transpose through shared memory, so that both sides are accessed along rows: to[m][r][c] =
// from[m][c][r] with the source contiguous along r. One block a tile of 32 x 32, padded by one
// column against bank conflicts.
constexpr int kTile = 32;
constexpr int kTileRows = 8, kTileThreads = kTile * kTileRows;

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    transpose_kernel(const T* from, T* to, int64_t rows, int64_t columns, int64_t from_column,
                     int64_t from_matrix, int64_t to_row, int64_t to_matrix) {
  SHARED_ARRAY(T, tile, [kTile][kTile + 1]);
  const int64_t r0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t c0 = static_cast<int64_t>(blockIdx.y) * kTile;
  from += blockIdx.z * from_matrix;
  to += blockIdx.z * to_matrix;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  for (int k = ty; k < kTile; k += kTileRows)
    if (r0 + tx < rows && c0 + k < columns) tile[k][tx] = from[(c0 + k) * from_column + r0 + tx];
  __syncthreads();
  for (int k = ty; k < kTile; k += kTileRows)
    if (r0 + k < rows && c0 + tx < columns) to[(r0 + k) * to_row + c0 + tx] = tile[tx][k];
}

// The source is contiguous along the last axis but one, the target along the last.
bool is_transpose(const StridedCopyArgs& a) {
  if (a.rank < 2 || a.rank > 3) return false;
  const int r = a.rank - 2, c = a.rank - 1;
  return a.from_strides[r] == 1 && a.to_strides[c] == 1 && a.from_strides[c] != 1 &&
         a.shape[r] >= 8 && a.shape[c] >= 8 && (a.shape[c] + kTile - 1) / kTile <= 65535 &&
         (a.rank == 2 || a.shape[0] <= 65535);
}

template <class T>
void copy_as(const StridedCopyArgs& a) {
  if (!is_transpose(a)) {
    cuda::launch(strided_copy_kernel<T>, {blocks_for(a.count), dim3(kThreads)}, a);
    return;
  }
  const int r = a.rank - 2, c = a.rank - 1;
  const bool batched = a.rank == 3;
  const dim3 grid(static_cast<unsigned>((a.shape[r] + kTile - 1) / kTile),
                  static_cast<unsigned>((a.shape[c] + kTile - 1) / kTile),
                  static_cast<unsigned>(batched ? a.shape[0] : 1));
  cuda::launch(transpose_kernel<T>, {grid, dim3(kTile, kTileRows)}, static_cast<const T*>(a.from),
               static_cast<T*>(a.to), a.shape[r], a.shape[c], a.from_strides[c],
               batched ? a.from_strides[0] : 0, a.to_strides[r], batched ? a.to_strides[0] : 0);
}

// ---- random numbers ----------------------------------------------------------------------------

SEQLOOM_DEVICE int64_t random_integer(const RandomArgs& a, uint64_t element) {
  const uint64_t word = philox_block(a.seed, element / 4).word[element % 4];
  uint64_t value;
  if (a.range <= (uint64_t{1} << 32)) {
    value = (word * (a.range - 1) + word) >> 32;
  } else {
    const uint64_t more = philox_block(a.seed, element / 4, 1).word[element % 4];
    value = ((word << 32) | more) % a.range;
  }
  return static_cast<int64_t>(static_cast<uint64_t>(a.low) + value);
}

// A pair of elements a thread, as normals come in pairs.
__global__ void __launch_bounds__(kThreads) random_kernel(RandomArgs a) {
  const int64_t step = 2 * static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = 2 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x); i < a.count;
       i += step) {
    for (int64_t k = i; k < i + 2 && k < a.count; ++k) {
      const uint64_t element = a.offset + static_cast<uint64_t>(k);
      if (a.kind == 2) {
        store_as<int64_t>(a.out, a.dtype, k, random_integer(a, element));
        continue;
      }
      float x = a.kind == 0 ? philox_uniform(a.seed, element) : philox_normal(a.seed, element);
      // Rounding to 16 bits could reach 1: the largest value below it stands in.
      if (a.kind == 0 && a.dtype == DType::kFloat16) x = fminf(x, 0.99951172f);
      if (a.kind == 0 && a.dtype == DType::kBFloat16) x = fminf(x, 0.99609375f);
      store_as<float>(a.out, a.dtype, k, x);
    }
  }
}

}  // namespace

void elementwise_cuda(const ElementwiseArgs& args) {
  VectorArgs v;
  if (vector_args(args, &v)) {
    const DType dtype = args.out[0].dtype;
    const bool launched = dtype == DType::kFloat16    ? launch_vector<cuda::Half>(args.op, v)
                          : dtype == DType::kBFloat16 ? launch_vector<cuda::BFloat16>(args.op, v)
                                                      : launch_vector<float>(args.op, v);
    if (launched) return;
  }
  const cuda::LaunchConfig config{blocks_for(args.count), dim3(kThreads)};
  switch (args.compute) {
    case DType::kFloat64:
      cuda::launch(strided_kernel<double>, config, args);
      return;
    case DType::kInt64:
      cuda::launch(strided_kernel<int64_t>, config, args);
      return;
    default:
      cuda::launch(strided_kernel<float>, config, args);
      return;
  }
}

void strided_copy_cuda(const StridedCopyArgs& args) {
  if (args.count == 0) return;
  switch (args.item_size) {
    case 1:
      return copy_as<uint8_t>(args);
    case 2:
      return copy_as<uint16_t>(args);
    case 4:
      return copy_as<uint32_t>(args);
    default:
      return copy_as<uint64_t>(args);
  }
}

void random_cuda(const RandomArgs& args) {
  cuda::launch(random_kernel, {blocks_for((args.count + 1) / 2), dim3(kThreads)}, args);
}

}  // namespace seqloom::ops
