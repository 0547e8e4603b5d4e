// SPDX-License-Identifier: Apache-2.0
// Selecting by index on the CPU. Everything moves whole runs of the inner axes: memory bandwidth is
// the only cost, so the work is cut into tasks of some 64 KB and nothing is computed twice.
#include "ops/layout/layout.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using cpu::parallel_for;
using ops::Extents;

constexpr int64_t kTaskBytes = 65536;

// Offset of row-major position `at`.
SEQLOOM_ALWAYS_INLINE int64_t offset_of(const Extents& e, int64_t at) {
  if (e.rank == 1) return at * e.strides[0];
  int64_t offset = 0;
  for (int a = e.rank - 1; a > 0; --a) {
    offset += at % e.shape[a] * e.strides[a];
    at /= e.shape[a];
  }
  return e.rank == 0 ? 0 : offset + at * e.strides[0];
}

SEQLOOM_ALWAYS_INLINE bool is_run(const Extents& e) {
  return e.rank == 0 || (e.rank == 1 && e.strides[0] == 1);
}

template <class T>
SEQLOOM_ALWAYS_INLINE void gather_run(const T* x, const Extents& e, T* out) {
  if (is_run(e)) {
    if (e.count == 1)
      *out = *x;
    else
      std::memcpy(out, x, static_cast<size_t>(e.count) * sizeof(T));
  } else if (e.rank == 1) {
    for (int64_t i = 0; i < e.count; ++i) out[i] = x[i * e.strides[0]];
  } else {
    for (int64_t i = 0; i < e.count; ++i) out[i] = x[offset_of(e, i)];
  }
}

template <class T>
void take_typed(const ops::TakeArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  const int64_t inner = a.inner.count, rows = a.outer.count * a.n;
  const int64_t row_bytes = inner * static_cast<int64_t>(sizeof(T));
  const int64_t grain = max<int64_t>(1, kTaskBytes / max<int64_t>(row_bytes, 8));
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    int64_t o = begin / a.n, j = begin - o * a.n;
    const T* base = x + offset_of(a.outer, o);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t id = a.ids[j];
      T* to = out + r * inner;
      if (SEQLOOM_LIKELY(id >= 0))
        gather_run(base + offset_of(a.indexed, id), a.inner, to);
      else
        std::memset(static_cast<void*>(to), 0, static_cast<size_t>(row_bytes));
      if (++j == a.n) {
        j = 0;
        if (++o < a.outer.count) base = x + offset_of(a.outer, o);
      }
    }
  });
}

template <class T>
void put_typed(const ops::PutArgs& a) {
  T* x = static_cast<T*>(a.x);
  const T* value = static_cast<const T*>(a.value);
  const int64_t inner = a.inner.count;
  const auto put_row = [&](int64_t o, int64_t j) {
    const int64_t id = a.ids[j];
    if (id < 0) return;
    T* to = x + offset_of(a.outer, o) + offset_of(a.indexed, id);
    const T* from = a.scalar ? value : value + (o * a.n + j) * inner;
    if (is_run(a.inner)) {
      if (a.scalar) {
        for (int64_t i = 0; i < inner; ++i) to[i] = *from;
      } else {
        std::memcpy(to, from, static_cast<size_t>(inner) * sizeof(T));
      }
    } else {
      for (int64_t i = 0; i < inner; ++i) to[offset_of(a.inner, i)] = from[a.scalar ? 0 : i];
    }
  };
  // Rows that may coincide are written by one thread, in order.
  const int64_t step = a.unique ? 1 : a.n;
  const int64_t tasks = a.unique ? a.outer.count * a.n : a.outer.count;
  const int64_t bytes = max<int64_t>(8, step * inner * static_cast<int64_t>(sizeof(T)));
  parallel_for(tasks, max<int64_t>(1, kTaskBytes / bytes), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (a.unique)
        put_row(t / a.n, t % a.n);
      else
        for (int64_t j = 0; j < a.n; ++j) put_row(t, j);
    }
  });
}

