// Steps (core/steps.h) as kernels read them, and the order of the rows that a pass keeps.
//
// A step of a row has one row in the arrays of gates, states and so on: where every step is
// computed that of x, sequence * time + time_of, so that x and its gradient are read and written
// as they lie; else its packed row.
#pragma once

#include "core/steps.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

namespace lamella::recurrent {

struct StepsView {
  std::int64_t batch, time, count;
  bool all, backwards;
  // Tables of Steps; null where all.
  const std::int64_t* offset;    // (count + 1)
  const std::int64_t* sequence;  // (batch)
  const std::int64_t* length;    // (batch)
  const std::int64_t* position;  // (packed rows)

  __device__ std::int64_t active(std::int64_t j) const {
    return all ? batch : offset[j + 1] - offset[j];
  }
  __device__ std::int64_t sequence_of(std::int64_t row) const { return all ? row : sequence[row]; }
  __device__ std::int64_t length_of(std::int64_t row) const { return all ? time : length[row]; }
  __device__ std::int64_t position_of(std::int64_t j, std::int64_t row) const {
    return all ? j : position[offset[j] + row];
  }
  __device__ std::int64_t time_at(std::int64_t position) const {
    return backwards ? time - 1 - position : position;
  }
  // Its row in what is kept.
  __device__ std::int64_t kept(std::int64_t j, std::int64_t row) const {
    return all ? row * time + time_at(j) : offset[j] + row;
  }
};

// A step of a row.
struct Place {
  std::int64_t j, row, n;
  std::int64_t kept;           // its row in what is kept
  std::int64_t kept_before;    // that of the step before, if it is not the first
  std::int64_t t;              // n * T + time in x
  std::int64_t output;         // n * T + position
  std::int64_t output_before;  // of the step before, if it is not the first
  bool last;                   // step of the row

  __device__ Place(const StepsView& s, std::int64_t step, std::int64_t r)
      : j(step), row(r), n(s.sequence_of(r)), kept(s.kept(step, r)) {
    const std::int64_t position = s.position_of(step, r);
    t = n * s.time + s.time_at(position);
    output = n * s.time + position;
    kept_before = step > 0 ? s.kept(step - 1, r) : 0;
    output_before = step > 0 ? n * s.time + s.position_of(step - 1, r) : 0;
    last = step + 1 >= s.length_of(r);
  }
};

// The tables in device memory for the kernels of one call.
class DeviceSteps {
 public:
  DeviceSteps(const char* op, const Steps& s)
      : offsets_(op, s.all() ? nullptr : s.offsets(), s.all() ? 0 : s.count() + 1),
        sequences_(op, s.all() ? nullptr : s.sequences(), s.all() ? 0 : s.batch()),
        lengths_(op, s.all() ? nullptr : s.lengths(), s.all() ? 0 : s.batch()),
        positions_(op, s.all() ? nullptr : s.positions(), s.all() ? 0 : s.packed_rows()),
        view_{s.batch(),      s.time(),         s.count(),      s.all(),         s.backwards(),
              offsets_.get(), sequences_.get(), lengths_.get(), positions_.get()} {}

  const StepsView& view() const { return view_; }

 private:
  device::Table<std::int64_t> offsets_, sequences_, lengths_, positions_;
  StepsView view_;
};

}  // namespace lamella::recurrent
