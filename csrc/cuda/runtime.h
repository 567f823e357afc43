// What the host side of a device module needs of the CUDA runtime: memory, copies, properties.
// Plain C++, so that bindings include it; runtime.cu implements it with cudart, simt/runtime.cpp
// with the host's memory.
//
// All work is queued on one stream: the order of calls is the order of work, whichever threads make
// them, and a block of memory that is given back can be used again at once by what is queued later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "core/memory_pool.h"

#if !defined(LAMELLA_SIMT)
struct dim3;
#endif

namespace lamella {

// lamella.cuda.CudaError: the driver or the runtime refused something.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace lamella

namespace lamella::device {

struct Properties {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  std::size_t shared_bytes;  // that one block may have, dynamic
  std::size_t memory_bytes;
  std::size_t l2_bytes;

  int capability() const { return major * 10 + minor; }
};

// Of the device in use.
const Properties& properties();

// How many devices there are; the reason where there is none.
int device_count(std::string* why_none = nullptr);

// All asynchronous on the stream, except copies to the host, which wait. Sizes in bytes.
void copy_to_device(void* device, const void* host, std::size_t bytes);
void copy_to_host(void* host, const void* device, std::size_t bytes);
void copy_on_device(void* to, const void* from, std::size_t bytes);
void fill_bytes(void* device, unsigned char value, std::size_t bytes);
// Waits for all queued work; what failed in it raises here.
void synchronize();

// Waits for the work of all streams, other libraries' too; what fails is not reported here.
void synchronize_all() noexcept;

// The stream as cudaStream_t, for other libraries; and another stream that is to wait for ours.
std::uintptr_t stream_handle();
void let_wait(std::uintptr_t other);

// Under the pool (core/memory_pool.h): null where the device has no more.
void* allocate(std::size_t bytes);
void release(void* block) noexcept;

#if !defined(LAMELLA_SIMT)
void launch_kernel(const char* op, const void* kernel, const dim3& grid, const dim3& block,
                   std::size_t shared_bytes, bool cooperative, void** arguments);
int resident_blocks_of(const void* kernel, int threads, std::size_t shared_bytes);
#endif

// A table made on the host (row numbers, offsets) for the kernels of one call.
template <class T>
class Table {
 public:
  Table(const char* op, const T* host, std::int64_t count) : memory_(op, count) {
    if (count > 0) {
      copy_to_device(memory_.get(), host, static_cast<std::size_t>(count) * sizeof(T));
    }
  }
  const T* get() const { return memory_.get(); }

 private:
  Scratch<T> memory_;
};

}  // namespace lamella::device
