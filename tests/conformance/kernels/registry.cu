// SPDX-License-Identifier: Apache-2.0
// What Python calls.
#include "../registry.h"

namespace seqloom_test {

std::vector<Conformance>& conformance_list() {
  static std::vector<Conformance> list;
  return list;
}

SEQLOOM_EXPORT int conformance_count() { return static_cast<int>(conformance_list().size()); }
SEQLOOM_EXPORT const char* conformance_text(int i, int which) {
  const Conformance& c = conformance_list()[static_cast<size_t>(i)];
  return which == 0 ? c.name : which == 1 ? c.inputs : c.compare;
}
SEQLOOM_EXPORT int conformance_number(int i, int which) {
  const Conformance& c = conformance_list()[static_cast<size_t>(i)];
  return which == 0 ? c.in_words : which == 1 ? c.out_words : c.capability;
}
SEQLOOM_EXPORT int run_conformance(const uint32_t* in, uint32_t* out, int i) {
  return guarded([&] {
    conformance_list()[static_cast<size_t>(i)].run(in, out);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
