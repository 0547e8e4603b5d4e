// SPDX-License-Identifier: Apache-2.0
#include "cuda/fault.h"

#include <array>
#include <atomic>
#include <mutex>

#include "core/error.h"
#include "cuda/runtime.h"

namespace seqloom::cuda {
namespace {

constexpr int kMaxDevices = 64;

struct Slot {
  Fault* memory = nullptr;  // on the device, for as long as the process lives
  std::atomic<bool> armed{false};
};

std::array<Slot, kMaxDevices> slots;
std::mutex mutex;

}  // namespace

Fault* fault_slot() {
  Slot& slot = slots[static_cast<size_t>(current_device())];
  if (slot.memory == nullptr) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (slot.memory == nullptr) {
      auto* memory = static_cast<Fault*>(allocate(sizeof(Fault), current_stream()));
      fill_bytes(memory, 0, sizeof(Fault), current_stream());
      synchronize_stream(current_stream());
      slot.memory = memory;
    }
  }
  slot.armed.store(true, std::memory_order_release);
  return slot.memory;
}

void raise_faults() {
  Slot& slot = slots[static_cast<size_t>(current_device())];
  if (!slot.armed.exchange(false, std::memory_order_acq_rel)) return;
  Fault fault{};
  const StreamHandle stream = current_stream();
  copy_to_host(&fault, slot.memory, sizeof(Fault), stream);
  if (fault.raised == 0) return;
  fill_bytes(slot.memory, 0, sizeof(Fault), stream);
  switch (static_cast<FaultOp>(fault.op)) {
    case FaultOp::kEmbedding:
      throw IndexError(str("embedding: ids must be in [0, ", fault.extent, "), got ", fault.index));
    case FaultOp::kTargets:
      throw IndexError(
          str("cross_entropy: targets must be in [0, ", fault.extent, "), got ", fault.index));
    case FaultOp::kGather:
      throw IndexError(
          str("gather: index ", fault.index, " is out of bounds for size ", fault.extent));
    default:
      throw IndexError(
          str("getitem: index ", fault.index, " is out of bounds for size ", fault.extent));
  }
}

}  // namespace seqloom::cuda
