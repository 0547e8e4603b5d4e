// SPDX-License-Identifier: Apache-2.0
#include "ops/attention/attention.h"

#include "binding/registers.h"
#include "ops/attention/attend.h"
#include "ops/common.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
constexpr const char* kOp = "scaled_dot_product_attention";

// Where the CUDA kernels end (attention.h). Grids have one axis, of fewer than 2^31 blocks, and no
// kernel makes more of them than there are rows.
constexpr int64_t kMaxDeviceWidth = 256, kMaxDeviceRows = (int64_t{1} << 31) - 256;

// The array itself when elements of its last axis are adjacent, else a contiguous copy.
Array with_adjacent_rows(const Array& a) {
  return a.size(-1) <= 1 || a.stride(-1) == 1 ? a : contiguous(a);
}

AttentionOperand operand(const Array& a) {
  return {a.data(), a.stride(0), a.stride(1), a.stride(2)};
}

// Everything but the tensors.
struct Options {
  double scale;
  int64_t offset, left, right;
  double softcap, dropout;
  uint64_t seed, stream_offset;
};

// What forward and backward read, checked, with the owners of copies.
struct Inputs {
  Array query, key, value;
  std::optional<Array> mask, key_lengths, offsets, slopes;
  AttentionArgs args{};
};

void check_qkv(const Array& query, const Array& key, const Array& value) {
  check_kernel_float(kOp, "query", query);
  check_same_dtype(kOp, "key", key, "query", query);
  check_same_dtype(kOp, "value", value, "query", query);
  check_same_device(kOp, "key", key, "query", query);
  check_same_device(kOp, "value", value, "query", query);
  check_value(query.rank() == 4, kOp, ": query must have shape [B, Hq, Tq, D], got ",
              query.shape());
  const int64_t b = query.size(0), heads = query.size(1), width = query.size(3);
  check_value(key.rank() == 4 && key.size(0) == b && key.size(3) == width, kOp,
              ": key must have shape [B, Hkv, Tk, D] = [", b, ", any, any, ", width, "], got ",
              key.shape());
  const int64_t kv_heads = key.size(1);
  check_value(kv_heads > 0 ? heads % kv_heads == 0 : heads == 0, kOp,
              ": key must have a number of heads that divides Hq = ", heads, ", got ", kv_heads);
  check_value(value.rank() == 4 && value.size(0) == b && value.size(1) == kv_heads &&
                  value.size(2) == key.size(2),
              kOp, ": value must have shape [B, Hkv, Tk, Dv] = [", b, ", ", kv_heads, ", ",
              key.size(2), ", any], got ", value.shape());
  if (query.is_cuda()) {
    check_value(width <= kMaxDeviceWidth && value.size(3) <= kMaxDeviceWidth, kOp,
                ": query must have head sizes up to ", kMaxDeviceWidth, " on CUDA, got ", width,
                " and ", value.size(3));
    check_value(
        b * heads * query.size(2) < kMaxDeviceRows && b * kv_heads * key.size(2) < kMaxDeviceRows,
        kOp, ": query and key must have fewer than 2^31 rows on CUDA, got ", query.shape(), " and ",
        key.shape());
  }
}

// Strides of the mask over [B, Hq, Tq, Tk]: 0 on the axes that it lacks or that are one long.
void set_mask(Inputs& in, const Array& mask, const Dims& scores) {
  check_value(mask.device() == in.query.device(), kOp,
              ": attn_mask must be on the device of query");
  check_type(mask.dtype() == DType::kBool || is_kernel_float(mask.dtype()), kOp,
             ": attn_mask must be bool, float32, float16 or bfloat16, got ", name_of(mask.dtype()));
  bool fits = mask.rank() <= 4;
  for (int i = 1; fits && i <= mask.rank(); ++i)
    fits = mask.size(-i) == 1 || mask.size(-i) == scores[4 - i];
  check_value(fits, kOp, ": attn_mask must broadcast to [B, Hq, Tq, Tk] = ", scores, ", got ",
              mask.shape());
  in.mask =
      mask.rank() == 0 || mask.size(-1) <= 1 || mask.stride(-1) == 1 ? mask : contiguous(mask);
  in.args.mask = in.mask->data();
  in.args.mask_dtype = mask.dtype();
  for (int i = 1; i <= 4; ++i)
    in.args.mask_stride[4 - i] = i <= mask.rank() && mask.size(-i) > 1 ? in.mask->stride(-i) : 0;
}

