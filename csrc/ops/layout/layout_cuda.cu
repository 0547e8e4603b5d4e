// SPDX-License-Identifier: Apache-2.0
// Selecting by index on CUDA. Memory moves in 16-byte pieces where rows allow; indices out of range
// are noted in the device's fault slot and touch nothing.
#include "core/dtype.h"
#include "cuda/gpu.h"
#include "cuda/half_types.h"
// After gpu.h, for the device half.
#include "cuda/fault.h"
#include "cuda/vector_access.h"
#include "ops/layout/layout.h"
#include "ops/layout/sort_cuda.h"

namespace seqloom::ops {
namespace {

using cuda::Fault;
using cuda::FaultOp;

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;

unsigned blocks_for(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > kMaxBlocks ? kMaxBlocks : blocks);
}

SEQLOOM_DEVICE int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
SEQLOOM_DEVICE int64_t thread_count() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// Offset of row-major position `at`.
SEQLOOM_DEVICE int64_t offset_of(const Extents& e, int64_t at) {
  int64_t offset = 0;
  for (int a = e.rank - 1; a > 0; --a) {
    offset += at % e.shape[a] * e.strides[a];
    at /= e.shape[a];
  }
  return e.rank == 0 ? 0 : offset + at * e.strides[0];
}

__global__ void __launch_bounds__(kThreads) index_ids_kernel(IndexIdsArgs a, Fault* fault) {
  for (int64_t j = thread_number(); j < a.count; j += thread_count()) {
    int64_t id = 0;
    bool good = true;
    for (int k = 0; k < a.indices; ++k) {
      int64_t rest = j, offset = 0;
      for (int d = a.rank - 1; d >= 0; --d) {
        offset += rest % a.shape[d] * a.index_strides[k][d];
        rest /= a.shape[d];
      }
      const int64_t given = a.narrow[k] ? static_cast<const int32_t*>(a.index[k])[offset]
                                        : static_cast<const int64_t*>(a.index[k])[offset];
      const int64_t at = a.wrap && given < 0 ? given + a.extents[k] : given;
      if (at < 0 || at >= a.extents[k]) {
        good = false;
        cuda::report_fault(fault, a.wrap ? FaultOp::kIndex : FaultOp::kEmbedding, given,
                           a.extents[k]);
      }
      id = id * a.extents[k] + at;
    }
    a.ids[j] = good ? id : -1;
  }
}

// A block is `lanes` threads along a row times the rows that fit; T is the unit that moves.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    take_kernel(TakeArgs a, int64_t inner, int lanes, bool run) {
  const int64_t rows = a.outer.count * a.n;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (blockDim.x / lanes);
  const T* x = static_cast<const T*>(a.x);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
       r < rows; r += step) {
    const int64_t o = r / a.n, id = a.ids[r - o * a.n];
    const int64_t from = id < 0 ? 0 : offset_of(a.outer, o) + offset_of(a.indexed, id);
    T* to = static_cast<T*>(a.out) + r * inner;
    for (int64_t i = lane; i < inner; i += lanes) {
      T value;
      memset(&value, 0, sizeof(T));
      if (id >= 0) value = x[from + (run ? i : offset_of(a.inner, i))];
      to[i] = value;
    }
  }
}

// `order` lists the rows to write, or is null for all of them in turn; -1 in it is skipped.
template <class T>
__global__ void __launch_bounds__(kThreads) put_kernel(PutArgs a, const int64_t* order, int lanes) {
  const int64_t rows = a.outer.count * a.n, inner = a.inner.count;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (blockDim.x / lanes);
  T* x = static_cast<T*>(a.x);
  const T* value = static_cast<const T*>(a.value);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
       r < rows; r += step) {
    const int64_t o = r / a.n, s = r - o * a.n;
    const int64_t j = order == nullptr ? s : order[s];
    const int64_t id = j < 0 ? -1 : a.ids[j];
    if (id < 0) continue;
    T* to = x + offset_of(a.outer, o) + offset_of(a.indexed, id);
    const T* from = value + (a.scalar ? 0 : (o * a.n + j) * inner);
    for (int64_t i = lane; i < inner; i += lanes)
      to[offset_of(a.inner, i)] = from[a.scalar ? 0 : i];
  }
}

// order[s] = the row that ends a run of equal ids (it was written last), else -1.
__global__ void __launch_bounds__(kThreads)
    last_of_runs_kernel(const uint64_t* keys, const uint32_t* places, int64_t n, int64_t* order) {
  for (int64_t s = thread_number(); s < n; s += thread_count())
    order[s] = s + 1 < n && keys[s + 1] == keys[s] ? -1 : static_cast<int64_t>(places[s]);
}

