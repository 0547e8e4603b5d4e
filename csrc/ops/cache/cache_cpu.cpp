// SPDX-License-Identifier: Apache-2.0
// Copies rows into a cache. A task is some 64 KB of rows of neighbouring heads.
#include "ops/cache/cache.h"

#include <cstring>

#include "cpu/parallel.h"
#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {

void cache_write(const ops::CacheWriteArgs& a) {
  const int64_t head_bytes = max<int64_t>(1, a.length * a.row_bytes);
  cpu::parallel_for(
      a.batch * a.heads, max<int64_t>(1, 65536 / head_bytes), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t b = t / a.heads, h = t % a.heads;
          const int64_t start = a.starts != nullptr ? a.starts[b] : a.start;
          const int64_t count = a.counts != nullptr ? a.counts[b] : a.length;
          const char* from =
              static_cast<const char*>(a.rows) + b * a.rows_strides[0] + h * a.rows_strides[1];
          char* to = static_cast<char*>(a.buffer) + b * a.buffer_strides[0] +
                     h * a.buffer_strides[1] + start * a.buffer_strides[2];
          for (int64_t i = 0; i < count; ++i)
            std::memcpy(to + i * a.buffer_strides[2], from + i * a.rows_strides[2],
                        static_cast<size_t>(a.row_bytes));
        }
      });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
