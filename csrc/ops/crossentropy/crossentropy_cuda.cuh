// What the cross-entropies share on the device: rows that are read in segments, one of which may be
// the whole row and then stays in registers.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/crossentropy/crossentropy.h"

namespace lamella::crossentropy::device {

using namespace lamella::device;

constexpr const char* op = "crossentropy";

constexpr float clip_low = 1e-7f;
constexpr float clip_high = static_cast<float>(1.0 - 1e-7);

// NaN stays NaN.
__device__ inline float clip(float p) {
  return p < clip_low ? clip_low : p > clip_high ? clip_high : p;
}
__device__ inline bool clip_keeps(float p) {
  return clip_low <= p && p <= clip_high;
}

// A row of x beside one of labels, or none. `is_held`: it is one segment.
template <class Team, bool is_held>
struct LabelledRow {
  const float* x;
  const float* labels;  // or null
  std::int64_t size;
  int rank;
  bool aligned;
  float v[Team::held];  // the segment's elements; the bodies may change those of a held row
  float t[Team::held];  // its labels

  // body(part, begin): the segment that begins at `begin`. Later passes run backwards, so that what
  // was read last is met first, in L1 and L2; or find the held row. Behind the row's end x is
  // `absent` and labels are 0.
  template <bool first_pass, class Body>
  __device__ void pass(float absent, const Body& body) {
    if constexpr (is_held) {
      const RowPart<Team> part = {rank, static_cast<int>(size), aligned};
      if constexpr (first_pass) load(part, 0, absent);
      return body(part, std::int64_t{0});
    }
    const std::int64_t segments = ceil_div<std::int64_t>(size, Team::capacity);
    for (std::int64_t i = 0; i < segments; ++i) {
      const std::int64_t begin = (first_pass ? i : segments - 1 - i) * Team::capacity;
      const std::int64_t rest = size - begin;
      const RowPart<Team> part = {
          rank, static_cast<int>(smaller<std::int64_t>(rest, Team::capacity)), aligned};
      load(part, begin, absent);
      body(part, begin);
    }
  }

 private:
  __device__ void load(const RowPart<Team>& part, std::int64_t begin, float absent) {
    part.load(x + begin, absent, v);
    if (labels != nullptr) part.load(labels + begin, 0.0f, t);
  }
};

template <class Team>
Launch row_launch(std::int64_t rows) {
  return {dim3(static_cast<unsigned>(ceil_div<std::int64_t>(rows, Team::rows))), dim3(Team::block)};
}

}  // namespace lamella::crossentropy::device