// One group of lanes for each place in the sorted ids; the one that starts a run sums it, in order.
template <class T, class Sum>
__global__ void __launch_bounds__(kThreads, 1)
    scatter_add_kernel(const T* grad, T* out, const uint64_t* keys, const uint32_t* places,
                       int64_t outer, int64_t n, int64_t rows, int64_t inner, int64_t skip,
                       int lanes) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (blockDim.x / lanes);
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
       t < outer * n; t += step) {
    const int64_t o = t / n, s = t - o * n;
    const uint64_t key = keys[s];
    if (key >= static_cast<uint64_t>(rows) || key == static_cast<uint64_t>(skip)) continue;
    if (s > 0 && keys[s - 1] == key) continue;
    for (int64_t i = lane; i < inner; i += lanes) {
      Sum sum = 0;
      for (int64_t e = s; e < n && keys[e] == key; ++e) {
        const T value = grad[(o * n + places[e]) * inner + i];
        if constexpr (sizeof(T) == 8)
          sum += value;
        else
          sum += cuda::to_float(value);
      }
      T* to = out + (o * rows + static_cast<int64_t>(key)) * inner + i;
      if constexpr (sizeof(T) == 8)
        *to = sum;
      else
        *to = cuda::from_float<T>(sum);
    }
  }
}

SEQLOOM_DEVICE int64_t gather_offset(const GatherArgs& a, int64_t c, int64_t at) {
  int64_t offset = 0;
  for (int d = a.rank - 1; d >= 0; --d) {
    offset += (d == a.axis ? at : c % a.shape[d]) * a.strides[d];
    c /= a.shape[d];
  }
  return offset;
}

