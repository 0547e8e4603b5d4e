// SPDX-License-Identifier: Apache-2.0
#include "ops/cache/cache.h"

#include "binding/registers.h"
#include "ops/common.h"
#include "ops/elementwise/arguments.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
constexpr const char* kOp = "cache_write";

// int64 [B] on the CPU.
Array per_row(const char* name, py::handle given, int64_t batch) {
  const Array& a = parse_tensor(kOp, name, given);
  check_type(a.dtype() == DType::kInt64, kOp, ": ", name, " must be int64, got ",
             name_of(a.dtype()));
  check_shape(kOp, name, a, Dims{batch}, "[B]");
  check_value(!a.is_cuda(), kOp, ": ", name, " must be on the CPU, got ", a.device());
  return contiguous(a);
}

// starts: an int or int64 [B]; counts: int64 [B] or None.
void cache_write(const Array& buffer, const Array& rows_given, py::handle starts,
                 py::handle counts) {
  check_value(buffer.rank() == 4, kOp, ": buffer must have shape [B, H, C, D], got ",
              buffer.shape());
  const int64_t batch = buffer.size(0), heads = buffer.size(1), room = buffer.size(2),
                width = buffer.size(3);
  check_value(rows_given.rank() == 4 && rows_given.size(0) == batch &&
                  rows_given.size(1) == heads && rows_given.size(3) == width,
              kOp, ": rows must have shape [B, H, n, D] = [", batch, ", ", heads, ", any, ", width,
              "], got ", rows_given.shape());
  check_same_dtype(kOp, "rows", rows_given, "buffer", buffer);
  check_same_device(kOp, "rows", rows_given, "buffer", buffer);
  check_writable(kOp, "buffer", buffer);
  check_value(width <= 1 || buffer.stride(3) == 1, kOp,
              ": buffer must have adjacent elements along its last axis");
  const int64_t length = rows_given.size(2);
  const bool copied =
      (width > 1 && rows_given.stride(3) != 1) || rows_given.storage() == buffer.storage();
  Array rows = rows_given;
  if (copied) {
    rows = Array::empty_like(rows_given);
    copy_into(rows, rows_given);
  }
  CacheWriteArgs args{};
  Array start_array, count_array;
  if (PyLong_Check(starts.ptr())) {
    args.start = py::cast<int64_t>(starts);
    check_value(args.start >= 0 && args.start <= room, kOp, ": starts must be in [0, ", room,
                "], got ", args.start);
  } else {
    start_array = per_row("starts", starts, batch);
    args.starts = start_array.data_as<int64_t>();
  }
  if (!counts.is_none()) {
    count_array = per_row("counts", counts, batch);
    args.counts = count_array.data_as<int64_t>();
  }
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t start = args.starts != nullptr ? args.starts[b] : args.start;
    const int64_t count = args.counts != nullptr ? args.counts[b] : length;
    check_value(count >= 0 && count <= length, kOp, ": counts must be in [0, n] = [0, ", length,
                "], got ", count);
    check_value(start >= 0 && start <= room - count, kOp, ": starts must be in [0, C - count] = [0",
                ", ", room - count, "], got ", start);
  }
  const int64_t item = item_size(buffer.dtype());
  args.buffer = buffer.mutable_data();
  args.rows = rows.data();
  args.batch = batch;
  args.heads = heads;
  args.length = length;
  args.row_bytes = width * item;
  for (int i = 0; i < 3; ++i) {
    args.buffer_strides[i] = buffer.stride(i) * item;
    args.rows_strides[i] = rows.stride(i) * item;
  }
  buffer.storage()->version.fetch_add(1, std::memory_order_relaxed);
  if (rows.numel() > 0) SEQLOOM_RUN(buffer.device(), rows.numel(), cache_write, args);
}

}  // namespace

void register_cache(py::module_& m) {
  m.def("cache_write", &cache_write, py::arg("buffer"), py::arg("rows"), py::arg("starts"),
        py::arg("counts") = py::none());
}

}  // namespace seqloom::ops
