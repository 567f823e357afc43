// What the test programs of this folder have in common. They run on the executor, and words.cu and
// matrix.cu on a GPU too.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

inline std::atomic<int> failures = 0;

inline void expect(bool holds, const std::string& what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED %s\n", what.c_str());
}

// Array of the device: NaNs, or a copy of the host's values. Exactly as large as it says.
template <class T>
class Array {
 public:
  explicit Array(std::size_t count) : count_(count), memory_("test", static_cast<long>(count)) {
    lamella::device::fill_bytes(get(), 0xFF, count * sizeof(T));
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    lamella::device::copy_to_device(get(), values.data(), values.size() * sizeof(T));
  }
  T* get() const { return memory_.get(); }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    lamella::device::copy_to_host(values.data(), get(), count_ * sizeof(T));
    return values;
  }

 private:
  std::size_t count_;
  lamella::Scratch<T> memory_;
};

// 0, 1, 2, ... spread so that neighbours and powers of two differ in every digit.
inline std::vector<float> numbers(int count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    values[static_cast<std::size_t>(i)] = static_cast<float>(i * 37 % 1009 - 400) * 0.125f;
  }
  return values;
}