SEQLOOM_DEVICE int64_t wrapped(const GatherArgs& a, int64_t c, Fault* fault) {
  const int64_t given = a.index[c], at = given < 0 ? given + a.extent : given;
  if (at >= 0 && at < a.extent) return at;
  cuda::report_fault(fault, FaultOp::kGather, given, a.extent);
  return -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(GatherArgs a, Fault* fault) {
  for (int64_t c = thread_number(); c < a.count; c += thread_count()) {
    const int64_t at = wrapped(a, c, fault);
    T value;
    memset(&value, 0, sizeof(T));
    if (at >= 0) value = static_cast<const T*>(a.x)[gather_offset(a, c, at)];
    static_cast<T*>(a.out)[c] = value;
  }
}

// One thread for each line along the axis, or for each element where none meets another.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_add_kernel(GatherArgs a, Fault* fault) {
  const int64_t length = a.unique ? 1 : a.shape[a.axis];
  int64_t inner = 1;
  for (int d = a.axis + 1; d < a.rank; ++d) inner *= a.shape[d];
  if (a.unique) inner = 1;
  for (int64_t line = thread_number(); line < a.count / length; line += thread_count()) {
    const int64_t start = line / inner * inner * length + line % inner;
    for (int64_t j = 0; j < length; ++j) {
      const int64_t c = start + j * inner, at = wrapped(a, c, fault);
      if (at >= 0) static_cast<T*>(a.out)[gather_offset(a, c, at)] += static_cast<const T*>(a.x)[c];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) triangle_kernel(TriangleArgs a) {
  const int64_t total = a.batch * a.rows * a.columns;
  for (int64_t i = thread_number(); i < total; i += thread_count()) {
    const int64_t column = i % a.columns, row = i / a.columns % a.rows;
    const bool keep = a.upper ? column - row >= a.diagonal : column - row <= a.diagonal;
    T value = 0;
    if (keep) value = static_cast<const T*>(a.x)[i];
    static_cast<T*>(a.out)[i] = value;
  }
}

// Threads along a row: a power of two up to the block.
int lanes_for(int64_t inner) {
  int lanes = 1;
  while (lanes < inner && lanes < kThreads) lanes *= 2;
  return lanes;
}
unsigned row_blocks(int64_t rows, int lanes) { return blocks_for(rows * lanes); }

bool is_run(const Extents& e) { return e.rank == 0 || (e.rank == 1 && e.strides[0] == 1); }

bool multiple16(const Extents& e, int64_t per) {
  for (int i = 0; i < e.rank; ++i)
    if (e.strides[i] % per != 0) return false;
  return true;
}
void divide(Extents& e, int64_t per) {
  for (int i = 0; i < e.rank; ++i) e.strides[i] /= per;
}

// Calls f with a type of this size.
template <class F>
void by_size(int item_size, const F& f) {
  switch (item_size) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

struct SortedIds {
  uint64_t* keys;
  uint32_t* places;
};

// Sorts ids with their places; -1 goes last, as the largest unsigned number.
SortedIds sort_ids(const int64_t* ids, int64_t n, void* workspace) {
  const int64_t padded = padded_length(n);
  SortedIds s;
  s.keys = static_cast<uint64_t*>(workspace);
  s.places = static_cast<uint32_t*>(static_cast<void*>(s.keys + padded));
  sort_keys(reinterpret_cast<const uint64_t*>(ids), 1, n, s.keys, s.places);
  return s;
}

}  // namespace

int64_t scatter_add_workspace(int64_t n) {
  return padded_length(n) * 12 + n * 8 + 16;  // keys, places, and the order of put
}

void index_ids_cuda(const IndexIdsArgs& args) {
  cuda::launch(index_ids_kernel, {blocks_for(args.count), kThreads}, args, cuda::fault_slot());
}

void take_cuda(const TakeArgs& args) {
  TakeArgs a = args;
  const int64_t per = 16 / a.item_size;
  const bool run = is_run(a.inner);
  const bool wide = run && a.inner.count % per == 0 && multiple16(a.outer, per) &&
                    multiple16(a.indexed, per) && reinterpret_cast<uintptr_t>(a.x) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
  const int64_t inner = wide ? a.inner.count / per : a.inner.count;
  const int lanes = lanes_for(inner);
  const cuda::LaunchConfig config{row_blocks(a.outer.count * a.n, lanes), kThreads};
  if (wide) {
    divide(a.outer, per);
    divide(a.indexed, per);
    return cuda::launch(take_kernel<uint4>, config, a, inner, lanes, true);
  }
  by_size(a.item_size,
          [&](auto t) { cuda::launch(take_kernel<decltype(t)>, config, a, inner, lanes, run); });
}

void put_cuda(const PutArgs& args) {
  const int lanes = lanes_for(args.inner.count);
  const int64_t* order = nullptr;
  if (!args.unique) {
    const SortedIds s = sort_ids(args.ids, args.n, args.workspace);
    auto* last =
        static_cast<int64_t*>(static_cast<void*>(s.places + (padded_length(args.n) + 1) / 2 * 2));
    cuda::launch(last_of_runs_kernel, {blocks_for(args.n), kThreads}, s.keys, s.places, args.n,
                 last);
    order = last;
  }
  by_size(args.item_size, [&](auto t) {
    cuda::launch(put_kernel<decltype(t)>, {row_blocks(args.outer.count * args.n, lanes), kThreads},
                 args, order, lanes);
  });
}

template <class T, class Sum>
void launch_scatter_add(const ScatterAddArgs& a, const SortedIds& s) {
  const int lanes = lanes_for(a.inner);
  cuda::launch(scatter_add_kernel<T, Sum>, {row_blocks(a.outer * a.n, lanes), kThreads},
               static_cast<const T*>(a.grad), static_cast<T*>(a.out), s.keys, s.places, a.outer,
               a.n, a.rows, a.inner, a.skip, lanes);
}

void scatter_add_cuda(const ScatterAddArgs& a) {
  const int64_t bytes = a.outer * a.rows * a.inner * item_size(a.dtype);
  cuda::fill_bytes(a.out, 0, static_cast<size_t>(bytes), cuda::current_stream());
  if (a.n == 0) return;
  const SortedIds s = sort_ids(a.ids, a.n, a.workspace);
  switch (a.dtype) {
    case DType::kFloat16:
      return launch_scatter_add<cuda::Half, float>(a, s);
    case DType::kBFloat16:
      return launch_scatter_add<cuda::BFloat16, float>(a, s);
    case DType::kFloat64:
      return launch_scatter_add<double, double>(a, s);
    default:
      return launch_scatter_add<float, float>(a, s);
  }
}

void gather_cuda(const GatherArgs& args) {
  by_size(static_cast<int>(item_size(args.dtype)), [&](auto t) {
    cuda::launch(gather_kernel<decltype(t)>, {blocks_for(args.count), kThreads}, args,
                 cuda::fault_slot());
  });
}

template <class T>
void launch_gather_add(const GatherArgs& a) {
  const int64_t lines = a.unique ? a.count : a.count / a.shape[a.axis];
  cuda::launch(gather_add_kernel<T>, {blocks_for(lines), kThreads}, a, cuda::fault_slot());
}

// 16-bit gradients come here only where no two meet, so that a sum is an assignment.
void gather_add_cuda(const GatherArgs& a) {
  cuda::fill_bytes(a.out, 0, static_cast<size_t>(a.out_count * item_size(a.dtype)),
                   cuda::current_stream());
  if (a.count == 0) return;
  switch (a.dtype) {
    case DType::kFloat64:
      return launch_gather_add<double>(a);
    case DType::kFloat32:
      return launch_gather_add<float>(a);
    default:
      return launch_gather_add<uint16_t>(a);  // 0 + x has the bits of x
  }
}

void triangle_cuda(const TriangleArgs& a) {
  by_size(a.item_size, [&](auto t) {
    cuda::launch(triangle_kernel<decltype(t)>, {blocks_for(a.batch * a.rows * a.columns), kThreads},
                 a);
  });
}

}  // namespace seqloom::ops
