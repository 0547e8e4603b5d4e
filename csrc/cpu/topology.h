// SPDX-License-Identifier: Apache-2.0
// How many processors this process may use, and keeping worker threads off one another's.
#pragma once

namespace seqloom::cpu {

// Processors that the process was allowed when this library was loaded, bounded by the container's
// quota (cgroup v1 and v2) rounded up; at least 1.
int available_processors();

// The processor that the caller runs on, or -1 where the platform does not say.
int current_processor();

// For a new worker: where the thread that started it is bound to one processor (as OpenMP's binding
// does to the main thread), return to the set that the process had at load time.
void widen_affinity();

// Moves the caller off `processor` if it may run elsewhere, without narrowing where it may run.
void leave_processor(int processor);

}  // namespace seqloom::cpu
