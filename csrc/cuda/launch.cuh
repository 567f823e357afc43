// Kernel launches: the one way from host code to a kernel, checked, on the stream.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda/kernel.cuh"
#include "cuda/runtime.h"
#if defined(LAMELLA_SIMT)
#include "simt/executor.h"
#endif

namespace lamella::device {

struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic; may exceed 48 KB where the device has them
  bool cooperative = false;      // all blocks run at once and may meet in grid_barrier()
};

// kernel(arguments...) on the stream; a grid without blocks is nothing to do.
// CudaError, naming `op`, where the launch is refused.
template <class... Parameters>
void launch(const char* op, const Launch& shape, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
#if defined(LAMELLA_SIMT)
  simt::run(op, {shape.grid, shape.block, shape.shared_bytes, shape.cooperative},
            [&] { kernel(arguments...); });
#else
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  launch_kernel(op, reinterpret_cast<const void*>(kernel), shape.grid, shape.block,
                shape.shared_bytes, shape.cooperative, pointers);
#endif
}

// Blocks for a loop over `size` elements in which each thread takes the elements grid_thread(),
// grid_thread() + grid_threads(), ...: enough to fill the device, no more than there is work.
inline Launch elements(std::int64_t size, std::int64_t each_thread = 4) {
  constexpr int threads = 256;
  const std::int64_t wanted = ceil_div<std::int64_t>(size, threads * each_thread);
  const std::int64_t most = std::int64_t{properties().multiprocessors} * 8;
  return {dim3(static_cast<unsigned>(smaller(wanted, most))), dim3(threads)};
}

// How many blocks of this shape the whole device holds at once: the most of a cooperative launch.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, std::size_t shared_bytes) {
#if defined(LAMELLA_SIMT)
  static_cast<void>(kernel);
  return simt::resident_blocks(threads, shared_bytes);
#else
  return resident_blocks_of(reinterpret_cast<const void*>(kernel), threads, shared_bytes);
#endif
}

}  // namespace lamella::device
