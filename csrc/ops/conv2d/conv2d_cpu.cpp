// Convolution and input gradient as sums over taps: products of the image, read in place through
// row pointers, with panels of the kernel.
//
// Where the window reaches beyond the image, taps are left out rather than zeros multiplied:
// outputs that meet the same taps form a region, and a tile of outputs lies within one.
#include "core/cache.h"
#include "gemm/bias_gradient.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_table_sum.h"
#include "ops/conv2d/conv2d_tap_sum.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

// Outputs a task: enough that each pass over the kernel's panels is used often.
constexpr std::int64_t block_pixels = 384;
constexpr std::int64_t block_floats = 128 << 10;
// Images a task at least, if that much is there: regions at the border have few outputs an image.
constexpr std::int64_t border_images = 6;
// Terms of the reduction between two visits of the result.
constexpr std::int64_t max_terms = 576;

class TapSumRunner {
 public:
  explicit TapSumRunner(const TapSum& s)
      : s_(s),
        vectors_(panel_vectors(s.columns)),
        width_(vectors_ * Float::width),
        panels_(ceil_div(s.columns, width_)),
        terms_(s.terms()),
        chunks_(max_i(1, ceil_div(terms_, max_terms))),
        chunk_terms_(ceil_div(terms_, chunks_)),
        merged_(s.groups == 1 && consecutive(s.w)),
        slots_(s.multiply_adds() < (128 << 10) ? 1 : num_threads()),
        h_ranges_("conv2d", 2 * s.h.count + 1),
        w_ranges_("conv2d", 2 * s.w.count + 1),
        h_count_(cut_ranges(s.h, h_ranges_.get())),
        w_count_(cut_ranges(s.w, w_ranges_.get())) {
    const std::int64_t image = s.h.output * s.w.output;
    const std::int64_t pixels = h_count_ * w_count_ > 1
                                    ? max_i(block_pixels, min_i(border_images * image, 1024))
                                    : block_pixels;
    cut_ = cut_blocks(s.batch, s.h, s.w, s.channels, pixels, block_floats);
    // One image and a wide kernel: the threads share the panels instead, below.
    if (cut_.count >= slots_ || panels_ < slots_) {
      cut_ = cut_evenly(cut_, s.batch, s.h.output, slots_);
    }
    // More tasks where there are few blocks: the panels are shared out too.
    while (cut_.count * panel_groups_ < 8 && panel_groups_ * 2 <= panels_ &&
           cut_pixels() * terms_ * width_ * panels_ / panel_groups_ > (1 << 18)) {
      panel_groups_ *= 2;
    }
  }

  void run() {
    const std::int64_t pixels = cut_pixels();
    const Scratch<std::int64_t> offsets("conv2d", 2 * pixels * slots_);
    // A run may be cut by the ends of a chunk: at most one more piece on either side.
    const std::int64_t most_segments = s_.h.count * s_.w.count + 2;
    const Scratch<Segment> segments("conv2d", most_segments * slots_);
    // A kernel no wider than a panel is one as it lies. Others are copied once for all tasks, or
    // where few blocks share them by the task that uses them.
    const bool in_place =
        s_.is_panel(width_) && (cut_.count == 1 || is_aligned(s_.kernel.data, width_));
    pack_in_task_ = !in_place && cut_.count <= 2;
    const std::int64_t panel = pack_in_task_ ? chunk_terms_ * width_ : 0;
    const Scratch<float> panels("conv2d", panel * slots_);
    const bool shared = !in_place && !pack_in_task_;
    const Scratch<float> packed("conv2d", shared ? s_.groups * panels_ * width_ * terms_ : 0);
    // Results that are visited once.
    stream_ = chunks_ == 1 && s_.activates_in_tile() && s_.columns % width_ == 0 &&
              can_stream(s_.y.data, s_.y.pixel) && can_stream(s_.y.data, s_.y.row) &&
              outgrows_cache(s_.y.image * s_.batch * 4);
    kernel_ = in_place ? s_.kernel.data : packed.get();
    if (shared) s_.pack_all(width_, slots_, packed.get());
    parallel_for_slots(cut_.count * panel_groups_, slots_, [&](std::int64_t index, int slot) {
      const Block block = block_at(cut_, index / panel_groups_, s_.batch, s_.h.output);
      if (block.rows <= 0) return;
      std::int64_t* const x_offset = offsets.get() + slot * 2 * pixels;
      run_block(block, index % panel_groups_,
                {x_offset, x_offset + pixels, segments.get() + slot * most_segments,
                 panels.get() + slot * panel});
      if (stream_) stream_fence();
    });
  }

 private:
  // A task's own memory.
  struct Work {
    std::int64_t* x_offset;  // of each output: what its first tap reads
    std::int64_t* y_offset;  // of each output
    Segment* segments;
    float* panel;
  };