// ---- scatter_add --------------------------------------------------------------------------------

// Sorts ids with the places where they stood; equal ids keep their order. Least significant digit
// first, 11 bits a pass. `memory` holds 4 n numbers. Returns how many ids count.
int64_t sort_ids(const ops::ScatterAddArgs& a, int64_t* memory, const int64_t** sorted,
                 const int64_t** positions) {
  int64_t *keys = memory, *places = keys + a.n;
  int64_t *keys2 = places + a.n, *places2 = keys2 + a.n;
  int64_t live = 0, last = -1, digits = 0;
  bool ordered = true;
  for (int64_t j = 0; j < a.n; ++j) {
    const int64_t id = a.ids[j];
    if (id < 0 || id == a.skip) continue;
    ordered &= id >= last;
    last = id;
    digits |= id;
    keys[live] = id;
    places[live++] = j;
  }
  if (!ordered && live <= 32) {
    for (int64_t j = 1; j < live; ++j) {
      const int64_t key = keys[j], place = places[j];
      int64_t i = j;
      for (; i > 0 && keys[i - 1] > key; --i) {
        keys[i] = keys[i - 1];
        places[i] = places[i - 1];
      }
      keys[i] = key;
      places[i] = place;
    }
    ordered = true;
  }
  for (int shift = 0; !ordered && shift < 63 && digits >> shift != 0; shift += 11) {
    int64_t first[2048] = {};
    for (int64_t j = 0; j < live; ++j) ++first[keys[j] >> shift & 2047];
    int64_t at = 0;
    for (int64_t& f : first) {
      const int64_t count = f;
      f = at;
      at += count;
    }
    for (int64_t j = 0; j < live; ++j) {
      const int64_t to = first[keys[j] >> shift & 2047]++;
      keys2[to] = keys[j];
      places2[to] = places[j];
    }
    int64_t* t = keys;
    keys = keys2;
    keys2 = t;
    t = places;
    places = places2;
    places2 = t;
  }
  *sorted = keys;
  *positions = places;
  return live;
}

// Zeros; past the caches where the output is large.
SEQLOOM_ALWAYS_INLINE void clear(void* p, int64_t bytes, bool large) {
  char* at = static_cast<char*>(p);
  constexpr int64_t kStep = kLanes * 4;
  if (large && bytes >= 1024) {
    const int64_t head = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)) & (kStep - 1);
    std::memset(at, 0, static_cast<size_t>(head));
    at += head;
    bytes -= head;
    for (; bytes >= kStep; bytes -= kStep, at += kStep)
      stream(static_cast<float*>(static_cast<void*>(at)), VecF::zero());
  }
  std::memset(at, 0, static_cast<size_t>(bytes));
}

// out[i] = sum over `count` rows; 16-bit types are summed in float32 and rounded once.
template <class T>
SEQLOOM_ALWAYS_INLINE void sum_rows(const T* grad, int64_t stride, const int64_t* rows,
                                    int64_t count, int64_t width, T* out) {
  if (count == 1) {
    std::memcpy(static_cast<void*>(out), grad + rows[0] * stride,
                static_cast<size_t>(width) * sizeof(T));
    return;
  }
  if constexpr (sizeof(T) == 2) {
    constexpr int64_t kBlock = 512;
    float sums[kBlock];
    for (int64_t i0 = 0; i0 < width; i0 += kBlock) {
      const int64_t n = min(kBlock, width - i0);
      for (int64_t i = 0; i < n; ++i) sums[i] = 0.0f;
      for (int64_t r = 0; r < count; ++r) {
        const T* row = grad + rows[r] * stride + i0;
        int64_t i = 0;
        for (; i + kLanes <= n; i += kLanes) store(sums + i, load(sums + i) + load(row + i));
        for (; i < n; ++i) sums[i] += to_float(row[i]);
      }
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) store(out + i0 + i, load(sums + i));
      for (; i < n; ++i) out[i0 + i] = from_float<T>(sums[i]);
    }
  } else {
    std::memcpy(static_cast<void*>(out), grad + rows[0] * stride,
                static_cast<size_t>(width) * sizeof(T));
    for (int64_t r = 1; r < count; ++r) {
      const T* SEQLOOM_RESTRICT row = grad + rows[r] * stride;
      for (int64_t i = 0; i < width; ++i) out[i] = static_cast<T>(out[i] + row[i]);
    }
  }
}

