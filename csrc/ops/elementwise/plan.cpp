// SPDX-License-Identifier: Apache-2.0
#include "ops/elementwise/plan.h"

namespace seqloom::ops {
namespace {

int kind_of(DType d) { return is_floating(d) ? 2 : is_integer(d) ? 1 : 0; }

// Strides of `a` over `shape`, to which it broadcasts: 0 along stretched axes.
void broadcast_strides(const Array& a, const Dims& shape, int64_t* strides) {
  const int missing = shape.size() - a.rank();
  for (int i = 0; i < shape.size(); ++i)
    strides[i] = i < missing || a.shape()[i - missing] != shape[i] ? 0 : a.strides()[i - missing];
}

// Drops axes of extent 1 and joins neighbours that every operand walks as one axis.
template <int N>
int join_axes(int rank, int64_t* shape, int64_t* const (&strides)[N], int count) {
  int kept = 0;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] == 1) continue;
    bool joined = kept > 0;
    for (int k = 0; joined && k < count; ++k)
      joined = strides[k] == nullptr || strides[k][kept - 1] == strides[k][i] * shape[i];
    if (joined) {
      shape[kept - 1] *= shape[i];
    } else {
      shape[kept++] = shape[i];
    }
    for (int k = 0; k < count; ++k)
      if (strides[k] != nullptr) strides[k][kept - 1] = strides[k][i];
  }
  if (kept == 0) {
    kept = 1;
    shape[0] = 1;
    for (int k = 0; k < count; ++k)
      if (strides[k] != nullptr) strides[k][0] = 0;
  }
  return kept;
}

}  // namespace

DType promote(DType a, DType b) {
  if (a == b) return a;
  const int ka = kind_of(a), kb = kind_of(b);
  if (ka != kb) return ka > kb ? a : b;
  if (a == DType::kFloat64 || b == DType::kFloat64) return DType::kFloat64;
  if (ka == 2) return DType::kFloat32;
  if (a == DType::kInt64 || b == DType::kInt64) return DType::kInt64;
  return DType::kInt32;  // also int8 with uint8, for which there is no 16-bit type
}

Dims broadcast_shapes(const char* op, const Dims& a, const Dims& b) {
  if (a == b) return a;
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  const int missing = longer.size() - shorter.size();
  Dims shape = longer;
  for (int i = 0; i < shorter.size(); ++i) {
    const int64_t m = longer[missing + i], n = shorter[i];
    check_value(m == n || m == 1 || n == 1, op, ": shapes must broadcast together, got ", a,
                " and ", b);
    shape[missing + i] = m == 1 ? n : m;
  }
  return shape;
}

DType result_dtype(const Input* inputs, int count) {
  // By standing: arrays, arrays of rank 0, numbers.
  DType found[3];
  bool any[3] = {false, false, false};
  for (int i = 0; i < count; ++i) {
    const Input& in = inputs[i];
    const int standing = in.array == nullptr ? 2 : in.array->rank() == 0 ? 1 : 0;
    const DType d = in.array != nullptr ? in.array->dtype() : in.number_dtype;
    found[standing] = any[standing] ? promote(found[standing], d) : d;
    any[standing] = true;
  }
  DType result = DType::kBool;
  bool have = false;
  for (int s = 0; s < 3; ++s) {
    if (!any[s]) continue;
    if (!have || kind_of(found[s]) > kind_of(result)) result = found[s];
    have = true;
  }
  return result;
}

void run_elementwise(ElementwiseOp op, DType compute, const Input* inputs, int input_count,
                     const Array* outputs, int output_count, const Numbers& numbers) {
  ElementwiseArgs args;
  const Array& like = outputs[0];
  if (like.numel() == 0) return;
  check_type(!like.is_cuda() || compute != DType::kFloat64 || has_float64_on_cuda(op),
             "elementwise: float64 is a dtype of the CPU; on CUDA it has arithmetic and "
             "comparisons only, got ",
             like.device());
  args.op = op;
  args.compute = compute;
  args.inputs = static_cast<uint8_t>(input_count);
  args.outputs = static_cast<uint8_t>(output_count);
  args.count = like.numel();
  args.p = numbers.p;
  args.q = numbers.q;
  args.seed = numbers.seed;
  args.offset = numbers.offset;

  bool flat = true;
  for (int i = 0; i < input_count; ++i) {
    Operand& o = args.in[i];
    const Array* a = inputs[i].array;
    o.real = inputs[i].real;
    o.integer = inputs[i].integer;
    o.data = a != nullptr ? a->mutable_data() : nullptr;
    o.dtype = a != nullptr ? a->dtype() : DType::kFloat64;
    o.flat = a != nullptr && a->shape() == like.shape() && a->is_contiguous();
    flat &= o.flat || a == nullptr;
  }
  for (int i = 0; i < output_count; ++i) {
    Operand& o = args.out[i];
    o.data = outputs[i].mutable_data();
    o.dtype = outputs[i].dtype();
    o.flat = outputs[i].is_contiguous();
    flat &= o.flat;
  }
  if (flat) {
    args.rank = 1;
    args.shape[0] = args.count;
    for (int i = 0; i < input_count; ++i) args.in[i].strides[0] = args.in[i].flat;
    for (int i = 0; i < output_count; ++i) args.out[i].strides[0] = 1;
  } else {
    const int rank = like.rank();
    int64_t* strides[kMaxInputs + kMaxOutputs] = {};
    for (int i = 0; i < rank; ++i) args.shape[i] = like.shape()[i];
    for (int i = 0; i < input_count; ++i) {
      strides[i] = args.in[i].strides;
      if (inputs[i].array != nullptr)
        broadcast_strides(*inputs[i].array, like.shape(), strides[i]);
      else
        for (int k = 0; k < kMaxElementwiseRank; ++k) strides[i][k] = 0;
    }
    for (int i = 0; i < output_count; ++i) {
      strides[input_count + i] = args.out[i].strides;
      broadcast_strides(outputs[i], like.shape(), args.out[i].strides);
    }
    args.rank = join_axes(rank, args.shape, strides, input_count + output_count);
  }
  SEQLOOM_RUN(like.device(), args.count, elementwise, args);
}

Array map(ElementwiseOp op, DType dtype, const Dims& shape, std::initializer_list<Input> inputs,
          const Numbers& numbers) {
  Device device;
  for (const Input& in : inputs)
    if (in.array != nullptr) device = in.array->device();
  const Array out = Array::empty(shape, dtype, device);
  run_elementwise(op, compute_dtype(dtype), inputs.begin(), static_cast<int>(inputs.size()), &out,
                  1, numbers);
  return out;
}

void copy_into(const Array& to, const Array& from) {
  StridedCopyArgs args;
  args.from = from.data();
  args.to = to.mutable_data();
  args.item_size = static_cast<int32_t>(item_size(to.dtype()));
  args.count = to.numel();
  if (args.count == 0) return;
  for (int i = 0; i < to.rank(); ++i) args.shape[i] = to.shape()[i];
  broadcast_strides(from, to.shape(), args.from_strides);
  broadcast_strides(to, to.shape(), args.to_strides);
  int64_t* const strides[2] = {args.from_strides, args.to_strides};
  args.rank = join_axes(to.rank(), args.shape, strides, 2);
  SEQLOOM_RUN(to.device(), args.count, strided_copy, args);
}

}  // namespace seqloom::ops
