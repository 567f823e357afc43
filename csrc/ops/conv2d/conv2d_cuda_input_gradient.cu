// The input gradient, which is the transposed convolution too: a matrix product for each phase of
// the stride, whose left operand is gathered from dz. Every element of dx is written once; nothing
// is scattered. The FMA rate decides, as in the convolution itself.
#include "cuda/gemm.cuh"
#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"
#include "ops/conv2d/conv2d_cuda_axes.h"
#include "ops/conv2d/conv2d_cuda_finish.cuh"
#include "ops/conv2d/conv2d_cuda_parts.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr const char* op = "conv2d";

// Windows that tile the image: a pixel of dz gives its window and no other, and one product makes
// the windows of all pixels, (pixels) by (taps, channels).
bool windows_tile(const conv2d::Problem& p) {
  const auto tiles = [](const WindowAxis& a) {
    return a.kernel == a.stride && a.dilation == 1 && a.pad_before == 0 &&
           a.input == a.output * a.stride;
  };
  return p.groups == 1 && p.taps() > 1 && tiles(p.height) && tiles(p.width) && fits_gather(p);
}

// Element (row, column): row is a pixel of dz, column is (tap, channel).
struct WindowFinish {
  static constexpr bool unrolled = false;

  conv2d::Output dx;
  Divisor image_rows, row_rows;  // pixels of dz
  Divisor channels, row_taps;
  int column_taps;
  bool vectors;  // 4 columns are 4 channels of one tap, in 16 bytes

  template <int width>
  __device__ void operator()(std::int64_t, std::int64_t row, std::int64_t column, int count,
                             float (&values)[width]) const {
    const std::int64_t n = image_rows.divide(row);
    const std::int64_t inner = row - n * image_rows.value();
    const std::int64_t u = row_rows.divide(inner);
    const std::int64_t v = inner - u * row_rows.value();
    const std::int64_t height = image_rows.value() / row_rows.value() * column_taps;
    const std::int64_t line = n * height + u * column_taps;
    if (vectors) {
      write_part(line, v, column, count, values);
    } else {
#pragma unroll
      for (int i = 0; i < width; ++i) {
        float one[1] = {values[i]};
        if (i < count) write_part(line, v, column + i, 1, one);
      }
    }
  }

 private:
  template <int width>
  __device__ void write_part(std::int64_t line, std::int64_t v, std::int64_t column, int count,
                             float (&values)[width]) const {
    const std::int64_t tap = channels.divide(column);
    const std::int64_t channel = column - tap * channels.value();
    const std::int64_t p = row_taps.divide(tap);
    const std::int64_t q = tap - p * row_taps.value();
    const std::int64_t pixel = ((line + p) * row_rows.value() + v) * row_taps.value() + q;
    const std::int64_t at = pixel * channels.value() + channel;
    gemm::add_bias(dx.bias, channel, count, values);
    if (dx.pre_activation != nullptr) gemm::write(dx.pre_activation + at, values, count, vectors);
    activate(dx.activation, values);
    gemm::write(dx.data + at, values, count, vectors);
  }
};

// The product's columns are the channels of a convolution with one tap, whose kernel is the same
// array.
void tile_windows(const conv2d::Problem& p, const float* dz, const float* kernel,
                  const conv2d::Output& dx) {
  const auto one_tap = [](const WindowAxis& a) {
    return WindowAxis{a.output, 1, 1, 1, 0, 0, a.output};
  };
  const conv2d::Problem pixelwise{
      p.batch, one_tap(p.height), one_tap(p.width), p.taps() * p.channels, p.filters, 1};
  const GatherAxes axes = forward_axes(pixelwise);
  const Gather<float> pixels(dz, axes, p.batch, p.filters, 1);
  const TurnedKernel<float> weights(kernel, pixelwise, axes);
  const WindowFinish finish{dx,
                            Divisor(p.height.output * p.width.output),
                            Divisor(p.width.output),
                            Divisor(p.channels),
                            Divisor(p.width.kernel),
                            static_cast<int>(p.height.kernel),
                            p.channels % 4 == 0 && aligned_for_vectors(dx.data, dx.pre_activation)};
  gemm::product(ConvolutionTiles{}, op, {pixels.rows, pixelwise.channels, p.filters}, pixels,
                weights, finish);
}

