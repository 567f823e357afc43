// Scratch memory of code that runs on the host, whatever the kernels run on.
#pragma once

#include "core/error.h"
#include "core/memory_pool.h"
#if defined(LAMELLA_DEVICE)
#include <cstdlib>
#endif

namespace lamella {

#if defined(LAMELLA_DEVICE)

template <class T>
class HostScratch {
 public:
  HostScratch() = default;
  HostScratch(const char* op, std::int64_t count) {
    if (count == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    data_ = static_cast<T*>(std::malloc(bytes));
    if (data_ == nullptr) throw MemoryError(op, bytes);
  }
  HostScratch(HostScratch&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  HostScratch& operator=(HostScratch&&) = delete;
  ~HostScratch() { std::free(data_); }
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

#else

template <class T>
using HostScratch = Scratch<T>;

#endif

}  // namespace lamella
