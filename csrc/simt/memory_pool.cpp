// core/memory_pool.h for the executor: each block is fresh from the system, so that
// AddressSanitizer knows its ends, filled with NaNs, so that reading what no kernel wrote shows,
// and guarded, so that writing beyond its ends shows without AddressSanitizer too.
#include "core/memory_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "cuda/runtime.h"
#include "simt/fiber.h"

namespace lamella {
namespace {

constexpr std::size_t alignment = 512;  // of cudaMalloc
#if defined(LAMELLA_SIMT_ASAN)
constexpr std::size_t guard = 0;  // where ASan has its own, to the byte
#else
constexpr std::size_t guard = 64;
#endif
constexpr std::uint16_t guard_word = 0xFFFD;  // a NaN to every reader

struct Pool {
  std::mutex mutex;
  std::unordered_map<void*, std::size_t> sizes;
  PoolStatistics statistics{0, 0, 0, 0};
};

Pool& pool() {
  static Pool* const made = new Pool;
  return *made;
}

}  // namespace

void* pool_allocate(const char* op, std::size_t bytes) {
  const device::Properties& device = device::properties();
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  if (bytes > device.memory_bytes ||
      static_cast<std::size_t>(p.statistics.bytes_in_use) + bytes > device.memory_bytes) {
    throw MemoryError(op, bytes);
  }
  void* block = nullptr;
  if (posix_memalign(&block, alignment, bytes + guard) != 0) throw MemoryError(op, bytes);
  std::memset(block, 0xFF, bytes);
  for (std::size_t i = 0; i < guard; i += sizeof guard_word) {
    std::memcpy(static_cast<unsigned char*>(block) + bytes + i, &guard_word, sizeof guard_word);
  }
  p.sizes.emplace(block, bytes);
  p.statistics.bytes_in_use += static_cast<std::int64_t>(bytes);
  p.statistics.peak_bytes_in_use =
      std::max(p.statistics.peak_bytes_in_use, p.statistics.bytes_in_use);
  ++p.statistics.system_allocations;
  return block;
}

void pool_release(void* block) noexcept {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  const auto found = p.sizes.find(block);
  const auto* const end = static_cast<const unsigned char*>(block) + found->second;
  for (std::size_t i = 0; i < guard; i += sizeof guard_word) {
    if (std::memcmp(end + i, &guard_word, sizeof guard_word) == 0) continue;
    std::fprintf(stderr, "lamella._simt: a kernel wrote beyond a block of %zu bytes\n",
                 found->second);
    std::abort();
  }
  p.statistics.bytes_in_use -= static_cast<std::int64_t>(found->second);
  p.sizes.erase(found);
  std::free(block);
}

void pool_trim() noexcept {}

PoolStatistics pool_statistics() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  return p.statistics;
}

}  // namespace lamella
