// Memory behind the arrays that ops return and behind the kernels' scratch: 64-byte aligned blocks
// that go back to a free list and not to the system, so that a training step in its steady state
// asks the system for nothing.
//
// Sizes are rounded up to one of eight classes per power of two (at most 12.5% lost). Blocks of
// 2 MiB and more lie on huge pages where the system has them. Free memory is kept up to the
// highest amount that was ever in use; what exceeds that goes back to the system, sizes that were
// not asked for longest first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lamella {

// Throws MemoryError, naming `op` and the bytes, when the system has no more.
void* pool_allocate(const char* op, std::size_t bytes);
void pool_release(void* block) noexcept;
// Gives every free block back to the system.
void pool_trim() noexcept;

struct PoolStatistics {
  std::int64_t bytes_in_use;
  std::int64_t bytes_cached;
  std::int64_t peak_bytes_in_use;
  std::int64_t system_allocations;  // since the process began
};
PoolStatistics pool_statistics();

// Scratch memory of `count` elements for the time of one kernel call.
template <class T>
class Scratch {
 public:
  // Inlined by force: kernels compiled for different instruction sets must not share a copy.
  [[gnu::always_inline]] Scratch() {}
  [[gnu::always_inline]] Scratch(const char* op, std::int64_t count)
      : data_(count > 0
                  ? static_cast<T*>(pool_allocate(op, static_cast<std::size_t>(count) * sizeof(T)))
                  : nullptr) {}
  [[gnu::always_inline]] Scratch(Scratch&& other) noexcept : data_(other.data_) {
    other.data_ = nullptr;
  }
  Scratch& operator=(Scratch&&) = delete;
  [[gnu::always_inline]] ~Scratch() {
    if (data_ != nullptr) pool_release(data_);
  }
  [[gnu::always_inline]] T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

}  // namespace lamella
