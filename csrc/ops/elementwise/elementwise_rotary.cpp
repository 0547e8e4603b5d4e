// SPDX-License-Identifier: Apache-2.0
// Front door of the rotary position embedding.
#include "ops/elementwise/rotary.h"

#include <pybind11/pybind11.h>

#include "binding/registers.h"
#include "ops/elementwise/plan.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

void check_table(const char* name, const Array& table, const Array& x) {
  const char* op = "rotary_embedding";
  check_type(table.dtype() == x.dtype() || table.dtype() == DType::kFloat32, op, ": ", name,
             " must be ", name_of(x.dtype()), " or float32, got ", name_of(table.dtype()));
  check_same_device(op, name, table, "x", x);
  const int rank = table.rank();
  const bool fits = (rank == 2 && table.size(0) == x.size(2)) ||
                    (rank == 3 && table.size(0) == x.size(0) && table.size(1) == x.size(2));
  check_value(fits && 2 * table.size(-1) <= x.size(3), op, ": ", name,
              " must have shape [T, R/2] or [B, T, R/2] with T = ", x.size(2), ", B = ", x.size(0),
              " and R <= ", x.size(3), ", got ", table.shape());
}

Array rotary(const Array& x, const Array& cos, const Array& sin, bool interleaved, bool negate) {
  const char* op = "rotary_embedding";
  check_type(is_floating(x.dtype()), op, ": x must be a floating dtype, got ", name_of(x.dtype()));
  check_value(x.rank() == 4, op, ": x must have shape [B, H, T, D], got ", x.shape());
  check_table("cos", cos, x);
  check_table("sin", sin, x);
  check_shape(op, "sin", sin, cos.shape(), "of cos");
  check_same_dtype(op, "sin", sin, "cos", cos);
  const Array in = x.stride(3) == 1 ? x : contiguous(x);
  check_value(!(x.is_cuda() && x.dtype() == DType::kFloat64), op,
              ": float64 is a dtype of the CPU; x must be float32, float16 or bfloat16 on ",
              x.device());
  const DType table = x.dtype() == DType::kFloat64 ? x.dtype() : cos.dtype();
  const Array c = contiguous(convert(cos, table, cos.device(), false));
  const Array s = contiguous(convert(sin, table, sin.device(), false));
  const Array out = Array::empty(x.shape(), x.dtype(), x.device());
  RotaryArgs args;
  args.dtype = x.dtype();
  args.table_dtype = c.dtype();
  args.interleaved = interleaved;
  args.negate = negate;
  args.batch = x.size(0);
  args.heads = x.size(1);
  args.length = x.size(2);
  args.width = x.size(3);
  args.pairs = c.size(-1);
  for (int i = 0; i < 3; ++i) args.strides[i] = in.stride(i);
  args.table_batch_stride = c.rank() == 3 ? args.length * args.pairs : 0;
  args.x = in.data();
  args.cos = c.data();
  args.sin = s.data();
  args.out = out.mutable_data();
  if (out.numel() > 0) SEQLOOM_RUN(x.device(), out.numel(), rotary, args);
  return out;
}

}  // namespace

void register_rotary(py::module_& m) {
  m.def("rotary", &rotary, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("interleaved"),
        py::arg("negate"));
}

}  // namespace seqloom::ops
