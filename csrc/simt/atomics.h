// Atomics on integers. Plain code here, for one thread runs at a time; what their order may change
// is tried by letting other threads run before some of them.
#pragma once

#include <concepts>
#include <type_traits>

#include "simt/executor.h"

namespace lamella::simt {

template <class T>
concept AtomicInteger =
    std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>;

template <class T, class Change>
T atomically(T* address, const Change& change) {
  perhaps_yield();
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace lamella::simt

template <lamella::simt::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  using Unsigned = std::make_unsigned_t<T>;
  return lamella::simt::atomically(address, [=](T old) {
    return static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value));
  });
}
// Sums of floats depend on the order of the additions: none, by policy.
float atomicAdd(float* address, float value) = delete;
double atomicAdd(double* address, double value) = delete;

inline int atomicSub(int* address, int value) {
  return atomicAdd(address, static_cast<int>(0u - static_cast<unsigned>(value)));
}
inline unsigned atomicSub(unsigned* address, unsigned value) {
  return atomicAdd(address, 0u - value);
}
template <lamella::simt::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return old < value ? value : old; });
}
template <lamella::simt::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return value < old ? value : old; });
}
template <lamella::simt::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return old & value; });
}
template <lamella::simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return old | value; });
}
template <lamella::simt::AtomicInteger T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return old ^ value; });
}
template <lamella::simt::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T) { return value; });
}
inline float atomicExch(float* address, float value) {
  return lamella::simt::atomically(address, [=](float) { return value; });
}
template <lamella::simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return lamella::simt::atomically(address, [=](T old) { return old == expected ? value : old; });
}
// (old >= last) ? 0 : old + 1
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return lamella::simt::atomically(address,
                                   [=](unsigned old) { return old >= last ? 0 : old + 1; });
}

inline void __threadfence() {
  lamella::simt::perhaps_yield();
}
inline void __threadfence_block() {
  lamella::simt::perhaps_yield();
}
// The one way to wait in a loop: other threads run meanwhile.
inline void __nanosleep(unsigned,
                        lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::sleep(where);
}
