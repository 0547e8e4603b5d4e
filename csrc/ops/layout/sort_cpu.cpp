// SPDX-License-Identifier: Apache-2.0
// Sorting rows. Elements become unsigned keys (sort_key.h) with their positions; the keys go
// through a radix sort, least significant digit first, which keeps equal elements in order. Short
// rows are sorted by insertion.
//
// Where only the first k of many are wanted, one pass over the row keeps a list of elements that
// may be among them. A full list is cut back to its first k; from then on an element must come
// before the k-th of those to get in, which whole vectors of a row fail at once. For a small k the
// list is kept in order, for a large one a histogram of the leading bits finds the elements to
// sort.
#include <type_traits>

#include "core/dtype.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "ops/layout/layout.h"
#include "ops/layout/sort_key.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kInsertion = 64;     // up to here by insertion
constexpr int64_t kOrderedFirst = 16;  // the largest k for a list in order
constexpr int64_t kFewFirst = 2048;    // the largest k for the list
constexpr int kWideDigit = 11;         // bits a pass; fewer for short rows
constexpr int kNarrowDigit = 8;

// Keys up to 32 bits travel with their position in one word; longer ones in two.
struct Narrow {
  uint64_t word;
  static SEQLOOM_ALWAYS_INLINE Narrow make(uint64_t key, uint32_t at) { return {key << 32 | at}; }
  uint64_t key() const { return word >> 32; }
  uint32_t at() const { return static_cast<uint32_t>(word); }
};
struct Wide {
  uint64_t word;
  uint64_t position;
  static SEQLOOM_ALWAYS_INLINE Wide make(uint64_t key, uint32_t at) { return {key, at}; }
  uint64_t key() const { return word; }
  uint32_t at() const { return static_cast<uint32_t>(position); }
};

// Sorts n items by key, stably, kDigitBits a pass; returns the buffer that holds the result.
template <int kDigitBits, class Item>
Item* sort_by_digits(Item* items, Item* spare, int64_t n, int key_bits) {
  constexpr int kDigits = 1 << kDigitBits;
  for (int shift = 0; shift < key_bits; shift += kDigitBits) {
    int32_t first[kDigits] = {};
    for (int64_t j = 0; j < n; ++j) ++first[items[j].key() >> shift & (kDigits - 1)];
    if (first[items[0].key() >> shift & (kDigits - 1)] == n) continue;  // all the same digit
    int32_t at = 0;
    for (int32_t& f : first) {
      const int32_t count = f;
      f = at;
      at += count;
    }
    for (int64_t j = 0; j < n; ++j)
      spare[first[items[j].key() >> shift & (kDigits - 1)]++] = items[j];
    Item* t = items;
    items = spare;
    spare = t;
  }
  return items;
}

template <class Item>
Item* sort_items(Item* items, Item* spare, int64_t n, int key_bits) {
  if (n <= kInsertion) {
    for (int64_t j = 1; j < n; ++j) {
      const Item item = items[j];
      int64_t i = j;
      for (; i > 0 && items[i - 1].key() > item.key(); --i) items[i] = items[i - 1];
      items[i] = item;
    }
    return items;
  }
  if (n <= kFewFirst) return sort_by_digits<kNarrowDigit>(items, spare, n, key_bits);
  return sort_by_digits<kWideDigit>(items, spare, n, key_bits);
}

// Items among which the first k of the row are, in the row's order; returns how many.
template <class Item, class T>
int64_t candidates(const T* x, int64_t n, int64_t k, bool descending, Item* items) {
  constexpr int kBits = ops::SortKey<T>::kBits;
  uint64_t limit = ~uint64_t{0};
  if constexpr (kBits > kWideDigit) {
    if (k * 8 < n) {
      constexpr int kShift = kBits - kWideDigit;
      int32_t counts[1 << kWideDigit] = {};
      for (int64_t j = 0; j < n; ++j) ++counts[ops::sort_key(x[j], descending) >> kShift];
      int64_t below = 0;
      uint64_t digit = 0;
      for (; below + counts[digit] < k; ++digit) below += counts[digit];
      limit = (digit << kShift) | (~uint64_t{0} >> (64 - kShift));
    }
  }
  int64_t found = 0;
  for (int64_t j = 0; j < n; ++j) {
    const uint64_t key = ops::sort_key(x[j], descending);
    items[found] = Item::make(key, static_cast<uint32_t>(j));
    found += key <= limit;
  }
  return found;
}

