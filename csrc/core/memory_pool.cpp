#include "core/memory_pool.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "core/error.h"

namespace lamella {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t steps_per_octave = 8;
constexpr std::size_t class_count = 64 * steps_per_octave;
constexpr std::int64_t always_kept = std::int64_t{64} << 20;

// In front of every block, as large as the alignment so that the block behind it is aligned.
struct alignas(alignment) Header {
  std::size_t size_class;
  std::size_t bytes;  // header included
};

struct SizeClass {
  std::size_t index;
  std::size_t bytes;
};

SizeClass size_class(std::size_t bytes) {
  bytes = std::max(bytes, alignment);
  const auto octave = static_cast<std::size_t>(std::bit_width(bytes - 1)) - 1;  // 2^octave < bytes
  const std::size_t step = std::max((std::size_t{1} << octave) / steps_per_octave, alignment);
  const std::size_t rounded = (bytes + step - 1) / step * step;
  const std::size_t index =
      octave * steps_per_octave + (rounded - (std::size_t{1} << octave)) / step;
  return {index, rounded};
}

std::size_t physical_memory() {
  static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                                   static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Header* from_system(std::size_t bytes) {
  if (bytes > physical_memory()) return nullptr;
  const std::size_t align = bytes >= huge_page ? huge_page : alignment;
  void* block = nullptr;
  if (posix_memalign(&block, align, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= huge_page) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return static_cast<Header*>(block);
}

struct Pool {
  std::mutex mutex;
  std::vector<Header*> free_blocks[class_count];
  std::uint64_t last_use[class_count] = {};  // of a size: the number of the call
  std::uint64_t calls = 0;
  PoolStatistics statistics{0, 0, 0, 0};

  // Frees blocks of the sizes that were not asked for longest, until `bytes` more may be kept.
  // Without it blocks of a model that is gone would push out those of the one that is running.
  void make_room(std::int64_t bytes) {
    const auto room = [&] {
      return statistics.bytes_cached + statistics.bytes_in_use + bytes <=
             statistics.peak_bytes_in_use + always_kept;
    };
    while (!room() && statistics.bytes_cached > 0) {
      std::size_t oldest = class_count;
      for (std::size_t i = 0; i < class_count; ++i) {
        if (free_blocks[i].empty()) continue;
        if (oldest == class_count || last_use[i] < last_use[oldest]) oldest = i;
      }
      auto& blocks = free_blocks[oldest];
      while (!room() && !blocks.empty()) {
        statistics.bytes_cached -= static_cast<std::int64_t>(blocks.back()->bytes);
        std::free(blocks.back());
        blocks.pop_back();
      }
    }
  }

  void free_all() {
    for (auto& blocks : free_blocks) {
      for (Header* block : blocks) std::free(block);
      blocks.clear();
    }
    statistics.bytes_cached = 0;
  }
};

// Never destroyed: arrays may outlive every static destructor.
Pool& pool() {
  static Pool* instance = [] {
    auto* p = new Pool;
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                   [] { pool().mutex.unlock(); });
    return p;
  }();
  return *instance;
}

}  // namespace

void* pool_allocate(const char* op, std::size_t bytes) {
  if (bytes > physical_memory()) throw MemoryError(op, bytes);
  const SizeClass wanted = size_class(bytes);
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  auto& blocks = p.free_blocks[wanted.index];
  p.last_use[wanted.index] = ++p.calls;
  Header* block = nullptr;
  if (!blocks.empty()) {
    block = blocks.back();
    blocks.pop_back();
    p.statistics.bytes_cached -= static_cast<std::int64_t>(block->bytes);
  } else {
    const std::size_t total = wanted.bytes + sizeof(Header);
    block = from_system(total);
    if (block == nullptr) {
      p.free_all();
      block = from_system(total);
    }
    if (block == nullptr) throw MemoryError(op, bytes);
    ++p.statistics.system_allocations;
    block->size_class = wanted.index;
    block->bytes = total;
  }
  p.statistics.bytes_in_use += static_cast<std::int64_t>(block->bytes);
  p.statistics.peak_bytes_in_use =
      std::max(p.statistics.peak_bytes_in_use, p.statistics.bytes_in_use);
  return block + 1;
}

void pool_release(void* data) noexcept {
  Header* block = static_cast<Header*>(data) - 1;
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  const auto bytes = static_cast<std::int64_t>(block->bytes);
  p.statistics.bytes_in_use -= bytes;
  p.make_room(bytes);
  try {
    p.free_blocks[block->size_class].push_back(block);
    p.statistics.bytes_cached += bytes;
  } catch (const std::bad_alloc&) {
    // No room to remember the block: it goes back to the system.
    std::free(block);
  }
}

void pool_trim() noexcept {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.free_all();
}

PoolStatistics pool_statistics() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  return p.statistics;
}

}  // namespace lamella
