// The device's runtime through cudart (linked statically, which loads the driver when first asked).
#include <cuda_runtime.h>

#include <atomic>
#include <mutex>

#include "cuda/launch.cuh"
#include "cuda/runtime.h"

namespace lamella::device {
namespace {

[[noreturn]] void fail(const char* what, cudaError_t status) {
  throw CudaError(message(what, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status)));
}

void check(const char* what, cudaError_t status) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next call would report it again
  fail(what, status);
}

// One stream for all of the process's work on a device: the order of calls is the order of work.
cudaStream_t stream() {
  static const cudaStream_t made = [] {
    cudaStream_t s = nullptr;
    check("lamella.cuda: creating a stream", cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
  }();
  return made;
}

}  // namespace

std::uintptr_t stream_handle() {
  return reinterpret_cast<std::uintptr_t>(stream());
}

int device_count(std::string* why_none) {
  int driver = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  static_cast<void>(cudaGetLastError());
  if (why_none != nullptr) {
    if (driver == 0) {
      *why_none = "no NVIDIA driver";
    } else if (status == cudaErrorInsufficientDriver) {
      *why_none = message("the NVIDIA driver is too old: it runs CUDA ", driver / 1000, ".",
                          driver % 1000 / 10, ", lamella needs 13.0 (driver 580 or newer)");
    } else if (status == cudaSuccess || status == cudaErrorNoDevice) {
      *why_none = "no NVIDIA device";
    } else {
      *why_none = message("the NVIDIA driver refuses: ", cudaGetErrorString(status));
    }
  }
  return 0;
}

const Properties& properties() {
  static const Properties found = [] {
    int device = 0;
    check("lamella.cuda", cudaGetDevice(&device));
    cudaDeviceProp p;
    check("lamella.cuda", cudaGetDeviceProperties(&p, device));
    return Properties{p.name,
                      p.major,
                      p.minor,
                      p.multiProcessorCount,
                      p.sharedMemPerBlockOptin,
                      p.totalGlobalMem,
                      static_cast<std::size_t>(p.l2CacheSize)};
  }();
  return found;
}

void copy_to_device(void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  check("lamella.cuda: copy to the device",
        cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream()));
}

void copy_to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes == 0) return;
  check("lamella.cuda: copy to the host",
        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()));
  synchronize();
}

void copy_on_device(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  check("lamella.cuda: copy on the device",
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
}

void fill_bytes(void* device, unsigned char value, std::size_t bytes) {
  if (bytes == 0) return;
  check("lamella.cuda: fill", cudaMemsetAsync(device, value, bytes, stream()));
}

void synchronize() {
  check("lamella.cuda: earlier work on the device", cudaStreamSynchronize(stream()));
}

void synchronize_all() noexcept {
  // An error stays the driver's, and is raised by the next call that asks it.
  static_cast<void>(cudaDeviceSynchronize());
}

void* allocate(std::size_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMalloc(&block, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  check("lamella.cuda: memory", status);
  return block;
}

void release(void* block) noexcept {
  static_cast<void>(cudaFree(block));
}

void let_wait(std::uintptr_t other) {
  cudaEvent_t event = nullptr;
  check("lamella.cuda", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  check("lamella.cuda", cudaEventRecord(event, stream()));
  check("lamella.cuda", cudaStreamWaitEvent(reinterpret_cast<cudaStream_t>(other), event, 0));
  check("lamella.cuda", cudaEventDestroy(event));
}

void launch_kernel(const char* op, const void* kernel, const dim3& grid, const dim3& block,
                   std::size_t shared_bytes, bool cooperative, void** arguments) {
  if (shared_bytes > 48 * 1024) {
    check(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)));
  }
  check(op, cooperative ? cudaLaunchCooperativeKernel(kernel, grid, block, arguments, shared_bytes,
                                                      stream())
                        : cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream()));
}

int resident_blocks_of(const void* kernel, int threads, std::size_t shared_bytes) {
  if (shared_bytes > 48 * 1024) {
    check("lamella.cuda", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(shared_bytes)));
  }
  int each = 0;
  check("lamella.cuda",
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared_bytes));
  return each * properties().multiprocessors;
}

}  // namespace lamella::device
