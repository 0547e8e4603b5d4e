// SPDX-License-Identifier: Apache-2.0
#include "core/device.h"

#include "core/error.h"

namespace seqloom {
namespace {
const DeviceBackend* registered_cuda = nullptr;
}

std::string to_string(Device device) {
  return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu";
}

Device parse_device(const std::string& spelling) {
  if (spelling == "cpu") return {DeviceType::kCpu, 0};
  if (spelling == "cuda") return {DeviceType::kCuda, 0};
  const std::string digits = spelling.compare(0, 5, "cuda:") == 0 ? spelling.substr(5) : "";
  const bool numeric = !digits.empty() && digits.size() <= 2 &&
                       digits.find_first_not_of("0123456789") == std::string::npos;
  check_value(numeric, "device: must be 'cpu', 'cuda' or 'cuda:N', got '", spelling, "'");
  return {DeviceType::kCuda, static_cast<int8_t>(std::stoi(digits))};
}

void register_cuda_backend(const DeviceBackend* backend) { registered_cuda = backend; }

const DeviceBackend& cuda_backend() {
  if (registered_cuda == nullptr)
    throw DeviceError("device: 'cuda' is not available, this seqloom was built without CUDA");
  return *registered_cuda;
}

}  // namespace seqloom
