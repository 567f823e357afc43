// Which steps of which sequences a recurrent op computes, and in which order.
//
// A batch of N sequences of T steps, some of them masked. Only the others are computed: sequence n
// takes its valid steps one after the other, as its steps 0, 1, ... The sequences are ordered by
// their number of valid steps, longest first, and are called rows then: at step j rows
// [0, active(j)) take part. What belongs to a step of a row has the packed row offset(j) + r of an
// array; all the packed rows of a step follow one another, in the order of the rows.
#pragma once

#include <cstdint>

#include "core/host_scratch.h"

namespace lamella {

class Steps {
 public:
  // Every step of every sequence.
  Steps(const char* op, std::int64_t batch, std::int64_t time, bool backwards);
  // valid (N, T) in the order of x.
  Steps(const char* op, std::int64_t batch, std::int64_t time, bool backwards,
        const std::uint8_t* valid);

  std::int64_t batch() const { return batch_; }
  std::int64_t time() const { return time_; }
  bool all() const { return all_; }
  std::int64_t count() const { return count_; }                // of the longest sequence
  std::int64_t packed_rows() const { return offset(count_); }  // valid steps of all sequences
  std::int64_t active(std::int64_t j) const { return offset(j + 1) - offset(j); }
  std::int64_t offset(std::int64_t j) const { return all_ ? j * batch_ : offset_.get()[j]; }
  std::int64_t sequence(std::int64_t row) const { return all_ ? row : sequence_.get()[row]; }
  std::int64_t length(std::int64_t row) const { return all_ ? time_ : length_.get()[row]; }
  // Position in the outputs of step j of a row: in the order in which steps are computed.
  std::int64_t position(std::int64_t j, std::int64_t row) const {
    return all_ ? j : position_.get()[offset(j) + row];
  }
  // Position in x.
  std::int64_t time_of(std::int64_t j, std::int64_t row) const {
    const std::int64_t s = position(j, row);
    return backwards_ ? time_ - 1 - s : s;
  }
  bool backwards() const { return backwards_; }
  // The tables, for copies of them; null where all(): offset (count + 1), sequence and length
  // (batch), position (packed_rows).
  const std::int64_t* offsets() const { return offset_.get(); }
  const std::int64_t* sequences() const { return sequence_.get(); }
  const std::int64_t* lengths() const { return length_.get(); }
  const std::int64_t* positions() const { return position_.get(); }

 private:
  std::int64_t batch_, time_, count_;
  bool backwards_, all_;
  HostScratch<std::int64_t> offset_, sequence_, length_, position_;
};

}  // namespace lamella
