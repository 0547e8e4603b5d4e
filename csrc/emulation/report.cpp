// SPDX-License-Identifier: Apache-2.0
// Text of reports: which thread, which source line.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

#include "emulation/machine.h"

namespace seqloom::emulation {

std::string describe(const Fiber& f) {
  char text[160];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", f.block_index.x,
                f.block_index.y, f.block_index.z, f.thread_index.x, f.thread_index.y,
                f.thread_index.z);
  return text;
}

std::string describe(Site site) {
  if (!site.line) return "an unknown line";
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

// file:line of an instruction, innermost inlined function first. Needs binutils' addr2line and
// debug information; without them the function's name and offset.
std::string describe_pc(std::uintptr_t pc) {
  Dl_info info;
  if (!pc || !dladdr(reinterpret_cast<void*>(pc), &info) || !info.dli_fname) return "?";
  const auto base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  std::string text;
  const std::string file = info.dli_fname;
  if (file.find('\'') == std::string::npos) {
    char offset[32];
    std::snprintf(offset, sizeof offset, "0x%lx", static_cast<unsigned long>(pc - 1 - base));
    const std::string command = "addr2line -i -s -e '" + file + "' " + offset + " 2>/dev/null";
    if (FILE* pipe = popen(command.c_str(), "r")) {
      char line[512];
      while (std::fgets(line, sizeof line, pipe)) {
        line[std::strcspn(line, "\n")] = 0;
        if (char* note = std::strstr(line, " (discriminator")) *note = 0;
        if (std::strstr(line, "??")) continue;
        if (!text.empty()) text += " < ";
        text += line;
      }
      pclose(pipe);
    }
  }
  if (!text.empty()) return text;
  char fallback[256];
  const bool named = info.dli_sname != nullptr;
  std::snprintf(fallback, sizeof fallback, "%.160s+0x%lx", named ? info.dli_sname : info.dli_fname,
                static_cast<unsigned long>(
                    pc - (named ? reinterpret_cast<std::uintptr_t>(info.dli_saddr) : base)));
  return fallback;
}

void add_report(const std::string& text) {
  if (machine.reports.size() < static_cast<std::size_t>(machine.settings.max_reports))
    machine.reports.push_back(text);
}

void fail(Site site, const char* format, ...) {
  InRuntime guard;
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  std::string message = text;
  if (site.line) message += " at " + describe(site);
  if (!current_thread) throw std::runtime_error("emulated device: " + message);
  message += " [" + describe(*self()) + "]";
  machine.reports.insert(machine.reports.begin(), message);
  abandon_launch();
}

void device_trap(Site site) { fail(site, "__trap() executed"); }

}  // namespace seqloom::emulation
