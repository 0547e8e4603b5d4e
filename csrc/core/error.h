// SPDX-License-Identifier: Apache-2.0
// Exceptions with the Python class that each becomes, and checks that build their message only
// when they fail. One form everywhere: "op: argument must ..., got ...".
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace seqloom {

struct ValueError : std::runtime_error {  // wrong values or shapes -> ValueError
  using std::runtime_error::runtime_error;
};
struct TypeError : std::runtime_error {  // wrong types or dtypes -> TypeError
  using std::runtime_error::runtime_error;
};
struct IndexError : std::runtime_error {  // index out of range -> IndexError
  using std::runtime_error::runtime_error;
};
struct MemoryError : std::runtime_error {  // names the size asked for -> MemoryError
  using std::runtime_error::runtime_error;
};
struct DeviceError : std::runtime_error {  // device trouble -> RuntimeError
  using std::runtime_error::runtime_error;
};

// Joins anything that can be streamed: str("got ", 3, " of ", shape).
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
inline void check_value(bool ok, const Parts&... message) {
  if (__builtin_expect(!ok, 0)) throw ValueError(str(message...));
}
template <class... Parts>
inline void check_type(bool ok, const Parts&... message) {
  if (__builtin_expect(!ok, 0)) throw TypeError(str(message...));
}
template <class... Parts>
inline void check_index(bool ok, const Parts&... message) {
  if (__builtin_expect(!ok, 0)) throw IndexError(str(message...));
}

}  // namespace seqloom
