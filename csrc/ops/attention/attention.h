// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention: softmax(scores) value, one query row at a time, never a matrix of
// scores in memory.
//
//   s_ij = cap(scale q_i . k_j) + slope_h (j - position_i) + mask_ij     cap(x) = c tanh(x / c)
//   p_ij = share_i 2^(s_ij log2(e) - shift_i)     shift_i about max_j s_ij log2(e)
//                                                 share_i = 1 / sum of the powers
//   o_i  = sum_j drop_ij p_ij v_j      drop_ij = 0 or 1 / (1 - dropout)
//
// Query i of batch b stands at position_i = i + offset_b and sees the keys j with
//
//   position_i - left <= j <= position_i + right,  j < length_b,  mask_ij true (or not -inf).
//
// A causal mask is right = 0. A row that sees nothing gives zeros, forward and backward. Query head
// h reads key head h / (heads / kv_heads). Element (b, h, i, j) is dropped where number
// ((b heads + h) queries + i) keys + j of the stream (seed, stream_offset) lies below `dropout`.
//
// Backward, with g the gradient of o and delta_i = g_i . o_i:
//
//   dp_ij = drop_ij g_i . v_j      ds_ij = p_ij (dp_ij - delta_i)      t_ij = scale cap'_ij ds_ij
//   dv_j = sum_i drop_ij p_ij g_i  dq_i = sum_j t_ij k_j  dk_j = sum_i t_ij q_i  dmask_ij = ds_ij
//   dslope_h = sum_ij ds_ij (j - position_i)
//
// A hidden pair has no part in any of these, whatever its key, value or query holds: NaN neither.
//
// It needs what forward read, its output, shift and share; scores and dropout are computed again.
// Shift and share are kept apart because their sum, the log-sum-exp, would be rounded: by half a
// spacing of float32 at its own size, which is then the relative error of every weight of the row.
// A rounded shift cancels in share; from 2^31 on, where it would be rounded by 64 and more, so are
// the products.
//
// Paged: keys and values lie in pages of 2^page_shift rows, [pages, Hkv, page, D], and key j of
// batch b is row j % page of page table[b, j / page]. Forward only; no mask, no dropout.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

constexpr int64_t kUnbounded = int64_t{1} << 40;  // an open side of the window

// A tensor [batch, heads, length, width]; elements of the last axis are adjacent.
struct AttentionOperand {
  const void* data;
  int64_t batch_stride, head_stride, row_stride;  // in elements
};

struct AttentionArgs {
  AttentionOperand query;  // [B, Hq, Tq, D]
  AttentionOperand key;    // [B, Hkv, Tk, D]
  AttentionOperand value;  // [B, Hkv, Tk, Dv]
  void* output;            // [B, Hq, Tq, Dv] contiguous: written (backward reads it)
  float* sums;  // [B, Hq, Tq, 2] shift and share: written unless null; +inf and 0 where a
                // row sees nothing

  const void* mask;        // of [B, Hq, Tq, Tk], or null
  DType mask_dtype;        // kBool or a kernel float
  int64_t mask_stride[4];  // 0 on broadcast axes; the last is 0 or 1

  const int64_t* key_lengths;  // [B] in [0, Tk] (CUDA: clamped to that), or null
  const int64_t* offsets;      // [B] within +-kUnbounded, or null: `offset` for all
  const float* slopes;         // [Hq], or null

  const int64_t* table;  // [B, table_width] numbers of pages (CUDA: clamped), or null: not paged
  int64_t table_width, pages;
  int page_shift;

  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
  int64_t offset, left, right;
  float scale;
  float softcap;  // 0: none
  float dropout;  // 0: none
  uint64_t seed, stream_offset;
  DType dtype;  // of query, key, value, output
};

// Few queries per key head: reading keys and values is most of the work, which attention_decode
// does. So it is with more queries of very few heads, since it alone divides the keys among
// threads. Backward has to know, since it must find the same scores again, bit by bit.
SEQLOOM_ALWAYS_INLINE bool is_decoding(const AttentionArgs& a) {
  if (a.kv_heads == 0 || a.dropout > 0) return false;
  const int64_t rows = a.heads / a.kv_heads * a.queries;
  return rows <= 8 || (rows <= 64 && a.batch * a.kv_heads < 4);
}

struct AttentionBackwardArgs {
  AttentionArgs forward;
  AttentionOperand gradient;  // of the output
  void* d_query;              // [B, Hq, Tq, D] contiguous, written; must alias nothing
  void* d_key;                // [B, Hkv, Tk, D] contiguous, written
  void* d_value;              // [B, Hkv, Tk, Dv] contiguous, written
  float* d_mask;              // laid out by mask_stride, or null. CPU: zeros on entry, added to
  float* d_slopes;            // [Hq], written unless null
};

// Additive attention: score_ij = v . tanh(x_i + y_j), x and y being the projected queries and keys.
// Keys at or past the length are skipped: their scores are zero. Never [Tq, Tk, A] in memory.
struct AdditiveScoreArgs {
  const float* query;          // [B, Tq, A] x
  const float* key;            // [B, Tk, A] y
  const float* v;              // [A]
  const int64_t* key_lengths;  // [B] in [0, Tk], or null
  float* scores;               // [B, Tq, Tk]: written
  int64_t batch, queries, keys, width;
};

// With h = tanh(x_i + y_j): dx_i = v sum_j g_ij (1 - h^2), dy_j the sum over i, dv = sum_ij g_ij h.
struct AdditiveScoreBackwardArgs {
  AdditiveScoreArgs forward;  // its scores are not touched
  const float* gradient;      // [B, Tq, Tk] g; zero past the length
  float* d_query;             // [B, Tq, A] written
  float* d_key;               // [B, Tk, A] written
  float* d_v;                 // [B, A] written: one sum per batch
};

// All pointers are the device's. Head sizes up to 256, fewer than 2^31 keys and rows of a key head.
void attention_forward_cuda(const AttentionArgs&);
void attention_backward_cuda(const AttentionBackwardArgs&);
void additive_score_cuda(const AdditiveScoreArgs&);
void additive_score_backward_cuda(const AdditiveScoreBackwardArgs&);

}  // namespace seqloom::ops

namespace seqloom {

SEQLOOM_DECLARE_CPU_BF16(attention_forward, ops::AttentionArgs)
SEQLOOM_DECLARE_CPU_BF16(attention_backward, ops::AttentionBackwardArgs)
// For few queries (is_decoding): reads key and value once, in place, paged or not. No dropout.
SEQLOOM_DECLARE_CPU(attention_decode, ops::AttentionArgs)
SEQLOOM_DECLARE_CPU(additive_score, ops::AdditiveScoreArgs)
SEQLOOM_DECLARE_CPU(additive_score_backward, ops::AdditiveScoreBackwardArgs)

}  // namespace seqloom
