// SPDX-License-Identifier: Apache-2.0
// Causal attention for other front doors: that of the cache of keys and values.
#pragma once

#include <optional>

#include "core/array.h"

namespace seqloom::ops {

// Query i of row b stands at i + offset (offsets[b] where given) and sees `left` keys before it.
// query [B, Hq, n, D], key and value [B, Hkv, C, D], key_lengths and offsets int64 [B] on query's
// device, mask as in scaled_dot_product_attention; gives [B, Hq, n, D].
Array attend(const Array& query, const Array& key, const Array& value,
             const std::optional<Array>& mask, const std::optional<Array>& key_lengths,
             const std::optional<Array>& offsets, const std::optional<Array>& slopes, double scale,
             int64_t offset, int64_t left);

}  // namespace seqloom::ops