  // Outputs [begin, end) of the offsets.
  struct Region {
    std::int64_t begin, end;
    Range h, w;
  };

  std::int64_t cut_pixels() const { return cut_.images * cut_.rows * s_.w.output; }

  // body(region) for each region of the block.
  template <class Body>
  void for_each_region(const Block& block, const Body& body) const {
    std::int64_t pixel = 0;
    for (std::int64_t a = 0; a < h_count_; ++a) {
      Range h = h_ranges_.get()[a];
      h.begin = max_i(h.begin, block.row);
      h.end = min_i(h.end, block.row + block.rows);
      if (h.begin >= h.end) continue;
      for (std::int64_t b = 0; b < w_count_; ++b) {
        const Range w = w_ranges_.get()[b];
        const std::int64_t begin = pixel;
        pixel += block.images * (h.end - h.begin) * (w.end - w.begin);
        body(Region{begin, pixel, h, w});
      }
    }
  }

  void run_block(const Block& block, std::int64_t panel_group, const Work& work) const {
    for_each_region(block, [&](const Region& r) { fill_offsets(block, r, work); });
    const std::int64_t panel_begin = panel_group * panels_ / panel_groups_;
    const std::int64_t panel_end = (panel_group + 1) * panels_ / panel_groups_;
    for (std::int64_t group = 0; group < s_.groups; ++group) {
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const std::int64_t begin = chunk * chunk_terms_;
        const std::int64_t end = min_i(terms_, begin + chunk_terms_);
        for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
          run_panel(block, work, group, panel, begin, end);
        }
      }
    }
  }

  void fill_offsets(const Block& block, const Region& r, const Work& work) const {
    const bool reads = r.h.tap_begin < r.h.tap_end && r.w.tap_begin < r.w.tap_end;
    const std::int64_t row = s_.w.input * s_.channels;
    const std::int64_t top = reads ? s_.h.offset[r.h.tap_begin] : 0;
    const std::int64_t left = reads ? s_.w.offset[r.w.tap_begin] : 0;
    std::int64_t pixel = r.begin;
    for (std::int64_t n = block.image; n < block.image + block.images; ++n) {
      for (std::int64_t i = r.h.begin; i < r.h.end; ++i) {
        const std::int64_t x = (n * s_.h.input + i * s_.h.step + top) * row + left * s_.channels;
        const std::int64_t y = n * s_.y.image + i * s_.y.row;
        for (std::int64_t j = r.w.begin; j < r.w.end; ++j, ++pixel) {
          work.x_offset[pixel] = reads ? x + j * s_.w.step * s_.channels : 0;
          work.y_offset[pixel] = y + j * s_.y.pixel;
        }
      }
    }
  }

  // The runs of a region's taps within terms [begin, end); returns their number.
  std::int64_t fill_segments(const Region& r, std::int64_t begin, std::int64_t end,
                             Segment* segments) const {
    std::int64_t count = 0;
    const std::int64_t taps = merged_ ? r.w.tap_end - r.w.tap_begin : 1;
    for (std::int64_t p = r.h.tap_begin; p < r.h.tap_end; ++p) {
      const std::int64_t row =
          (s_.h.offset[p] - s_.h.offset[r.h.tap_begin]) * s_.w.input * s_.channels;
      for (std::int64_t q = r.w.tap_begin; q < r.w.tap_end; q += taps) {
        const std::int64_t first = (p * s_.w.count + q) * s_.run;
        const std::int64_t from = max_i(begin, first);
        const std::int64_t to = min_i(end, first + taps * s_.run);
        if (from >= to) continue;
        const std::int64_t tap = (s_.w.offset[q] - s_.w.offset[r.w.tap_begin]) * s_.channels;
        segments[count++] = {row + tap + from - first, (from - begin) * width_, to - from};
      }
    }
    return count;
  }

  void run_panel(const Block& block, const Work& work, std::int64_t group, std::int64_t panel,
                 std::int64_t begin, std::int64_t end) const {
    const std::int64_t j = panel * width_;
    const std::int64_t channel = group * s_.columns + j;
    const bool last = end == terms_;
    Tile t;
    t.a_step = 1;
    t.columns = min_i(width_, s_.columns - j);
    t.b_stride = width_;
    if (pack_in_task_) {
      s_.pack(group, j, begin, end, width_, work.panel);
      t.b = work.panel;
    } else {
      t.b = kernel_ + ((group * panels_ + panel) * terms_ + begin) * width_;
    }
    t.bias = s_.bias == nullptr ? nullptr : s_.bias + channel;
    t.accumulate = begin > 0;
    t.relu = last && s_.relu_in_tile();
    t.stream = stream_;
    t.segments = work.segments;
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    t.a = a;
    t.c = c;
    const int vectors = tile_vectors(t.columns);
    for_each_region(block, [&](const Region& region) {
      t.segment_count = fill_segments(region, begin, end, work.segments);
      const std::int64_t outputs = region.end - region.begin;
      const std::int64_t tile = ceil_div(outputs, ceil_div(outputs, full_tile_rows(vectors)));
      for (std::int64_t pixel = region.begin; pixel < region.end; pixel += tile) {
        const std::int64_t rows = min_i(tile, region.end - pixel);
        for (std::int64_t r = 0; r < rows; ++r) {
          a[r] = s_.x + group * s_.run + work.x_offset[pixel + r];
          c[r] = s_.y.result() + work.y_offset[pixel + r] + channel;
        }
        tile_kernel(Form::rows, rows, vectors)(t);
        if (!last) continue;
        for (std::int64_t r = 0; r < rows; ++r) {
          s_.activate(work.y_offset[pixel + r] + channel, t.columns);
        }
      }
    });
  }

  TapSum s_;
  int vectors_;
  std::int64_t width_, panels_;
  std::int64_t terms_, chunks_, chunk_terms_;
  bool merged_;  // the taps of a row are one run of the reduction
  int slots_;
  Scratch<Range> h_ranges_, w_ranges_;
  std::int64_t h_count_, w_count_;
  Blocks cut_ = {};
  std::int64_t panel_groups_ = 1;
  bool pack_in_task_ = false;
  bool stream_ = false;
  const float* kernel_ = nullptr;
};

