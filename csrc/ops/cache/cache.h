// SPDX-License-Identifier: Apache-2.0
// Contract of the cache of keys and values: new rows are written behind those that are there.
//
//   buffer[b, h, start_b + i, :] = rows[b, h, i, :]   for i < count_b
//
// In place; nothing else of the buffer is touched. The rows may be a view, as of the product that
// made query, key and value together; elements of the last axis are adjacent in both.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

struct CacheWriteArgs {
  void* buffer;           // [B, H, C, D]
  const void* rows;       // [B, H, n, D]; overlaps nothing that is written
  const int64_t* starts;  // [B] on the host, or null: `start` for all
  const int64_t* counts;  // [B] on the host, each <= n, or null: n for all
  bool on_device;         // CUDA: starts and counts are on the device, where nobody has checked
                          // them; rows that would lie outside the buffer are not written
  int64_t start;
  int64_t batch, heads, length;  // B, H, n
  int64_t room;                  // C
  int64_t row_bytes;             // of D elements
  int64_t buffer_strides[3];     // over B, H, C, in bytes
  int64_t rows_strides[3];       // over B, H, n, in bytes
};

void cache_write_cuda(const CacheWriteArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(cache_write, ops::CacheWriteArgs)
}  // namespace seqloom
