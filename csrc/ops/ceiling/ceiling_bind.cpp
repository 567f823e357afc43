#include "ops/ceiling/ceiling.h"

#include <algorithm>

#include "core/arguments.h"
#include "core/parallel.h"
#include "ops/ceiling/best_rate.h"

namespace lamella {
namespace {

using ceiling::best_rate;
using ceiling::seconds_option;

double measure_fma_ceiling(py::object seconds_) {
  const char* op = "measure_fma_ceiling";
  const double seconds = seconds_option(op, seconds_);
  const ReleaseGil release;
  const ceiling::Kernels& kernels = ceiling::kernels();
  const int threads = num_threads();
  constexpr std::int64_t steps = 4096;
  const Scratch<float> sums(op, threads * ceiling::sum_stride);
  const double flops = static_cast<double>(kernels.fma_flops_per_step * steps * threads);
  return best_rate(seconds, flops,
                   [&](std::int64_t passes) {
                     kernels.fma(threads, passes * steps, 0.5f, 1.0f, sums.get());
                   }) *
         1e-9;
}

// Floats of one thread's part of an array of so many bytes, a multiple of 64.
std::int64_t part_of(const char* op, py::handle bytes_) {
  const std::int64_t bytes = positive_int_option(op, "bytes", bytes_);
  const std::int64_t part = bytes / 4 / num_threads() / 64 * 64;
  if (part == 0) {
    throw ValueError(message(op, ": bytes must be at least 256 for each of the ", num_threads(),
                             " threads, got ", bytes));
  }
  return part;
}

double measure_read_bandwidth(py::object bytes, py::object seconds_) {
  const char* op = "measure_read_bandwidth";
  const double seconds = seconds_option(op, seconds_);
  const std::int64_t part = part_of(op, bytes);
  const ReleaseGil release;
  const int threads = num_threads();
  const Scratch<float> x(op, part * threads);
  const Scratch<float> sums(op, threads * ceiling::sum_stride);
  std::fill_n(x.get(), part * threads, 1.0f);
  return best_rate(seconds, 4.0 * static_cast<double>(part * threads),
                   [&](std::int64_t passes) {
                     ceiling::kernels().read(threads, part, passes, x.get(), sums.get());
                   }) *
         1e-9;
}

double measure_copy_bandwidth(py::object bytes, py::object seconds_) {
  const char* op = "measure_copy_bandwidth";
  const double seconds = seconds_option(op, seconds_);
  const std::int64_t part = part_of(op, bytes);
  const ReleaseGil release;
  const int threads = num_threads();
  const Scratch<float> x(op, part * threads);
  const Scratch<float> y(op, part * threads);
  std::fill_n(x.get(), part * threads, 1.0f);
  std::fill_n(y.get(), part * threads, 0.0f);
  const double moved = 8.0 * static_cast<double>(part * threads);
  const auto rate = [&](bool by_library) {
    return best_rate(seconds / 2, moved, [&](std::int64_t passes) {
      ceiling::kernels().copy(threads, part, passes, by_library, x.get(), y.get());
    });
  };
  return std::max(rate(false), rate(true)) * 1e-9;
}

}  // namespace

void bind_ceiling(py::module_& module) {
  module.def("measure_fma_ceiling", &measure_fma_ceiling, py::arg("seconds"),
             "GFLOP/s of fused multiply-adds in registers: the best run in so many seconds, with "
             "all threads and the instruction set in use.");
  module.def("measure_read_bandwidth", &measure_read_bandwidth, py::arg("bytes"),
             py::arg("seconds"), "GB/s at which an array of so many bytes is read, likewise.");
  module.def("measure_copy_bandwidth", &measure_copy_bandwidth, py::arg("bytes"),
             py::arg("seconds"),
             "GB/s read plus written (twice the copy's size) when an array of so many bytes is "
             "copied, likewise.");
}

}  // namespace lamella
