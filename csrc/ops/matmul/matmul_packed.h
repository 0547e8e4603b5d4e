// SPDX-License-Identifier: Apache-2.0
// Weights that linear() and the recurrences see again and again are packed once for the CPU.
//
// The packed copy hangs on the weight's storage and dies with it; it is used only while the
// storage's version is the one that was packed, so any in-place change invalidates it. Memory that
// somebody else may write without our knowing (NumPy and DLPack views, wrapped arrays) is never
// packed. A weight is packed at its second use as it is; linear() asks without a gradient and for
// products of kMinPackedRows to kMaxPackedRows rows: fewer stream the weight as it lies at the
// speed of memory, with more packing inside the call costs little. All copies together stay within
// SEQLOOM_PACKED_MB (default 1024) megabytes; set_packed_limit changes that, 0 turns packing off.
#pragma once

#include <functional>
#include <memory>

#include "core/array.h"
#include "cpu/gemm.h"

namespace pybind11 {
class module_;
}

namespace seqloom::ops {

inline constexpr int64_t kMinPackedRows = 5;
inline constexpr int64_t kMaxPackedRows = 256;

struct PackedCopy {
  Array memory;
  cpu::PackedMatrix matrix;
  ~PackedCopy();
};

// Keeps the packed copy alive for one product; empty where there is none.
class PackedUse {
 public:
  PackedUse() = default;
  explicit PackedUse(std::shared_ptr<const PackedCopy> copy) : copy_(std::move(copy)) {}
  const cpu::PackedMatrix* matrix() const { return copy_ ? &copy_->matrix : nullptr; }
  const void* data() const { return copy_ ? copy_->memory.data() : nullptr; }

 private:
  std::shared_ptr<const PackedCopy> copy_;
};

// For x [rows, in] times weight [out, in] transposed.
PackedUse packed_weight(const Array& weight, int64_t rows);

// The same for another layout, which `form` > 0 names among all layouts of a matrix: `fill` writes
// its `bytes` bytes for the active instruction set.
PackedUse packed_form(const Array& weight, int form, int64_t bytes,
                      const std::function<void(void*)>& fill);

void register_packed_weights(pybind11::module_& m);

}  // namespace seqloom::ops
