// Barriers of the block, and what the lanes of a warp do together.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/executor.h"
#include "simt/half.h"

inline void __syncthreads(lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::block_barrier(lamella::simt::Vote::none, false, where);
}
inline int __syncthreads_count(int predicate,
                               lamella::simt::Location where = lamella::simt::Location::current()) {
  return lamella::simt::block_barrier(lamella::simt::Vote::count, predicate != 0, where);
}
inline int __syncthreads_and(int predicate,
                             lamella::simt::Location where = lamella::simt::Location::current()) {
  return lamella::simt::block_barrier(lamella::simt::Vote::all, predicate != 0, where);
}
inline int __syncthreads_or(int predicate,
                            lamella::simt::Location where = lamella::simt::Location::current()) {
  return lamella::simt::block_barrier(lamella::simt::Vote::any, predicate != 0, where);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu,
                       lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::exchange(lamella::simt::Exchange::barrier, mask, 0, -1, where);
}

namespace lamella::simt {

template <class T>
concept Shuffled =
    std::is_arithmetic_v<T> || std::is_same_v<T, __half> || std::is_same_v<T, __half2> ||
    std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __nv_bfloat162>;

template <class T>
T shuffled(Exchange kind, unsigned mask, T value, int source, Location where) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(kind, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void check_width(int width, Location where) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail("the width of a shuffle must be 1, 2, 4, 8, 16 or 32", where);
  }
}

}  // namespace lamella::simt

// Lanes of other segments of `width`, and lanes beyond its ends: one's own value (-1).
template <lamella::simt::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::check_width(width, where);
  const int segment = lamella::simt::lane() & ~(width - 1);
  return lamella::simt::shuffled(lamella::simt::Exchange::shuffle, mask, value,
                                 segment | (source & (width - 1)), where);
}
template <lamella::simt::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::check_width(width, where);
  const int lane = lamella::simt::lane();
  const int source = delta > 31 ? -1 : lane - static_cast<int>(delta);
  return lamella::simt::shuffled(lamella::simt::Exchange::shuffle_up, mask, value,
                                 source < (lane & ~(width - 1)) ? -1 : source, where);
}
template <lamella::simt::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::check_width(width, where);
  const int lane = lamella::simt::lane();
  const int source = delta > 31 ? 32 : lane + static_cast<int>(delta);
  return lamella::simt::shuffled(lamella::simt::Exchange::shuffle_down, mask, value,
                                 source > (lane | (width - 1)) ? -1 : source, where);
}
template <lamella::simt::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  lamella::simt::Location where = lamella::simt::Location::current()) {
  lamella::simt::check_width(width, where);
  const int lane = lamella::simt::lane();
  const int source = lane ^ (lane_mask & 31);
  return lamella::simt::shuffled(lamella::simt::Exchange::shuffle_xor, mask, value,
                                 source > (lane | (width - 1)) ? -1 : source, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              lamella::simt::Location where = lamella::simt::Location::current()) {
  return static_cast<unsigned>(
      lamella::simt::exchange(lamella::simt::Exchange::ballot, mask, predicate != 0, -1, where));
}
inline int __any_sync(unsigned mask, int predicate,
                      lamella::simt::Location where = lamella::simt::Location::current()) {
  return static_cast<int>(
      lamella::simt::exchange(lamella::simt::Exchange::any, mask, predicate != 0, -1, where));
}
inline int __all_sync(unsigned mask, int predicate,
                      lamella::simt::Location where = lamella::simt::Location::current()) {
  return static_cast<int>(
      lamella::simt::exchange(lamella::simt::Exchange::all, mask, predicate != 0, -1, where));
}
// The lanes whose values have the same bits.
template <class T>
  requires std::is_arithmetic_v<T>
unsigned __match_any_sync(unsigned mask, T value,
                          lamella::simt::Location where = lamella::simt::Location::current()) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return static_cast<unsigned>(
      lamella::simt::exchange(lamella::simt::Exchange::match_any, mask, bits, -1, where));
}