bool is_plain(const conv2d::Output& dx) {
  return dx.bias == nullptr && dx.pre_activation == nullptr && dx.activation.kind == Kind::linear;
}

class Phases {
 public:
  Phases(const conv2d::Problem& p, const float* dz, const float* kernel, const conv2d::Output& dx)
      : p_(p), dz_(dz), kernel_(kernel), dx_(dx), direct_{DirectProblem(p), dz, kernel} {}

  void run() const {
    const std::int64_t size = p_.batch * p_.height.input * p_.width.input * p_.channels;
    const std::int64_t down = smaller(p_.height.stride, p_.height.input);
    const std::int64_t right = smaller(p_.width.stride, p_.width.input);
    bool fits = fits_gather(p_) && down * right <= most_phases;
    bool all_met = true;
    if (fits) {
      for_each(down, right, [&](const GatherAxes& axes) {
        fits &= PackedPlaces(axes).fit;
        all_met &= axes.slots() > 0;
      });
    }
    if (!fits) return launch(op, elements(size, 1), sum_directly<DirectInput>, direct_, dx_);
    // Positions that no window holds.
    if (!all_met && is_plain(dx_)) fill_bytes(dx_.data, 0, static_cast<std::size_t>(size) * 4);
    for_each(down, right, [&](const GatherAxes& axes) {
      if (axes.slots() > 0 || !is_plain(dx_)) run_phase(axes);
    });
  }

 private:
  // Launches, each of a product that has the stride's square less to do.
  static constexpr std::int64_t most_phases = 1024;

  template <class Body>
  void for_each(std::int64_t down, std::int64_t right, const Body& body) const {
    for (std::int64_t a = 0; a < down; ++a) {
      for (std::int64_t b = 0; b < right; ++b) {
        body(GatherAxes{phase_axis(p_.height, a), phase_axis(p_.width, b)});
      }
    }
  }

  // Whether some slot of some position lies outside dz.
  static bool is_padded(const GatherAxis& a) {
    const int last_slot = (a.slots - 1) * a.delta;  // delta is negative
    return a.first + last_slot < 0 || a.first + a.results - 1 >= a.size;
  }

  void run_phase(const GatherAxes& axes) const {
    const std::int64_t group_channels = p_.channels / p_.groups;
    const bool vectors =
        group_channels % 4 == 0 && aligned_for_vectors(dx_.data, dx_.pre_activation);
    const Gather<float> image(dz_, axes, p_.batch, p_.filters, p_.groups);
    const TurnedKernel<float> weights(kernel_, p_, axes);
    const bool padded = is_padded(axes.h) || is_padded(axes.w);
    const ConvolutionFinish finish(dx_, direct_, axes, p_.groups, padded, vectors);
    gemm::product(ConvolutionTiles{}, op, {image.rows, group_channels, image.depth(), p_.groups},
                  image, weights, finish);
  }

  const conv2d::Problem& p_;
  const float* dz_;
  const float* kernel_;
  const conv2d::Output& dx_;
  DirectInput direct_;
};

}  // namespace

void input_gradient(const conv2d::Problem& p, const float* dz, const float* kernel,
                    const conv2d::Output& dx) {
  if (p.batch == 0) return;
  if (p.depthwise()) return depthwise_input_gradient(p, dz, kernel, dx);
  if (is_product(p) && p.groups == 1 && is_plain(dx)) {
    const std::int64_t pixels = p.batch * p.height.output * p.width.output;
    const gemm::Strided<float, false> rows{dz, {}, pixels, p.filters, p.filters, false};
    const gemm::Strided<float, false> weights{kernel, {}, p.channels, p.filters, p.filters, false};
    const bool vectors = p.channels % 4 == 0 && aligned_for_vectors(dx.data);
    const gemm::Store finish{dx.data, {}, p.channels, vectors, false, nullptr};
    return gemm::product(ConvolutionTiles{}, op, {pixels, p.channels, p.filters}, rows, weights,
                         finish);
  }
  if (windows_tile(p)) return tile_windows(p, dz, kernel, dx);
  Phases(p, dz, kernel, dx).run();
}

}  // namespace lamella::LAMELLA_ISA
