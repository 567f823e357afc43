// How the threads of a recurrent op divide its work: by rows, each thread a few sequences from
// beginning to end without waiting for anybody; or, where a step's weights are too large for every
// thread to read them all, by units, with a barrier a step.
#pragma once

#include "core/parallel.h"
#include "core/steps.h"
#include "recurrent/gate_panels.h"

namespace lamella::LAMELLA_ISA {

struct TeamPlan {
  int members;
  bool by_units;
};

// By units only if `may_wait`: where the members meet at barriers.
inline TeamPlan plan_team(const Steps& steps, const GateLayout& l, std::int64_t terms,
                          bool may_wait = true) {
  // Multiply-adds worth a thread, and units from which a step is worth a barrier.
  constexpr std::int64_t thread_grain = 128 << 10;
  constexpr std::int64_t fewest_units = 128;
  const std::int64_t work = steps.packed_rows() * terms * l.row_floats();
  const std::int64_t threads = max_i(1, min_i(num_threads(), work / thread_grain));
  const bool by_units = may_wait && threads > 1 && l.units >= fewest_units && l.blocks() >= threads;
  const std::int64_t members = by_units ? threads : min_i(threads, max_i(1, steps.batch()));
  return {static_cast<int>(members), by_units && members > 1};
}

// A single step of few rows reads each weight once: packing the kernels would take longer. The
// products lie in Keras' order then, (row, gate, unit), and go from there to the blocks' gates.
inline bool multiplies_in_place(const Steps& s, std::int64_t units) {
  return s.count() == 1 && s.batch() <= wide_tile_rows && units % unit_block == 0;
}

// [begin, end) of `count` things for one of `size` members.
struct Part {
  std::int64_t begin, end;
};
LAMELLA_INLINE Part part_of(std::int64_t count, std::int64_t member, std::int64_t size) {
  return {member * count / size, (member + 1) * count / size};
}

// A member's rows and its blocks of units. The rows follow one another in memory; where sequences
// differ in length they are every `stride`-th, so that each member has long and short ones alike.
struct TeamShare {
  std::int64_t first, end, stride;
  Part blocks;

  TeamShare(const TeamPlan& plan, const Team& team, int member, const GateLayout& l,
            const Steps& steps) {
    first = 0;
    end = steps.batch();
    stride = 1;
    blocks = {0, l.blocks()};
    if (plan.by_units) {
      // Whole panels of 64 units if there are enough of them.
      const std::int64_t unit = l.blocks() >= 4 * team.size() ? unit_panel / unit_block : 1;
      blocks = part_of(ceil_div(l.blocks(), unit), member, team.size());
      blocks = {blocks.begin * unit, min_i(blocks.end * unit, l.blocks())};
    } else if (steps.all()) {
      const Part rows = part_of(steps.batch(), member, team.size());
      first = rows.begin;
      end = rows.end;
    } else {
      first = member;
      stride = team.size();
    }
  }

  // How many of rows [0, active) are its own; row(i) is one of them.
  std::int64_t count(std::int64_t active) const {
    return max_i(0, ceil_div(min_i(active, end) - first, stride));
  }
  std::int64_t row(std::int64_t i) const { return first + i * stride; }
};

// The end of a piece of steps from j on: at least one, with at most so many rows of the member.
inline std::int64_t piece_end(const Steps& s, const TeamShare& share, std::int64_t j,
                              std::int64_t most) {
  std::int64_t rows = share.count(s.active(j++));
  while (j < s.count() && rows + share.count(s.active(j)) <= most) {
    rows += share.count(s.active(j++));
  }
  return j;
}

}  // namespace lamella::LAMELLA_ISA