std::optional<Array> per_batch(const char* op, const char* name, const std::optional<Array>& a,
                               int64_t batch, const Array& query) {
  if (!a) return std::nullopt;
  check_type(a->dtype() == DType::kInt64, op, ": ", name, " must be int64, got ",
             name_of(a->dtype()));
  check_shape(op, name, *a, Dims{batch}, "[B]");
  check_same_device(op, name, *a, "query", query);
  return contiguous(*a);
}

void set_sizes(Inputs& in, int64_t keys) {
  AttentionArgs& a = in.args;
  a.query = operand(in.query);
  a.key = operand(in.key);
  a.value = operand(in.value);
  a.batch = in.query.size(0);
  a.heads = in.query.size(1);
  a.kv_heads = in.key.size(1);
  a.queries = in.query.size(2);
  a.keys = keys;
  a.width = in.query.size(3);
  a.value_width = in.value.size(3);
  a.dtype = in.query.dtype();
}

// What is on the device is not looked at: that would wait for it. Kernels clamp lengths.
void set_options(const char* op, Inputs& in, const std::optional<Array>& key_lengths,
                 const std::optional<Array>& offsets, const std::optional<Array>& slopes,
                 const Options& o) {
  AttentionArgs& a = in.args;
  const bool on_host = !in.query.is_cuda();
  in.key_lengths = per_batch(op, "key_lengths", key_lengths, a.batch, in.query);
  if (in.key_lengths) {
    a.key_lengths = in.key_lengths->data_as<int64_t>();
    for (int64_t b = 0; on_host && b < a.batch; ++b)
      check_value(a.key_lengths[b] >= 0 && a.key_lengths[b] <= a.keys, op,
                  ": key_lengths must be in [0, ", a.keys, "], got ", a.key_lengths[b]);
  }
  in.offsets = per_batch(op, "causal_offset", offsets, a.batch, in.query);
  if (in.offsets) {
    a.offsets = in.offsets->data_as<int64_t>();
    for (int64_t b = 0; on_host && b < a.batch; ++b)
      check_value(a.offsets[b] >= -kUnbounded && a.offsets[b] <= kUnbounded, op,
                  ": causal_offset must be within 2^40, got ", a.offsets[b]);
  }
  check_value(o.offset >= -kUnbounded && o.offset <= kUnbounded, op,
              ": causal_offset must be within 2^40, got ", o.offset);
  if (slopes) {
    check_type(slopes->dtype() == DType::kFloat32, op, ": alibi_slopes must be float32, got ",
               name_of(slopes->dtype()));
    check_shape(op, "alibi_slopes", *slopes, Dims{a.heads}, "[Hq]");
    check_same_device(op, "alibi_slopes", *slopes, "query", in.query);
    in.slopes = contiguous(*slopes);
    a.slopes = in.slopes->data_as<float>();
  }
  a.offset = o.offset;
  a.left = o.left < kUnbounded ? o.left : kUnbounded;
  a.right = o.right < kUnbounded ? o.right : kUnbounded;
  a.scale = static_cast<float>(o.scale);
  a.softcap = static_cast<float>(o.softcap);
  a.dropout = static_cast<float>(o.dropout);
  a.seed = o.seed;
  a.stream_offset = o.stream_offset;
}

