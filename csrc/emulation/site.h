// SPDX-License-Identifier: Apache-2.0
// A source position that a device function takes from its caller, for reports.
#pragma once

namespace seqloom::emulation {

struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Site{file, line};
  }
};
inline bool operator==(const Site& a, const Site& b) {
  return a.line == b.line && a.file == b.file;
}
inline bool operator!=(const Site& a, const Site& b) { return !(a == b); }

}  // namespace seqloom::emulation

// Last parameter of a device function that wants to know who called it.
#define SEQLOOM_SITE_ONLY ::seqloom::emulation::Site site = ::seqloom::emulation::Site::here()
#define SEQLOOM_SITE , SEQLOOM_SITE_ONLY
#define SEQLOOM_PASS_SITE_ONLY site
#define SEQLOOM_PASS_SITE , site
