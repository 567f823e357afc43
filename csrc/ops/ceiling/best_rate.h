// How a ceiling is timed, on the CPU and on a device.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "core/arguments.h"

namespace lamella::ceiling {

constexpr double shortest_run = 1e-3;  // seconds: starting the work then counts for little

inline double seconds_option(const char* op, py::handle object) {
  const double seconds = real_option(op, "seconds", object);
  if (!(seconds > 0.0 && seconds <= 60.0)) {
    throw ValueError(message(op, ": seconds must lie in (0, 60], got ", seconds));
  }
  return seconds;
}

// The best rate of `amount` per second over runs of run(passes), repeated for so many seconds.
// Whatever else the machine does can only lower a rate.
template <class Run>
double best_rate(double seconds, double amount, const Run& run) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  const Clock::time_point began = Clock::now();
  double best = 0.0;
  std::int64_t passes = 1;
  do {
    const Clock::time_point start = Clock::now();
    run(passes);
    const double duration = elapsed(start);
    if (duration < shortest_run) {
      passes *= 2;
    } else {
      best = std::max(best, amount * static_cast<double>(passes) / duration);
    }
  } while (best == 0.0 || elapsed(began) < seconds);
  return best;
}

}  // namespace lamella::ceiling