Inputs inputs_of(const Array& query, const Array& key, const Array& value,
                 const std::optional<Array>& mask, const std::optional<Array>& key_lengths,
                 const std::optional<Array>& offsets, const std::optional<Array>& slopes,
                 const Options& o) {
  check_qkv(query, key, value);
  Inputs in;
  in.query = with_adjacent_rows(query);
  in.key = with_adjacent_rows(key);
  in.value = with_adjacent_rows(value);
  set_sizes(in, key.size(2));
  const AttentionArgs& a = in.args;
  if (mask) set_mask(in, *mask, Dims{a.batch, a.heads, a.queries, a.keys});
  set_options(kOp, in, key_lengths, offsets, slopes, o);
  return in;
}

// (output [B, Hq, Tq, Dv], shift and share [B, Hq, Tq, 2] or None)
py::tuple forward(const Array& query, const Array& key, const Array& value,
                  const std::optional<Array>& mask, const std::optional<Array>& key_lengths,
                  const std::optional<Array>& offsets, const std::optional<Array>& slopes,
                  double scale, int64_t offset, int64_t left, int64_t right, double softcap,
                  double dropout, uint64_t seed, uint64_t stream_offset, bool keep_sums) {
  Inputs in = inputs_of(query, key, value, mask, key_lengths, offsets, slopes,
                        {scale, offset, left, right, softcap, dropout, seed, stream_offset});
  AttentionArgs& a = in.args;
  Array output =
      Array::empty(Dims{a.batch, a.heads, a.queries, a.value_width}, a.dtype, query.device());
  std::optional<Array> sums;
  if (keep_sums) {
    sums = Array::empty(Dims{a.batch, a.heads, a.queries, 2}, DType::kFloat32, query.device());
    a.sums = sums->mutable_as<float>();
  }
  a.output = output.mutable_data();
  const int64_t rows = a.batch * a.heads * a.queries;
  if (rows > 0) {
    if (!query.is_cuda() && is_decoding(a)) {
      ReleaseGil release_gil(rows * a.keys >= 16384);
      SEQLOOM_CPU(attention_decode)(a);
    } else {
      SEQLOOM_RUN_BF16(query.device(), rows * a.keys, attention_forward, a);
    }
  }
  return py::make_tuple(std::move(output), std::move(sums));
}

