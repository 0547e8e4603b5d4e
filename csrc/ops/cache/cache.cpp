// SPDX-License-Identifier: Apache-2.0
#include "ops/cache/cache.h"

#include "binding/registers.h"
#include "ops/attention/attend.h"
#include "ops/common.h"
#include "ops/elementwise/arguments.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
constexpr const char* kOp = "cache_write";

// int64 [B], on the CPU or on the buffer's device.
Array per_row(const char* name, py::handle given, const Array& buffer) {
  const Array& a = parse_tensor(kOp, name, given);
  check_type(a.dtype() == DType::kInt64, kOp, ": ", name, " must be int64, got ",
             name_of(a.dtype()));
  check_shape(kOp, name, a, Dims{buffer.size(0)}, "[B]");
  check_value(!a.is_cuda() || a.device() == buffer.device(), kOp, ": ", name,
              " must be on the CPU or the buffer's device, got ", a.device());
  return contiguous(a);
}

// starts: an int or int64 [B]; counts: int64 [B] or None. Both on the device, or both not: what is
// on the device is read by the kernel only, so that a captured step can be replayed with others.
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
    start_array = per_row("starts", starts, buffer);
    args.starts = start_array.data_as<int64_t>();
  }
  if (!counts.is_none()) {
    count_array = per_row("counts", counts, buffer);
    args.counts = count_array.data_as<int64_t>();
  }
  args.on_device = args.starts != nullptr && start_array.is_cuda();
  check_value(args.counts == nullptr || count_array.is_cuda() == args.on_device, kOp,
              ": counts must be where starts are, on the CPU or the device");
  for (int64_t b = 0; b < batch && !args.on_device; ++b) {
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
  args.room = room;
  args.row_bytes = width * item;
  for (int i = 0; i < 3; ++i) {
    args.buffer_strides[i] = buffer.stride(i) * item;
    args.rows_strides[i] = rows.stride(i) * item;
  }
  buffer.storage()->version.fetch_add(1, std::memory_order_relaxed);
  if (rows.numel() > 0) SEQLOOM_RUN(buffer.device(), rows.numel(), cache_write, args);
}

// Where a step stands and what it may see, for every layer alike.
struct Step {
  py::object starts, counts;     // as cache_write takes them; starts are the queries' offsets too
  std::optional<Array> lengths;  // int64 [B] on the buffers' device: keys with this step's
  std::optional<Array> slopes;   // ALiBi's
  double scale;
  int64_t left;
};

// Keeps key and value [B, Hkv, n, D] in the buffers [B, Hkv, C, D] and attends to what they hold.
Array write_and_attend(const Array& query, const Array& key, const Array& value, const Array& keys,
                       const Array& values, const std::optional<Array>& mask, const Step& step) {
  cache_write(keys, key, step.starts, step.counts);
  cache_write(values, value, step.starts, step.counts);
  std::optional<Array> offsets;
  int64_t offset = 0;
  if (PyLong_Check(step.starts.ptr())) {
    offset = py::cast<int64_t>(step.starts);
  } else {
    offsets = parse_tensor("cached_attention", "starts", step.starts);
  }
  return attend(query, keys, values, mask, step.lengths, offsets, step.slopes, step.scale, offset,
                step.left);
}

Array cached_attention(const Array& query, const Array& key, const Array& value, const Array& keys,
                       const Array& values, const py::object& starts, const py::object& counts,
                       const std::optional<Array>& lengths, const std::optional<Array>& mask,
                       const std::optional<Array>& slopes, double scale, int64_t left) {
  return write_and_attend(query, key, value, keys, values, mask,
                          {starts, counts, lengths, slopes, scale, left});
}

// The same of the product [B, n, 3 H D] that made all three, by kind ([3, H, D]) or by head
// ([H, 3, D]); heads are merged again: [B, n, H D].
Array cached_attention_joint(const Array& joint, const Array& keys, const Array& values,
                             bool by_head, const py::object& starts, const py::object& counts,
                             const std::optional<Array>& lengths,
                             const std::optional<Array>& slopes, double scale, int64_t left) {
  constexpr const char* op = "cached_attention";
  check_value(keys.rank() == 4, op, ": keys must have shape [B, H, C, D], got ", keys.shape());
  const int64_t batch = keys.size(0), heads = keys.size(1), width = keys.size(3);
  check_value(joint.rank() == 3 && joint.size(0) == batch && joint.size(2) == 3 * heads * width, op,
              ": joint must have shape [B, n, 3 H D] = [", batch, ", any, ", 3 * heads * width,
              "], got ", joint.shape());
  const Array x = contiguous(joint);
  const int64_t length = x.size(1), row = 3 * heads * width;
  const int64_t per_kind = by_head ? width : heads * width, per_head = by_head ? 3 * width : width;
  const auto part = [&](int64_t kind) {
    return x.view(Dims{batch, heads, length, width}, Dims{length * row, per_head, row, 1},
                  kind * per_kind);
  };
  const Array y = write_and_attend(part(0), part(1), part(2), keys, values, std::nullopt,
                                   {starts, counts, lengths, slopes, scale, left});
  const Dims merged{batch, length, heads * width};
  if (length == 1) return y.reshaped(merged);
  const Array turned = y.view(Dims{batch, length, heads, width},
                              Dims{heads * length * width, width, length * width, 1});
  return contiguous(turned).reshaped(merged);
}

}  // namespace

void register_cache(py::module_& m) {
  m.def("cache_write", &cache_write, py::arg("buffer"), py::arg("rows"), py::arg("starts"),
        py::arg("counts") = py::none());
  m.def("cached_attention", &cached_attention, py::arg("query"), py::arg("key"), py::arg("value"),
        py::arg("keys"), py::arg("values"), py::arg("starts"), py::arg("counts"),
        py::arg("lengths"), py::arg("mask"), py::arg("slopes"), py::arg("scale"), py::arg("left"));
  m.def("cached_attention_joint", &cached_attention_joint, py::arg("joint"), py::arg("keys"),
        py::arg("values"), py::arg("by_head"), py::arg("starts"), py::arg("counts"),
        py::arg("lengths"), py::arg("slopes"), py::arg("scale"), py::arg("left"));
}

}  // namespace seqloom::ops
