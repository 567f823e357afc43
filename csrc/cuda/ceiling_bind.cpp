#include "core/arguments.h"
#include "core/memory_pool.h"
#include "cuda/array_kernels.h"
#include "cuda/ceiling.h"
#include "cuda/runtime.h"
#include "ops/ceiling/best_rate.h"

namespace lamella::device {
namespace {

using lamella::ceiling::best_rate;
using lamella::ceiling::seconds_option;

double measure_fma_ceiling(py::object seconds_) {
  const char* op = "measure_fma_ceiling";
  const double seconds = seconds_option(op, seconds_);
  const ReleaseGil release;
  constexpr std::int64_t steps = 512;
  const Scratch<float> sums(op, ceiling::fma_threads());
  const auto flops = static_cast<double>(ceiling::fma_flops_per_step() * steps);
  return best_rate(seconds, flops,
                   [&](std::int64_t passes) {
                     ceiling::fma(op, passes * steps, 0.5f, 1.0f, sums.get());
                     synchronize();
                   }) *
         1e-9;
}

// Floats of an array of so many bytes, a multiple of 4.
std::int64_t count_of(const char* op, py::handle bytes_) {
  const std::int64_t bytes = positive_int_option(op, "bytes", bytes_);
  if (bytes < 16) throw ValueError(message(op, ": bytes must be at least 16, got ", bytes));
  return bytes / 16 * 4;
}

template <class Pass>
double rate_of(double seconds, double bytes, const Pass& pass) {
  return best_rate(seconds, bytes, [&](std::int64_t passes) {
    for (std::int64_t i = 0; i < passes; ++i) pass();
    synchronize();
  });
}

double measure_read_bandwidth(py::object bytes, py::object seconds_) {
  const char* op = "measure_read_bandwidth";
  const double seconds = seconds_option(op, seconds_);
  const std::int64_t count = count_of(op, bytes);
  const ReleaseGil release;
  const Scratch<float> x(op, count);
  const Scratch<float> sums(op, ceiling::read_threads(count));
  fill(op, count, 1.0f, x.get());
  return rate_of(seconds, 4.0 * static_cast<double>(count),
                 [&] { ceiling::read(op, count, x.get(), sums.get()); }) *
         1e-9;
}

double measure_copy_bandwidth(py::object bytes, py::object seconds_) {
  const char* op = "measure_copy_bandwidth";
  const double seconds = seconds_option(op, seconds_);
  const std::int64_t count = count_of(op, bytes);
  const ReleaseGil release;
  const Scratch<float> x(op, count);
  const Scratch<float> y(op, count);
  fill(op, count, 1.0f, x.get());
  const double moved = 8.0 * static_cast<double>(count);
  const double by_kernel =
      rate_of(seconds / 2, moved, [&] { ceiling::copy(op, count, x.get(), y.get()); });
  const double by_runtime = rate_of(seconds / 2, moved, [&] {
    copy_on_device(y.get(), x.get(), static_cast<std::size_t>(count) * sizeof(float));
  });
  return std::max(by_kernel, by_runtime) * 1e-9;
}

}  // namespace

void bind_ceiling(py::module_& module) {
  module.def("measure_fma_ceiling", &measure_fma_ceiling, py::arg("seconds"),
             "GFLOP/s of fused multiply-adds in registers: the best run in so many seconds.");
  module.def("measure_read_bandwidth", &measure_read_bandwidth, py::arg("bytes"),
             py::arg("seconds"), "GB/s at which an array of so many bytes is read, likewise.");
  module.def("measure_copy_bandwidth", &measure_copy_bandwidth, py::arg("bytes"),
             py::arg("seconds"),
             "GB/s read plus written (twice the copy's size) when an array of so many bytes is "
             "copied, likewise.");
}

}  // namespace lamella::device