// ---- the first k
// ---------------------------------------------------------------------------------

template <class Item>
SEQLOOM_ALWAYS_INLINE bool before(const Item& a, const Item& b) {
  return a.key() != b.key() ? a.key() < b.key() : a.at() < b.at();
}
template <>
SEQLOOM_ALWAYS_INLINE bool before(const Narrow& a, const Narrow& b) {
  return a.word < b.word;
}

// The item that has k others before it (quickselect); spoils the order of `items`.
template <class Item>
Item item_of_rank(Item* items, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    Item a = items[low], b = items[(low + high) / 2], c = items[high];
    if (before(b, a)) {
      const Item t = a;
      a = b;
      b = t;
    }
    const Item pivot = before(c, a) ? a : before(c, b) ? c : b;
    int64_t i = low, j = high;
    while (i <= j) {
      while (before(items[i], pivot)) ++i;
      while (before(pivot, items[j])) --j;
      if (i > j) break;
      const Item t = items[i];
      items[i++] = items[j];
      items[j--] = t;
    }
    if (k > j && k < i) break;
    (k <= j ? high : low) = k <= j ? j : i;
  }
  return items[k];
}

// Keeps the first k of n items, in the order in which they stand; returns the last one's position
// in the row.
template <class Item>
uint32_t keep_first(Item* items, Item* spare, int64_t n, int64_t k) {
  for (int64_t i = 0; i < n; ++i) spare[i] = items[i];
  const Item last = item_of_rank(spare, n, k - 1);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    items[kept] = items[i];
    kept += !before(last, items[i]);
  }
  return last.at();
}

// Bit i: x[i] may come before `limit`, which earlier elements may equal; kBlock elements.
template <class T, bool kDescending>
struct Contest {
  static constexpr int kBlock = 64;
  T limit;
  SEQLOOM_ALWAYS_INLINE explicit Contest(T value) : limit(value) {}
  SEQLOOM_ALWAYS_INLINE uint64_t operator()(const T* x) const {
    bool hit = false;
    for (int i = 0; i < kBlock; ++i) hit |= kDescending ? !(x[i] <= limit) : !(x[i] >= limit);
    if (SEQLOOM_LIKELY(!hit)) return 0;
    uint64_t found = 0;
    for (int i = 0; i < kBlock; ++i)
      found |= uint64_t{kDescending ? !(x[i] <= limit) : !(x[i] >= limit)} << i;
    return found;
  }
};

template <class T, bool kDescending>
struct VectorContest {
  static constexpr int kBlock = 64, kVectors = kBlock / kLanes;
  VecF limit;
  SEQLOOM_ALWAYS_INLINE explicit VectorContest(T value) {
    if constexpr (std::is_same_v<T, float>)
      limit = VecF::broadcast(value);
    else
      limit = VecF::broadcast(to_float(value));
  }
  SEQLOOM_ALWAYS_INLINE Mask beats(const T* x) const {
    const VecF v = load(x);
    return kDescending ? ~(v <= limit) : ~(v >= limit);
  }
  SEQLOOM_ALWAYS_INLINE uint64_t operator()(const T* x) const {
    Mask hit = beats(x);
#pragma GCC unroll 16
    for (int v = 1; v < kVectors; ++v) hit = hit | beats(x + v * kLanes);
    if (SEQLOOM_LIKELY(!any(hit))) return 0;
    uint64_t found = 0;
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      found |= static_cast<uint64_t>(bits(beats(x + v * kLanes))) << v * kLanes;
    return found;
  }
};
template <bool kDescending>
struct Contest<float, kDescending> : VectorContest<float, kDescending> {
  using VectorContest<float, kDescending>::VectorContest;
};
template <bool kDescending>
struct Contest<f16, kDescending> : VectorContest<f16, kDescending> {
  using VectorContest<f16, kDescending>::VectorContest;
};
template <bool kDescending>
struct Contest<bf16, kDescending> : VectorContest<bf16, kDescending> {
  using VectorContest<bf16, kDescending>::VectorContest;
};

// The list is cut back before a block would not fit: room for `capacity` and one block.
constexpr int64_t list_capacity(int64_t k) { return k < 64 ? 256 : 4 * k; }

