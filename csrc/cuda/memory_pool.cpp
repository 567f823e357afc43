// core/memory_pool.h for device memory: freed blocks are kept by size and handed out again without
// waiting, because all work is on one stream.
//
// Sizes are rounded up to one of eight classes per power of two, 512 bytes at least.
#include "core/memory_pool.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "cuda/runtime.h"

namespace lamella {
namespace {

std::size_t rounded(std::size_t bytes) {
  bytes = std::max<std::size_t>(bytes, 512);
  const std::size_t octave = std::bit_floor(bytes);
  const std::size_t step = std::max<std::size_t>(octave / 8, 512);
  return (bytes + step - 1) / step * step;
}

struct Pool {
  std::mutex mutex;
  std::map<std::size_t, std::vector<void*>> free_blocks;
  std::unordered_map<void*, std::size_t> sizes;  // of the blocks in use
  PoolStatistics statistics{0, 0, 0, 0};

  void trim() noexcept {
    for (auto& [bytes, blocks] : free_blocks) {
      for (void* block : blocks) device::release(block);
      statistics.bytes_cached -= static_cast<std::int64_t>(bytes * blocks.size());
      blocks.clear();
    }
  }
};

// Never destroyed: arrays may outlive the module's statics.
Pool& pool() {
  static Pool* const made = new Pool;
  return *made;
}

}  // namespace

void* pool_allocate(const char* op, std::size_t bytes) {
  if (bytes > std::size_t{1} << 62) throw MemoryError(op, bytes);
  const std::size_t size = rounded(bytes);
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  void* block = nullptr;
  auto& blocks = p.free_blocks[size];
  if (!blocks.empty()) {
    block = blocks.back();
    blocks.pop_back();
    p.statistics.bytes_cached -= static_cast<std::int64_t>(size);
  } else {
    block = device::allocate(size);
    if (block == nullptr && p.statistics.bytes_cached > 0) {
      // Work that still uses the free blocks has to end first.
      device::synchronize();
      p.trim();
      block = device::allocate(size);
    }
    if (block == nullptr) throw MemoryError(op, bytes);
    ++p.statistics.system_allocations;
  }
  try {
    p.sizes.emplace(block, size);
  } catch (const std::bad_alloc&) {
    device::release(block);
    throw MemoryError(op, bytes);
  }
  p.statistics.bytes_in_use += static_cast<std::int64_t>(size);
  p.statistics.peak_bytes_in_use =
      std::max(p.statistics.peak_bytes_in_use, p.statistics.bytes_in_use);
  return block;
}

void pool_release(void* block) noexcept {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  const auto found = p.sizes.find(block);
  const std::size_t size = found->second;
  p.sizes.erase(found);
  p.statistics.bytes_in_use -= static_cast<std::int64_t>(size);
  try {
    p.free_blocks[size].push_back(block);
    p.statistics.bytes_cached += static_cast<std::int64_t>(size);
  } catch (const std::bad_alloc&) {
    device::release(block);
  }
}

void pool_trim() noexcept {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  p.trim();
}

PoolStatistics pool_statistics() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  return p.statistics;
}

}  // namespace lamella