// Attention over keys and values in pages: the output [B, Hq, Tq, Dv].
Array paged(const Array& query, const Array& key_pages, const Array& value_pages,
            const Array& block_tables, const Array& key_lengths,
            const std::optional<Array>& offsets, const std::optional<Array>& slopes, double scale,
            int64_t left, int64_t right, double softcap) {
  const char* op = "paged_attention";
  const Array &k = key_pages, &v = value_pages;
  check_kernel_float(op, "query", query);
  check_value(query.rank() == 4, op, ": query must have shape [B, Hq, Tq, D], got ", query.shape());
  const int64_t heads = query.size(1), width = query.size(3);
  for (const Array* x : {&k, &v}) {
    const char* name = x == &k ? "key_pages" : "value_pages";
    check_same_dtype(op, name, *x, "query", query);
    check_same_device(op, name, *x, "query", query);
    check_value(x->rank() == 4, op, ": ", name, " must have shape [pages, Hkv, page, D], got ",
                x->shape());
  }
  const int64_t page = k.size(2), kv_heads = k.size(1);
  check_value(k.size(3) == width, op, ": key_pages must have the width of query = ", width,
              ", got ", k.size(3));
  check_value(kv_heads > 0 && heads % kv_heads == 0, op,
              ": key_pages must have a number of heads that divides Hq = ", heads, ", got ",
              kv_heads);
  check_value(v.size(0) == k.size(0) && v.size(1) == kv_heads && v.size(2) == page, op,
              ": value_pages must have shape [", k.size(0), ", ", kv_heads, ", ", page,
              ", any], got ", v.shape());
  check_value(page > 0 && (page & (page - 1)) == 0, op,
              ": key_pages must hold a power of two of keys a page, got ", page);
  check_type(block_tables.dtype() == DType::kInt64, op, ": block_tables must be int64, got ",
             name_of(block_tables.dtype()));
  check_value(block_tables.rank() == 2 && block_tables.size(0) == query.size(0), op,
              ": block_tables must have shape [B, pages] = [", query.size(0), ", any], got ",
              block_tables.shape());
  check_same_device(op, "block_tables", block_tables, "query", query);
  const int64_t keys = block_tables.size(1) * page;
  check_value(!query.is_cuda() ||
                  (width <= kMaxDeviceWidth && v.size(3) <= kMaxDeviceWidth &&
                   keys < kMaxDeviceRows && query.size(0) * heads * query.size(2) < kMaxDeviceRows),
              op, ": query must have head sizes up to ", kMaxDeviceWidth,
              " and fewer than 2^31 rows on CUDA, got ", query.shape());
  check_value(k.size(0) > 0 || keys == 0, op, ": key_pages must have pages, got none");

  const Array table = contiguous(block_tables);
  Inputs in;
  in.query = with_adjacent_rows(query);
  in.key = with_adjacent_rows(k);
  in.value = with_adjacent_rows(v);
  set_sizes(in, keys);
  AttentionArgs& a = in.args;
  a.table = table.data_as<int64_t>();
  a.table_width = block_tables.size(1);
  a.pages = k.size(0);
  while ((int64_t{1} << a.page_shift) < page) ++a.page_shift;
  set_options(op, in, key_lengths, offsets, slopes, {scale, 0, left, right, softcap, 0, 0, 0});
  // What a row reads must exist; entries past its length are never looked at.
  for (int64_t b = 0; !query.is_cuda() && b < a.batch; ++b)
    for (int64_t x = 0; x * page < a.key_lengths[b]; ++x) {
      const int64_t at = a.table[b * a.table_width + x];
      check_index(at >= 0 && at < a.pages, op, ": block_tables must name pages below ", a.pages,
                  ", got ", at);
    }
  Array output =
      Array::empty(Dims{a.batch, a.heads, a.queries, a.value_width}, a.dtype, query.device());
  a.output = output.mutable_data();
  const int64_t rows = a.batch * a.heads * a.queries;
  if (rows > 0) {
    if (query.is_cuda()) {
      SEQLOOM_RUN_BF16(query.device(), rows * a.keys, attention_forward, a);
    } else {
      ReleaseGil release_gil(rows * a.keys >= 16384);
      SEQLOOM_CPU(attention_decode)(a);
    }
  }
  return output;
}

