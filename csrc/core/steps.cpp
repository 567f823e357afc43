#include "core/steps.h"

#include <algorithm>

namespace lamella {

Steps::Steps(const char*, std::int64_t batch, std::int64_t time, bool backwards)
    : batch_(batch), time_(time), count_(batch > 0 ? time : 0), backwards_(backwards), all_(true) {}

Steps::Steps(const char* op, std::int64_t batch, std::int64_t time, bool backwards,
             const std::uint8_t* valid)
    : batch_(batch),
      time_(time),
      count_(0),
      backwards_(backwards),
      all_(false),
      offset_(op, time + 1),
      sequence_(op, batch),
      length_(op, batch),
      position_(op, batch * time) {
  const auto is_valid = [&](std::int64_t n, std::int64_t s) {
    return valid[n * time + (backwards ? time - 1 - s : s)] != 0;
  };
  // Counting sort by length; equally long sequences stay in order.
  const HostScratch<std::int64_t> lengths(op, batch);
  std::int64_t* const offset = offset_.get();
  std::fill(offset, offset + time + 1, 0);
  for (std::int64_t n = 0; n < batch; ++n) {
    std::int64_t length = 0;
    for (std::int64_t s = 0; s < time; ++s) length += is_valid(n, s) ? 1 : 0;
    lengths.get()[n] = length;
    count_ = std::max(count_, length);
    ++offset[length];
  }
  // offset[l]: sequences of l steps; then the first row of those.
  std::int64_t rows = 0;
  for (std::int64_t l = time; l >= 0; --l) {
    const std::int64_t equal = offset[l];
    offset[l] = rows;
    rows += equal;
  }
  for (std::int64_t n = 0; n < batch; ++n) {
    const std::int64_t row = offset[lengths.get()[n]]++;
    sequence_.get()[row] = n;
    length_.get()[row] = lengths.get()[n];
  }
  // Now offset[l] is the number of rows of at least l steps, so active(j) = offset[j + 1].
  std::int64_t packed = 0;
  for (std::int64_t j = 0; j < count_; ++j) {
    const std::int64_t active = offset[j + 1];
    offset[j] = packed;
    packed += active;
  }
  offset[count_] = packed;
  for (std::int64_t row = 0; row < batch; ++row) {
    const std::int64_t n = sequence_.get()[row];
    std::int64_t j = 0;
    for (std::int64_t s = 0; s < time; ++s) {
      if (is_valid(n, s)) position_.get()[offset[j++] + row] = s;
    }
  }
}

}  // namespace lamella
