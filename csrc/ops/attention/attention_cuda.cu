// SPDX-License-Identifier: Apache-2.0
// Entry points of attention on CUDA. bfloat16 on sm_75, whose tensor cores do not know it, is
// widened to float32 on the way in and rounded on the way out.
#include "cuda/rows.h"
#include "ops/attention/attention_cuda.h"

namespace seqloom::ops {
namespace {

using attention_device::launch_backward;
using attention_device::launch_forward;
using cuda::BFloat16;

constexpr int kThreads = 256;

// A thread an element of [batch, heads, length, width].
__global__ void __launch_bounds__(kThreads)
    widen_kernel(AttentionOperand x, float* out, int64_t count, int64_t heads, int64_t length,
                 int64_t width) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  const int64_t c = at % width, row = at / width, i = row % length, h = row / length % heads;
  const int64_t b = row / length / heads;
  out[at] = cuda::to_float(static_cast<const BFloat16*>(
      x.data)[b * x.batch_stride + h * x.head_stride + i * x.row_stride + c]);
}

__global__ void __launch_bounds__(kThreads)
    narrow_kernel(const float* x, BFloat16* out, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at < count) out[at] = cuda::from_float<BFloat16>(x[at]);
}

cuda::LaunchConfig elements(int64_t count) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  config.block = dim3(kThreads);
  return config;
}

// A float32 copy of an operand, for the length of a launcher.
class Widened {
 public:
  Widened(const AttentionOperand& x, int64_t batch, int64_t heads, int64_t length, int64_t width)
      : count_(batch * heads * length * width),
        memory_(static_cast<std::size_t>(count_) * sizeof(float)) {
    operand = {memory_.as<float>(), heads * length * width, length * width, width};
    if (count_ > 0 && x.data != nullptr)
      cuda::launch(widen_kernel, elements(count_), x, memory_.as<float>(), count_, heads, length,
                   width);
  }
  void narrow_to(void* out) const {
    if (count_ > 0)
      cuda::launch(narrow_kernel, elements(count_), memory_.as<float>(),
                   static_cast<BFloat16*>(out), count_);
  }
  float* data() const { return memory_.as<float>(); }
  AttentionOperand operand;

 private:
  int64_t count_;
  cuda::Workspace memory_;
};

bool needs_widening(const AttentionArgs& a) {
  return a.dtype == DType::kBFloat16 && cuda::current_device_properties().capability() < 80;
}

}  // namespace

void attention_forward_cuda(const AttentionArgs& a) {
  if (!needs_widening(a)) return launch_forward(a);
  const Widened query(a.query, a.batch, a.heads, a.queries, a.width);
  const bool paged = a.table != nullptr;
  const int64_t batch = paged ? a.pages : a.batch;
  const int64_t keys = paged ? int64_t{1} << a.page_shift : a.keys;
  const Widened key(a.key, batch, a.kv_heads, keys, a.width);
  const Widened value(a.value, batch, a.kv_heads, keys, a.value_width);
  const Widened output({}, a.batch, a.heads, a.queries, a.value_width);
  AttentionArgs wide = a;
  wide.dtype = DType::kFloat32;
  wide.query = query.operand;
  wide.key = key.operand;
  wide.value = value.operand;
  wide.output = output.data();
  launch_forward(wide);
  output.narrow_to(a.output);
}

void attention_backward_cuda(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  if (!needs_widening(a)) return launch_backward(args);
  const Widened query(a.query, a.batch, a.heads, a.queries, a.width);
  const Widened key(a.key, a.batch, a.kv_heads, a.keys, a.width);
  const Widened value(a.value, a.batch, a.kv_heads, a.keys, a.value_width);
  const AttentionOperand rows{a.output, a.heads * a.queries * a.value_width,
                              a.queries * a.value_width, a.value_width};
  const Widened output(rows, a.batch, a.heads, a.queries, a.value_width);
  const Widened gradient(args.gradient, a.batch, a.heads, a.queries, a.value_width);
  const Widened d_query({}, a.batch, a.heads, a.queries, a.width);
  const Widened d_key({}, a.batch, a.kv_heads, a.keys, a.width);
  const Widened d_value({}, a.batch, a.kv_heads, a.keys, a.value_width);
  AttentionBackwardArgs wide = args;
  wide.forward.dtype = DType::kFloat32;
  wide.forward.query = query.operand;
  wide.forward.key = key.operand;
  wide.forward.value = value.operand;
  wide.forward.output = output.data();
  wide.gradient = gradient.operand;
  wide.d_query = d_query.data();
  wide.d_key = d_key.data();
  wide.d_value = d_value.data();
  launch_backward(wide);
  d_query.narrow_to(args.d_query);
  d_key.narrow_to(args.d_key);
  d_value.narrow_to(args.d_value);
}

}  // namespace seqloom::ops