// Gradients of query, key, value and (float32, where asked for) the mask and the slopes. Those two
// are not written where there is no batch or head.
py::tuple backward(const Array& gradient, const Array& query, const Array& key, const Array& value,
                   const Array& output, const Array& sums, const std::optional<Array>& mask,
                   const std::optional<Array>& key_lengths, const std::optional<Array>& offsets,
                   const std::optional<Array>& slopes, double scale, int64_t offset, int64_t left,
                   int64_t right, double softcap, double dropout, uint64_t seed,
                   uint64_t stream_offset, bool mask_gradient, bool slope_gradient) {
  const std::optional<Array> flat_mask =
      mask && mask_gradient ? std::optional<Array>(contiguous(*mask)) : mask;
  Inputs in = inputs_of(query, key, value, flat_mask, key_lengths, offsets, slopes,
                        {scale, offset, left, right, softcap, dropout, seed, stream_offset});
  AttentionBackwardArgs args{};
  args.forward = in.args;
  AttentionArgs& a = args.forward;
  const Dims shape{a.batch, a.heads, a.queries, a.value_width};
  check_same_dtype(kOp, "gradient", gradient, "query", query);
  check_shape(kOp, "gradient", gradient, shape, "[B, Hq, Tq, Dv]");
  check_same_dtype(kOp, "output", output, "query", query);
  check_shape(kOp, "output", output, shape, "[B, Hq, Tq, Dv]");
  check_type(sums.dtype() == DType::kFloat32, kOp, ": sums must be float32");
  check_shape(kOp, "sums", sums, Dims{a.batch, a.heads, a.queries, 2}, "[B, Hq, Tq, 2]");
  const Array given = with_adjacent_rows(gradient), out = contiguous(output),
              row_sums = contiguous(sums);
  args.gradient = operand(given);
  a.output = out.mutable_data();
  a.sums = row_sums.mutable_as<float>();
  const Device device = query.device();
  Array dq = Array::empty(query.shape(), a.dtype, device),
        dk = Array::empty(key.shape(), a.dtype, device),
        dv = Array::empty(value.shape(), a.dtype, device);
  args.d_query = dq.mutable_data();
  args.d_key = dk.mutable_data();
  args.d_value = dv.mutable_data();
  std::optional<Array> dm, ds;
  if (mask && mask_gradient) {
    dm = Array::empty(mask->shape(), DType::kFloat32, device);
    args.d_mask = dm->numel() > 0 ? dm->mutable_as<float>() : nullptr;
    for (int64_t i = 0; !device.is_cuda() && i < dm->numel(); ++i) args.d_mask[i] = 0;
  }
  if (slopes && slope_gradient) {
    ds = Array::empty(slopes->shape(), DType::kFloat32, device);
    args.d_slopes = ds->mutable_as<float>();
  }
  if (a.batch * a.kv_heads > 0)
    SEQLOOM_RUN_BF16(device, a.batch * a.heads * a.queries * a.keys, attention_backward, args);
  return py::make_tuple(std::move(dq), std::move(dk), std::move(dv), std::move(dm), std::move(ds));
}

// ---- additive attention ------------------------------------------------------------------------

struct AdditiveInputs {
  Array query, key, v;
  std::optional<Array> key_lengths;
  AdditiveScoreArgs args{};
};

AdditiveInputs additive_inputs(const Array& query, const Array& key, const Array& v,
                               const std::optional<Array>& key_lengths) {
  const char* op = "additive_attention";
  for (const Array* x : {&query, &key, &v}) {
    check_type(x->dtype() == DType::kFloat32, op, ": projections must be float32");
    check_same_device(op, "projections", *x, "query", query);
  }
  check_value(query.rank() == 3 && key.rank() == 3 && v.rank() == 1 &&
                  query.size(0) == key.size(0) && query.size(2) == key.size(2) &&
                  query.size(2) == v.size(0),
              op, ": v must have shape [A] = [", query.size(-1), "], got ", v.shape());
  check_value(!query.is_cuda() || (query.numel() < kMaxDeviceRows && key.numel() < kMaxDeviceRows),
              op, ": projections must have fewer than 2^31 elements on CUDA, got ", query.shape(),
              " and ", key.shape());
  AdditiveInputs in{contiguous(query), contiguous(key), contiguous(v), std::nullopt, {}};
  in.args = {in.query.data_as<float>(),
             in.key.data_as<float>(),
             in.v.data_as<float>(),
             nullptr,
             nullptr,
             query.size(0),
             query.size(1),
             key.size(1),
             query.size(2)};
  if (key_lengths) {
    check_shape(op, "key_lengths", *key_lengths, Dims{in.args.batch}, "[B]");
    check_type(key_lengths->dtype() == DType::kInt64, op, ": key_lengths must be int64");
    check_same_device(op, "key_lengths", *key_lengths, "query", query);
    in.key_lengths = contiguous(*key_lengths);
    in.args.key_lengths = in.key_lengths->data_as<int64_t>();
    for (int64_t b = 0; !query.is_cuda() && b < in.args.batch; ++b)
      check_value(in.args.key_lengths[b] >= 0 && in.args.key_lengths[b] <= in.args.keys, op,
                  ": key_lengths must be in [0, ", in.args.keys, "], got ", in.args.key_lengths[b]);
  }
  return in;
}

