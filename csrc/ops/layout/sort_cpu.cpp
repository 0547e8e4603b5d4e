// SPDX-License-Identifier: Apache-2.0
// Sorting rows. Elements become unsigned keys (sort_key.h) with their positions; the keys go
// through a radix sort, 11 bits a pass, least significant first, which keeps equal elements in
// order. Short rows are sorted by insertion. For k well below n one histogram of the leading bits
// finds the few elements that can be among the first k, and only those are sorted.
#include <type_traits>

#include "core/dtype.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "ops/layout/layout.h"
#include "ops/layout/sort_key.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

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

// Sorts n items by key, stably; returns the buffer that holds the result.
template <class Item>
Item* sort_items(Item* items, Item* spare, int64_t n, int key_bits) {
  if (n <= 64) {
    for (int64_t j = 1; j < n; ++j) {
      const Item item = items[j];
      int64_t i = j;
      for (; i > 0 && items[i - 1].key() > item.key(); --i) items[i] = items[i - 1];
      items[i] = item;
    }
    return items;
  }
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

// Items among which the first k of the row are, in the row's order; returns how many.
template <class Item, class T>
int64_t candidates(const T* x, int64_t n, int64_t k, bool descending, Item* items) {
  constexpr int kBits = ops::SortKey<T>::kBits;
  uint64_t limit = ~uint64_t{0};
  if constexpr (kBits > kDigitBits) {
    if (k * 8 < n) {
      constexpr int kShift = kBits - kDigitBits;
      int32_t counts[kDigits] = {};
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

template <class T>
void sort_typed(const ops::SortArgs& a) {
  constexpr int kBits = ops::SortKey<T>::kBits;
  using Item = std::conditional_t<(kBits > 32), Wide, Narrow>;
  const int64_t n = a.n, k = a.k;
  if (k == 0) return;
  const int64_t grain = 16384 / n > 1 ? 16384 / n : 1;
  cpu::parallel_for(a.rows, grain, [&](int64_t begin, int64_t end) {
    const cpu::Scratch scratch(static_cast<size_t>(2 * n + 2) * sizeof(Item));
    Item* items = scratch.as<Item>();
    for (int64_t r = begin; r < end; ++r) {
      const T* x = static_cast<const T*>(a.x) + r * n;
      const int64_t found = candidates(x, n, k, a.descending, items);
      const Item* sorted = sort_items(items, items + n + 1, found, kBits);
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