// Whether there is no infinity and no NaN among n floats: 0 times each of them is 0.
bool all_finite(const float* x, std::int64_t n) {
  Float products = zero();
  std::int64_t i = 0;
  for (; i + Float::width <= n; i += Float::width) products = fma(load(x + i), zero(), products);
  if (i < n) products = fma(load_n(x + i, n - i), zero(), products);
  return !any(is_nan(products));
}

// The zeros that frame an image of few channels must not meet a weight of inf or NaN.
void sum_over_taps(const TapSum& s, const Problem& p) {
  const std::int64_t weights = p.taps() * (p.channels / p.groups) * p.filters;
  if (TableSum::suits(s) &&
      ((s.h.inside() && s.w.inside()) || all_finite(s.kernel.data, weights))) {
    TableSum(s).run();
  } else {
    TapSumRunner(s).run();
  }
}

void correlate(const Problem& p, const float* x, const float* kernel, const conv2d::Output& y) {
  if (p.depthwise()) return depthwise_correlate(p, x, kernel, y);
  const Scratch<std::int64_t> offsets("conv2d", p.height.kernel + p.width.kernel);
  TapSum s;
  s.x = x;
  s.batch = p.batch;
  s.h = forward_axis(p.height, offsets.get());
  s.w = forward_axis(p.width, offsets.get() + p.height.kernel);
  s.channels = p.channels;
  s.groups = p.groups;
  s.run = p.channels / p.groups;
  s.columns = p.filters / p.groups;
  s.bias = y.bias;
  s.activation = y.activation;
  s.y = {y.data, y.pre_activation, p.filters, p.width.output * p.filters,
         p.height.output * p.width.output * p.filters};
  s.kernel = {kernel, p.filters, false, s.run, nullptr, nullptr, 0, 0};
  sum_over_taps(s, p);
}

void input_gradient(const Problem& p, const float* dz, const float* kernel,
                    const conv2d::Output& dx) {
  if (p.depthwise()) return depthwise_input_gradient(p, dz, kernel, dx);
  const std::int64_t channels = p.channels / p.groups;  // of dx a group
  const std::int64_t filters = p.filters / p.groups;
  const Scratch<std::int64_t> offsets("conv2d", 2 * (p.height.kernel + p.width.kernel));
  for_each_phase(p, offsets.get(), [&](const Phase& h, const Phase& w) {
    TapSum s;
    s.x = dz;
    s.batch = p.batch;
    s.h = h.axis;
    s.w = w.axis;
    s.channels = p.filters;
    s.groups = p.groups;
    s.run = filters;
    s.columns = channels;
    s.bias = dx.bias;
    s.activation = dx.activation;
    const std::int64_t row = p.width.input * p.channels;
    const std::int64_t first = h.residue * row + w.residue * p.channels;
    s.y = {dx.data + first, dx.pre_activation == nullptr ? nullptr : dx.pre_activation + first,
           p.width.stride * p.channels, p.height.stride * row, p.height.input * row};
    s.kernel = {kernel, p.filters, true, channels, h.tap, w.tap, p.width.kernel, w.axis.count};
    sum_over_taps(s, p);
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::conv2d::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::correlate, kernel::input_gradient, kernel::kernel_gradient,
                                kernel::bias_gradient};

}  // namespace lamella::conv2d::LAMELLA_ISA
