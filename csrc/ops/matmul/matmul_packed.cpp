// SPDX-License-Identifier: Apache-2.0
#include "ops/matmul/matmul_packed.h"

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "cpu/isa.h"

namespace seqloom::ops {
namespace {

int64_t initial_limit() {
  const char* text = std::getenv("SEQLOOM_PACKED_MB");
  const int64_t megabytes = text != nullptr ? std::strtoll(text, nullptr, 10) : 1024;
  return megabytes << 20;
}

std::atomic<int64_t> limit{initial_limit()};
std::atomic<int64_t> in_use{0};
std::mutex mutex;  // guards every Packs; held for look-ups and for packing

// The packed copies of views of one storage.
struct Packs : Storage::Attachment {
  struct Entry {
    const void* data;
    int64_t rows, columns;
    DType dtype;
    int form;  // 0: linear()'s
    uint64_t version;
    int isa;
    std::shared_ptr<const PackedCopy> copy;
  };
  std::vector<Entry> entries;
};

using Copy = std::shared_ptr<const PackedCopy>;

// Memory for a copy, or null beyond the limit.
std::shared_ptr<PackedCopy> room_for(int64_t bytes) {
  if (in_use.load() + bytes > limit.load()) return nullptr;
  auto copy = std::make_shared<PackedCopy>();
  copy->memory = Array::empty({bytes}, DType::kUInt8);
  in_use += bytes;
  return copy;
}

Copy pack(const Array& weight) {
  const cpu::PackFormat format = weight.dtype() == DType::kBFloat16  ? cpu::PackFormat::kBF16
                                 : weight.dtype() == DType::kFloat16 ? cpu::PackFormat::kF16
                                                                     : cpu::PackFormat::kF32;
  cpu::PackArgs args;
  args.format = format;
  args.type = weight.dtype();
  args.k = weight.shape()[1];
  args.n = weight.shape()[0];
  auto copy = room_for(static_cast<int64_t>(cpu::packed_bytes(format, args.k, args.n)));
  if (!copy) return nullptr;
  args.b = weight.data();
  args.ldb = args.k;
  args.trans_b = true;
  args.memory = copy->memory.mutable_data();
  args.out = &copy->matrix;
  cpu::pack_b(args);
  return copy;
}

// Memory that only changes with its version.
bool may_be_packed(const Array& weight) {
  const Storage* s = weight.storage();
  return is_kernel_float(weight.dtype()) && !weight.is_cuda() && (!s->shared || s->read_only) &&
         weight.is_contiguous() && limit.load(std::memory_order_relaxed) != 0;
}

// The copy of a form, made by `make` at the second use of a version.
template <class Make>
PackedUse find_or_make(const Array& weight, int form, const Make& make) {
  Storage* s = weight.storage();
  const uint64_t version = s->version.load(std::memory_order_acquire);
  const int isa = static_cast<int>(cpu::active_isa());
  const std::lock_guard<std::mutex> lock(mutex);
  auto* packs = static_cast<Packs*>(s->attachment);
  if (packs == nullptr) s->attachment = packs = new Packs;
  for (Packs::Entry& e : packs->entries) {
    if (e.data != weight.data() || e.rows != weight.shape()[0] || e.columns != weight.shape()[1] ||
        e.dtype != weight.dtype() || e.form != form)
      continue;
    if (e.version == version && e.isa == isa) {
      if (!e.copy) e.copy = make();
    } else {
      e.version = version;
      e.isa = isa;
      e.copy = nullptr;
    }
    return PackedUse(e.copy);
  }
  if (packs->entries.size() < 16)
    packs->entries.push_back({weight.data(), weight.shape()[0], weight.shape()[1], weight.dtype(),
                              form, version, isa, nullptr});
  return {};
}

}  // namespace

PackedCopy::~PackedCopy() {
  if (memory.defined()) in_use -= memory.bytes();
}

PackedUse packed_weight(const Array& weight, int64_t rows) {
  if (rows < kMinPackedRows || rows > kMaxPackedRows || weight.numel() < 4096) return {};
  if (!may_be_packed(weight)) return {};
  return find_or_make(weight, 0, [&] { return pack(weight); });
}

PackedUse packed_form(const Array& weight, int form, int64_t bytes,
                      const std::function<void(void*)>& fill) {
  if (!may_be_packed(weight)) return {};
  return find_or_make(weight, form, [&]() -> Copy {
    auto copy = room_for(bytes);
    if (copy) fill(copy->memory.mutable_data());
    return copy;
  });
}

void register_packed_weights(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("packed_bytes_in_use", [] { return in_use.load(); });
  m.def("set_packed_limit", [](int64_t bytes) { limit = bytes < 0 ? 0 : bytes; }, py::arg("bytes"));
}

}  // namespace seqloom::ops
