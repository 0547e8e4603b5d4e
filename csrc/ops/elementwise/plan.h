// SPDX-License-Identifier: Apache-2.0
// What the front doors of this family share: dtype promotion, broadcasting, and filling the args.
#pragma once

#include "ops/common.h"
#include "ops/elementwise/elementwise.h"

namespace seqloom::ops {

// torch's promotion of two dtypes of equal standing: float16 with bfloat16 gives float32.
DType promote(DType a, DType b);

// Compute type of results of this dtype.
inline DType compute_dtype(DType d) {
  if (d == DType::kFloat64) return d;
  return is_floating(d) ? DType::kFloat32 : DType::kInt64;
}

// Compute type of a conversion that loses nothing on the way.
DType conversion_dtype(DType from, DType to);

// The shape that both broadcast to; ValueError names the op.
Dims broadcast_shapes(const char* op, const Dims& a, const Dims& b);

// An input of an op: an array, or a number that has no dtype of its own.
struct Input {
  const Array* array = nullptr;
  double real = 0;
  int64_t integer = 0;                   // of an int that only `real` can hold: its sign
  DType number_dtype = DType::kFloat32;  // float32, int64 or bool: the kind of the number

  Input() = default;
  Input(const Array& a) : array(&a) {}
  static Input number(double x) {
    Input in;
    in.real = x;
    in.integer = 0;
    return in;
  }
  static Input number(int64_t x, DType kind = DType::kInt64) {
    Input in;
    in.real = static_cast<double>(x);
    in.integer = x;
    in.number_dtype = kind;
    return in;
  }
};

// The dtype of the result: arrays before arrays of rank 0 before numbers, unless a later one is of
// a higher kind (bool < integer < float).
DType result_dtype(const Input* inputs, int count);

struct Numbers {
  double p = 0, q = 0;
  uint64_t seed = 0, offset = 0;
};

// Runs `op` over the shape of the outputs, to which every input broadcasts.
void run_elementwise(ElementwiseOp op, DType compute, const Input* inputs, int input_count,
                     const Array* outputs, int output_count, const Numbers& numbers = {});

// A new array of `shape` with the op's result.
Array map(ElementwiseOp op, DType dtype, const Dims& shape, std::initializer_list<Input> inputs,
          const Numbers& numbers = {});

// Strided copy between arrays of one shape, dtype and device.
void copy_into(const Array& to, const Array& from);

// Another dtype, device or neither; the array itself when nothing changes, unless `always_copy`.
Array convert(const Array& a, DType dtype, Device device, bool always_copy);

void register_creation(pybind11::module_& m);
void register_activation(pybind11::module_& m);
void register_rotary(pybind11::module_& m);

}  // namespace seqloom::ops