template <class T>
void scatter_add_typed(const ops::ScatterAddArgs& a) {
  const int64_t *sorted, *positions;
  const cpu::Scratch scratch(static_cast<size_t>(4 * a.n) * sizeof(int64_t));
  const int64_t live = sort_ids(a, scratch.as<int64_t>(), &sorted, &positions);
  // Few wide rows are cut along the row as well.
  const int64_t item = static_cast<int64_t>(sizeof(T));
  const int64_t piece = a.outer * a.rows < 256 ? min<int64_t>(a.inner, 1024) : a.inner;
  const int64_t pieces = piece > 0 ? (a.inner + piece - 1) / piece : 0;
  const int64_t grain = max<int64_t>(1, kTaskBytes / max<int64_t>(8, piece * item));
  const int64_t lines = a.outer * a.rows;
  const bool large = lines * a.inner * item > (int64_t{8} << 20);
  parallel_for(lines * pieces, grain, [&](int64_t begin, int64_t end) {
    int64_t t = begin;
    while (t < end) {  // task t = (piece, outer, row): rows run fastest
      const int64_t p = t / lines, line = t - p * lines;
      const int64_t o = line / a.rows, row = line - o * a.rows;
      const int64_t stop = min(a.rows, row + (end - t));  // rows [row, stop) of this piece
      const int64_t i0 = p * piece, width = min(piece, a.inner - i0);
      int64_t low = 0, high = live;  // first id >= row
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sorted[middle] < row)
          low = middle + 1;
        else
          high = middle;
      }
      T* out = static_cast<T*>(a.out) + o * a.rows * a.inner + i0;
      const T* grad = static_cast<const T*>(a.grad) + o * a.n * a.inner + i0;
      int64_t v = row;
      while (v < stop) {
        const int64_t next = low < live ? min(sorted[low], stop) : stop;
        if (next > v) {
          if (width == a.inner) {
            clear(out + v * a.inner, (next - v) * a.inner * item, large);
          } else {
            for (; v < next; ++v)
              std::memset(static_cast<void*>(out + v * a.inner), 0,
                          static_cast<size_t>(width * item));
          }
          v = next;
          if (v == stop) break;
        }
        int64_t after = low + 1;
        while (after < live && sorted[after] == v) ++after;
        sum_rows(grad, a.inner, positions + low, after - low, width, out + v * a.inner);
        low = after;
        ++v;
      }
      t += stop - row;
    }
    stream_fence();
  });
}

// ---- gather -------------------------------------------------------------------------------------

template <class T, bool kAdd>
void gather_typed(const ops::GatherArgs& a) {
  // Lines run along `axis`; `inner` is the distance of a line's elements in the contiguous arrays.
  const int64_t length = a.shape[a.axis];
  int64_t inner = 1;
  for (int d = a.axis + 1; d < a.rank; ++d) inner *= a.shape[d];
  const int64_t lines = length > 0 ? a.count / length : 0, stride = a.strides[a.axis];
  parallel_for(lines, max<int64_t>(1, 8192 / max<int64_t>(1, length)), [&](int64_t b, int64_t e) {
    for (int64_t line = b; line < e; ++line) {
      int64_t rest = line, offset = 0;
      for (int d = a.rank - 1; d >= 0; --d) {
        if (d == a.axis) continue;
        offset += rest % a.shape[d] * a.strides[d];
        rest /= a.shape[d];
      }
      const int64_t start = line / inner * inner * length + line % inner;
      const int64_t* index = a.index + start;
      for (int64_t j = 0; j < length; ++j) {
        int64_t at = index[j * inner];
        if (at < 0) at += a.extent;
        if (SEQLOOM_UNLIKELY(at < 0 || at >= a.extent)) {
          __atomic_store_n(a.bad, 1, __ATOMIC_RELAXED);
          continue;
        }
        if constexpr (kAdd) {
          T* to = static_cast<T*>(a.out) + offset + at * stride;
          const T from = static_cast<const T*>(a.x)[start + j * inner];
          *to = static_cast<T>(*to + from);
        } else {
          static_cast<T*>(a.out)[start + j * inner] =
              static_cast<const T*>(a.x)[offset + at * stride];
        }
      }
    }
  });
}

