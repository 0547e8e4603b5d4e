// SPDX-License-Identifier: Apache-2.0
#include "core/allocator.h"
#include <cstdlib>
namespace seqloom {
void* cpu_allocate(size_t bytes) { return std::aligned_alloc(64, (bytes + 64) / 64 * 64); }
void cpu_free(void* p, size_t) { std::free(p); }
CpuMemoryStats cpu_memory_stats() { return {}; }
}  // namespace seqloom
