// SPDX-License-Identifier: Apache-2.0
// Element types. `dispatch_*` turn a run-time dtype into a C++ type for a generic lambda.
#pragma once

#include <cstdint>

#include "core/config.h"
#include "core/half.h"

namespace seqloom {

enum class DType : uint8_t {
  kFloat32,
  kFloat16,
  kBFloat16,
  kFloat64,
  kInt64,
  kInt32,
  kInt8,
  kUInt8,
  kBool
};
inline constexpr int kDTypeCount = 9;

constexpr int64_t item_size(DType dtype) {
  constexpr int64_t sizes[] = {4, 2, 2, 8, 8, 4, 1, 1, 1};
  return sizes[static_cast<int>(dtype)];
}
constexpr const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float16", "bfloat16", "float64", "int64",
                                   "int32",   "int8",    "uint8",    "bool"};
  return names[static_cast<int>(dtype)];
}
constexpr bool is_floating(DType dtype) { return static_cast<int>(dtype) <= 3; }
// float32, float16, bfloat16: what the kernels of sl.ops compute in (float32 accumulation).
constexpr bool is_kernel_float(DType dtype) { return static_cast<int>(dtype) <= 2; }
constexpr bool is_integer(DType dtype) {
  return static_cast<int>(dtype) >= 4 && dtype != DType::kBool;
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::kFloat16;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kFloat64;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kInt64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kInt32;
}
template <>
constexpr DType dtype_of<int8_t>() {
  return DType::kInt8;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kUInt8;
}
template <>
constexpr DType dtype_of<bool>() {
  return DType::kBool;
}

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) for float32, float16 and bfloat16. The caller has checked the dtype.
template <class F>
SEQLOOM_ALWAYS_INLINE void dispatch_kernel_float(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat16:
      return f(Type<f16>{});
    case DType::kBFloat16:
      return f(Type<bf16>{});
    default:
      return f(Type<float>{});
  }
}
// ... and float64.
template <class F>
SEQLOOM_ALWAYS_INLINE void dispatch_float(DType dtype, const F& f) {
  if (dtype == DType::kFloat64) return f(Type<double>{});
  dispatch_kernel_float(dtype, f);
}
// Every dtype.
template <class F>
SEQLOOM_ALWAYS_INLINE void dispatch_all(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kInt64:
      return f(Type<int64_t>{});
    case DType::kInt32:
      return f(Type<int32_t>{});
    case DType::kInt8:
      return f(Type<int8_t>{});
    case DType::kUInt8:
      return f(Type<uint8_t>{});
    case DType::kBool:
      return f(Type<bool>{});
    default:
      return dispatch_float(dtype, f);
  }
}

}  // namespace seqloom