template <class T>
SEQLOOM_ALWAYS_INLINE int64_t read_index(const void* p, int64_t i) {
  return static_cast<const T*>(p)[i];
}

// ---- masks -------------------------------------------------------------------------------------

// Bytes that are not zero.
int64_t count_true(const uint8_t* mask, int64_t n) {
  int64_t found = 0, i = 0;
  while (i + 64 <= n) {
    uint8_t lanes[64] = {};  // none overflows in 255 steps
    for (int64_t step = min<int64_t>(255, (n - i) / 64); step > 0; --step, i += 64)
      for (int q = 0; q < 64; ++q) lanes[q] = static_cast<uint8_t>(lanes[q] + (mask[i + q] != 0));
    for (const uint8_t lane : lanes) found += lane;
  }
  for (; i < n; ++i) found += mask[i] != 0;
  return found;
}

// Bit i: byte i is not zero; up to 64 bytes.
SEQLOOM_ALWAYS_INLINE uint64_t true_bits(const uint8_t* mask, int64_t n) {
  uint64_t found = 0;
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t x = 0;
    if (SEQLOOM_LIKELY(i + 8 <= n)) {
      std::memcpy(&x, mask + i, 8);
    } else {
      std::memcpy(&x, mask + i, static_cast<size_t>(n - i));
    }
    x |= x >> 4;  // what other bytes let in stays in the high bits of a byte
    x |= x >> 2;
    x |= x >> 1;
    // A product that puts bit 0 of byte b into bit 56 + b.
    found |= ((x & 0x0101010101010101u) * 0x0102040810204080u) >> 56 << i;
  }
  return found;
}

// Coordinates of the true elements in [begin, end), from position `at` of the result on.
void write_coordinates(const ops::NonzeroArgs& a, int64_t begin, int64_t end, int64_t at) {
  const int last = a.rank - 1;
  if (last < 0) return;
  const int64_t columns = a.shape[last];
  int64_t row = begin / columns, place[ops::kLayoutRank] = {};
  for (int d = last - 1; d >= 0; row /= a.shape[d--]) place[d] = row % a.shape[d];
  int64_t column = begin % columns;
  for (int64_t i = begin; i < end;) {
    const int64_t first = at, stop = min(end, i + columns - column);
    for (; i < stop; column += 64) {
      const int64_t n = min<int64_t>(64, stop - i);
      for (uint64_t hits = true_bits(a.mask + i, n); hits != 0; hits &= hits - 1)
        a.indices[last * a.count + at++] = column + __builtin_ctzll(hits);
      i += n;
    }
    for (int d = 0; d < last; ++d)
      for (int64_t p = first; p < at; ++p) a.indices[d * a.count + p] = place[d];
    column = 0;
    for (int d = last - 1; d >= 0 && ++place[d] == a.shape[d]; --d) place[d] = 0;
  }
}

}  // namespace