// The first k of a row, in the row's order.
template <bool kDescending, class Item, class T>
void first_of_row(const T* x, int64_t n, int64_t k, Item* items, Item* spare) {
  using Block = Contest<T, kDescending>;
  const int64_t capacity = list_capacity(k);
  const auto item = [x](int64_t j) __attribute__((always_inline)) {
    return Item::make(ops::sort_key(x[j], kDescending), static_cast<uint32_t>(j));
  };
  int64_t count = 0, j = 0;
  for (; count < capacity; ++count, ++j) items[count] = item(j);
  uint32_t last = keep_first(items, spare, count, k);
  count = k;
  Block contest(x[last]);
  for (; j + Block::kBlock <= n; j += Block::kBlock) {
    if (count > capacity) {
      last = keep_first(items, spare, count, k);
      count = k;
      contest = Block(x[last]);
    }
    for (uint64_t hits = contest(x + j); hits != 0; hits &= hits - 1)
      items[count++] = item(j + __builtin_ctzll(hits));
  }
  for (; j < n; ++j) items[count++] = item(j);
  if (count > k) keep_first(items, spare, count, k);
}

// The same for a small k, in order.
template <bool kDescending, class Item, class T>
void ordered_first_of_row(const T* x, int64_t n, int64_t k, Item* items) {
  using Block = Contest<T, kDescending>;
  int64_t count = 0, j = 0;
  const auto offer = [&](int64_t at) __attribute__((always_inline)) {
    const Item item = Item::make(ops::sort_key(x[at], kDescending), static_cast<uint32_t>(at));
    if (count == k && item.key() >= items[k - 1].key()) return;
    int64_t i = count < k ? count++ : k - 1;
    for (; i > 0 && items[i - 1].key() > item.key(); --i) items[i] = items[i - 1];
    items[i] = item;
  };
  for (; j < k; ++j) offer(j);
  for (; j + Block::kBlock <= n; j += Block::kBlock) {
    const Block contest(x[items[k - 1].at()]);
    for (uint64_t hits = contest(x + j); hits != 0; hits &= hits - 1)
      offer(j + __builtin_ctzll(hits));
  }
  for (; j < n; ++j) offer(j);
}

template <class T>
void sort_typed(const ops::SortArgs& a) {
  constexpr int kBits = ops::SortKey<T>::kBits;
  using Item = std::conditional_t<(kBits > 32), Wide, Narrow>;
  const int64_t n = a.n, k = a.k;
  if (k == 0) return;
  const int64_t grain = 16384 / n > 1 ? 16384 / n : 1;
  const bool ordered = k <= kOrderedFirst && k < n;
  const bool listed = !ordered && k <= kFewFirst && n >= 2 * list_capacity(k);
  const int64_t room = ordered ? k : listed ? list_capacity(k) + 128 : n + 1;
  cpu::parallel_for(a.rows, grain, [&](int64_t begin, int64_t end) {
    const cpu::Scratch scratch(static_cast<size_t>(2 * room) * sizeof(Item));
    Item *items = scratch.as<Item>(), *spare = items + room;
    for (int64_t r = begin; r < end; ++r) {
      const T* x = static_cast<const T*>(a.x) + r * n;
      int64_t found = k;
      if (ordered) {
        if (a.descending)
          ordered_first_of_row<true>(x, n, k, items);
        else
          ordered_first_of_row<false>(x, n, k, items);
      } else if (!listed) {
        found = candidates(x, n, k, a.descending, items);
        if (k < found && k <= kFewFirst) keep_first(items, spare, found, k);
        found = k <= kFewFirst ? k : found;
      } else if (a.descending) {
        first_of_row<true>(x, n, k, items, spare);
      } else {
        first_of_row<false>(x, n, k, items, spare);
      }
      const Item* sorted = sort_items(items, spare, found, kBits);
      T* values = static_cast<T*>(a.values) + r * k;
      int64_t* indices = a.indices + r * k;
      for (int64_t j = 0; j < k; ++j) {
        indices[j] = sorted[j].at();
        values[j] = x[indices[j]];
      }
    }
  });
}

}  // namespace

void sort_rows(const ops::SortArgs& a) {
  dispatch_all(a.dtype, [&](auto t) { sort_typed<typename decltype(t)::type>(a); });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
