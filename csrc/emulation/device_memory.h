// SPDX-License-Identifier: Apache-2.0
// Cached loads and stores, atomics and ordered accesses. Included by emulation/device.h.
#pragma once

namespace seqloom::emulation {

enum MemoryOrder { kRelaxed = 0, kAcquire = 1, kRelease = 2, kAcquireRelease = 3 };

enum class AtomicKind { kLoad, kStore, kModify };
// Tells the checker of an atomic access that is about to happen.
void note_atomic(const void* p, std::size_t bytes, MemoryOrder, AtomicKind, Site);
void note_readonly_load(const void* p, std::size_t bytes, Site);

template <class T, class F>
inline SEQLOOM_UNCHECKED T fetch_modify(T* p, F f, MemoryOrder order, Site site) {
  note_atomic(p, sizeof(T), order, AtomicKind::kModify, site);
  T old = *p;
  *p = f(old);
  return old;
}
template <class T>
inline SEQLOOM_UNCHECKED T load_ordered(const T* p, MemoryOrder order, Site site) {
  pause_thread(site);  // a poll: whoever is to write must get to run
  note_atomic(p, sizeof(T), order, AtomicKind::kLoad, site);
  return *p;
}
template <class T>
inline SEQLOOM_UNCHECKED void store_ordered(T* p, T v, MemoryOrder order, Site site) {
  note_atomic(p, sizeof(T), order, AtomicKind::kStore, site);
  *p = v;
}

}  // namespace seqloom::emulation

// The read-only path: the checker reports data that the same launch writes.
template <class T>
inline SEQLOOM_UNCHECKED T __ldg(const T* p SEQLOOM_SITE) {
  ::seqloom::emulation::note_readonly_load(p, sizeof(T), site);
  return *p;
}
template <class T>
inline T __ldca(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldlu(const T* p) {
  return *p;
}
template <class T>
inline T __ldcv(const T* p) {
  return *p;
}
template <class T>
inline void __stwb(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stcg(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stwt(T* p, T v) {
  *p = v;
}

#define SEQLOOM_ATOMIC(name, expression)                      \
  template <class T>                                          \
  inline T name(T* p, std::common_type_t<T> v SEQLOOM_SITE) { \
    return ::seqloom::emulation::fetch_modify(                \
        p,                                                    \
        [v](T o) SEQLOOM_UNCHECKED {                          \
          (void)o;                                            \
          return static_cast<T>(expression);                  \
        },                                                    \
        ::seqloom::emulation::kRelaxed, site);                \
  }
SEQLOOM_ATOMIC(atomicAdd, o + v)
SEQLOOM_ATOMIC(atomicSub, o - v)
SEQLOOM_ATOMIC(atomicExch, v)
SEQLOOM_ATOMIC(atomicMax, o > v ? o : v)
SEQLOOM_ATOMIC(atomicMin, o < v ? o : v)
SEQLOOM_ATOMIC(atomicOr, o | v)
SEQLOOM_ATOMIC(atomicAnd, o& v)
SEQLOOM_ATOMIC(atomicXor, o ^ v)
SEQLOOM_ATOMIC(atomicInc, o >= v ? T(0) : T(o + 1))
SEQLOOM_ATOMIC(atomicDec, o == 0 || o > v ? v : T(o - 1))
#undef SEQLOOM_ATOMIC
template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> v SEQLOOM_SITE) {
  return ::seqloom::emulation::fetch_modify(
      p, [compare, v](T o) SEQLOOM_UNCHECKED { return o == compare ? v : o; },
      ::seqloom::emulation::kRelaxed, site);
}
