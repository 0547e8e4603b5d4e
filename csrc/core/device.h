// SPDX-License-Identifier: Apache-2.0
// Where memory lives. The core knows no CUDA: a build that has it registers one DeviceBackend,
// through which storage of that device is allocated, freed and copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace seqloom {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int8_t index = 0;

  bool is_cuda() const { return type == DeviceType::kCuda; }
  bool operator==(const Device& o) const { return type == o.type && index == o.index; }
  bool operator!=(const Device& o) const { return !(*this == o); }
};

std::string to_string(Device device);              // "cpu", "cuda:0"
Device parse_device(const std::string& spelling);  // "cpu", "cuda", "cuda:1"; ValueError else
inline std::ostream& operator<<(std::ostream& out, Device d);

enum class CopyKind : uint8_t { kHostToDevice, kDeviceToHost, kDeviceToDevice };

struct DeviceBackend {
  // Throws DeviceError that says whether build, driver or GPU is missing.
  void (*require)(Device device);
  // nullptr when the memory can't be had; ordered on the device's current stream.
  void* (*allocate)(Device device, size_t bytes);
  void (*release)(Device device, void* data, size_t bytes);
  // Host copies have finished when this returns; device copies are ordered on the current stream.
  void (*copy)(Device device, void* to, const void* from, size_t bytes, CopyKind kind);
  int64_t (*bytes_in_use)(Device device);
};
void register_cuda_backend(const DeviceBackend* backend);
const DeviceBackend& cuda_backend();  // DeviceError "... built without CUDA" when there is none

}  // namespace seqloom

#include <ostream>
inline std::ostream& seqloom::operator<<(std::ostream& out, Device d) {
  return out << to_string(d);
}