void index_ids(const ops::IndexIdsArgs& a) {
  parallel_for(a.count, 8192, [&](int64_t begin, int64_t end) {
    bool bad = false;
    for (int64_t j = begin; j < end; ++j) {
      int64_t id = 0;
      bool good = true;
      for (int k = 0; k < a.indices; ++k) {
        int64_t rest = j, offset = 0;
        if (a.rank == 1) {
          offset = j * a.index_strides[k][0];
        } else {
          for (int d = a.rank - 1; d >= 0; --d) {
            offset += rest % a.shape[d] * a.index_strides[k][d];
            rest /= a.shape[d];
          }
        }
        int64_t at = a.narrow[k] ? read_index<int32_t>(a.index[k], offset)
                                 : read_index<int64_t>(a.index[k], offset);
        if (a.wrap && at < 0) at += a.extents[k];
        good &= at >= 0 && at < a.extents[k];
        id = id * a.extents[k] + at;
      }
      a.ids[j] = good ? id : -1;
      bad |= !good;
    }
    if (bad) __atomic_store_n(a.bad, 1, __ATOMIC_RELAXED);
  });
}

void take(const ops::TakeArgs& a) {
  switch (a.item_size) {
    case 1:
      return take_typed<uint8_t>(a);
    case 2:
      return take_typed<uint16_t>(a);
    case 4:
      return take_typed<uint32_t>(a);
    default:
      return take_typed<uint64_t>(a);
  }
}

void put(const ops::PutArgs& a) {
  switch (a.item_size) {
    case 1:
      return put_typed<uint8_t>(a);
    case 2:
      return put_typed<uint16_t>(a);
    case 4:
      return put_typed<uint32_t>(a);
    default:
      return put_typed<uint64_t>(a);
  }
}

void scatter_add(const ops::ScatterAddArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return scatter_add_typed<f16>(a);
    case DType::kBFloat16:
      return scatter_add_typed<bf16>(a);
    case DType::kFloat64:
      return scatter_add_typed<double>(a);
    default:
      return scatter_add_typed<float>(a);
  }
}

void gather(const ops::GatherArgs& a) {
  switch (item_size(a.dtype)) {
    case 1:
      return gather_typed<uint8_t, false>(a);
    case 2:
      return gather_typed<uint16_t, false>(a);
    case 4:
      return gather_typed<uint32_t, false>(a);
    default:
      return gather_typed<uint64_t, false>(a);
  }
}

void gather_add(const ops::GatherArgs& a) {
  const int64_t bytes = a.out_count * item_size(a.dtype);
  parallel_for(bytes, kTaskBytes * 4, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(a.out) + begin, 0, static_cast<size_t>(end - begin));
  });
  switch (a.dtype) {
    case DType::kFloat64:
      return gather_typed<double, true>(a);
    case DType::kFloat32:
      return gather_typed<float, true>(a);
    default:
      return gather_typed<uint16_t, true>(a);  // no two meet: 0 + x has the bits of x
  }
}

void triangle(const ops::TriangleArgs& a) {
  const int64_t row_bytes = a.columns * a.item_size;
  const int64_t grain = max<int64_t>(1, kTaskBytes / max<int64_t>(1, row_bytes));
  parallel_for(a.batch * a.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      // Columns [0, edge) lie below or on the wanted diagonal.
      int64_t edge = r % a.rows + a.diagonal + (a.upper ? 0 : 1);
      edge = max<int64_t>(0, min(edge, a.columns)) * a.item_size;
      const char* from = static_cast<const char*>(a.x) + r * row_bytes;
      char* to = static_cast<char*>(a.out) + r * row_bytes;
      const int64_t first = a.upper ? edge : 0, last = a.upper ? row_bytes : edge;
      std::memset(to, 0, static_cast<size_t>(first));
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first));
      std::memset(to + last, 0, static_cast<size_t>(row_bytes - last));
    }
  });
}

void nonzero(const ops::NonzeroArgs& a) {
  const int64_t blocks = (a.total + ops::kNonzeroBlock - 1) / ops::kNonzeroBlock;
  parallel_for(blocks, 4, [&](int64_t first, int64_t past) {
    for (int64_t b = first; b < past; ++b) {
      const int64_t begin = b * ops::kNonzeroBlock, end = min(a.total, begin + ops::kNonzeroBlock);
      if (a.indices == nullptr) {
        a.counts[b] = count_true(a.mask + begin, end - begin);
      } else {
        write_coordinates(a, begin, end, a.counts[b]);
      }
    }
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
