// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
namespace seqloom {
struct CpuMemoryStats {
  size_t bytes_in_use = 0;
};
void* cpu_allocate(size_t bytes);
void cpu_free(void* p, size_t bytes);
CpuMemoryStats cpu_memory_stats();
}  // namespace seqloom
