// What the host side of a device module needs of the CUDA runtime: memory, copies, properties.
// Plain C++, so that bindings include it; runtime.cu implements it with cudart, simt/runtime.cpp
// with the host's memory.
//
// Work is queued on one stream for each device and calling thread; a block of memory that is given
// back is used again by later work of the same stream only, and so needs no waiting.
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
  int major, minor;              // compute capability
  int multiprocessors;
  std::size_t shared_bytes;      // that one block may have, dynamic
  std::size_t memory_bytes;
  std::size_t l2_bytes;

  int capability() const { return major * 10 + minor; }
};

// Of the device in use.
const Properties& properties();

// All asynchronous on the calling thread's stream, except copies to the host, which wait. Sizes in
// bytes.
void copy_to_device(void* device, const void* host, std::size_t bytes);
void copy_to_host(void* host, const void* device, std::size_t bytes);
void copy_on_device(void* to, const void* from, std::size_t bytes);
void fill_bytes(void* device, unsigned char value, std::size_t bytes);
// Waits for all queued work; what failed in it raises here.
void synchronize();

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