Array additive_scores(const Array& query, const Array& key, const Array& v,
                      const std::optional<Array>& key_lengths) {
  AdditiveInputs in = additive_inputs(query, key, v, key_lengths);
  AdditiveScoreArgs& a = in.args;
  Array scores = Array::empty(Dims{a.batch, a.queries, a.keys}, DType::kFloat32, query.device());
  a.scores = scores.mutable_as<float>();
  SEQLOOM_RUN(query.device(), scores.numel() * a.width, additive_score, a);
  return scores;
}

// Gradients of the projected queries and keys, and of v by batch [B, A].
py::tuple additive_scores_backward(const Array& gradient, const Array& query, const Array& key,
                                   const Array& v, const std::optional<Array>& key_lengths) {
  AdditiveInputs in = additive_inputs(query, key, v, key_lengths);
  const AdditiveScoreArgs& a = in.args;
  check_shape("additive_attention", "gradient", gradient, Dims{a.batch, a.queries, a.keys},
              "[B, Tq, Tk]");
  check_type(gradient.dtype() == DType::kFloat32, "additive_attention: gradient must be float32");
  const Array given = contiguous(gradient);
  Array dq = Array::empty_like(in.query), dk = Array::empty_like(in.key),
        dv = Array::empty(Dims{a.batch, a.width}, DType::kFloat32, query.device());
  const AdditiveScoreBackwardArgs args{a, given.data_as<float>(), dq.mutable_as<float>(),
                                       dk.mutable_as<float>(), dv.mutable_as<float>()};
  SEQLOOM_RUN(query.device(), gradient.numel() * a.width, additive_score_backward, args);
  return py::make_tuple(std::move(dq), std::move(dk), std::move(dv));
}

}  // namespace

Array attend(const Array& query, const Array& key, const Array& value,
             const std::optional<Array>& mask, const std::optional<Array>& key_lengths,
             const std::optional<Array>& offsets, const std::optional<Array>& slopes, double scale,
             int64_t offset, int64_t left) {
  const py::tuple both = forward(query, key, value, mask, key_lengths, offsets, slopes, scale,
                                 offset, left, 0, 0.0, 0.0, 0, 0, false);
  return py::cast<Array>(both[0]);
}

void register_attention(py::module_& m) {
  m.def("attention_forward", &forward, py::arg("query"), py::arg("key"), py::arg("value"),
        py::arg("mask"), py::arg("key_lengths"), py::arg("offsets"), py::arg("slopes"),
        py::arg("scale"), py::arg("offset"), py::arg("left"), py::arg("right"), py::arg("softcap"),
        py::arg("dropout"), py::arg("seed"), py::arg("stream_offset"), py::arg("keep_sums"));
  m.def("paged_attention", &paged, py::arg("query"), py::arg("key_pages"), py::arg("value_pages"),
        py::arg("block_tables"), py::arg("key_lengths"), py::arg("offsets"), py::arg("slopes"),
        py::arg("scale"), py::arg("left"), py::arg("right"), py::arg("softcap"));
  m.def("attention_backward", &backward, py::arg("gradient"), py::arg("query"), py::arg("key"),
        py::arg("value"), py::arg("output"), py::arg("sums"), py::arg("mask"),
        py::arg("key_lengths"), py::arg("offsets"), py::arg("slopes"), py::arg("scale"),
        py::arg("offset"), py::arg("left"), py::arg("right"), py::arg("softcap"),
        py::arg("dropout"), py::arg("seed"), py::arg("stream_offset"), py::arg("mask_gradient"),
        py::arg("slope_gradient"));
  m.def("additive_scores", &additive_scores, py::arg("query"), py::arg("key"), py::arg("v"),
        py::arg("key_lengths"));
  m.def("additive_scores_backward", &additive_scores_backward, py::arg("gradient"),
        py::arg("query"), py::arg("key"), py::arg("v"), py::arg("key_lengths"));
}

}  // namespace seqloom::ops
