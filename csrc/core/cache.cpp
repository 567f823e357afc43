#include "core/cache.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace lamella {
namespace {

constexpr std::int64_t megabyte = 1 << 20;

// Linux tells in kilobytes ("32768K"). The C library's number is wrong on some virtual machines.
std::int64_t last_level_cache() {
  std::int64_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) +
                       "/size");
    std::int64_t size = 0;
    char unit = '\0';
    if (file >> size >> unit) largest = std::max(largest, unit == 'M' ? size << 20 : size << 10);
  }
  return largest > 0 ? largest : 32 * megabyte;
}

}  // namespace

bool outgrows_cache(std::int64_t bytes) {
  // A third: the op's inputs and its neighbours on other cores want their share.
  static const std::int64_t limit = std::max(4 * megabyte, last_level_cache() / 3);
  return bytes > limit;
}

}  // namespace lamella
