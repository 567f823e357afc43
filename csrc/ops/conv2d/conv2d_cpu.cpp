// Convolution and input gradient as sums over taps: products of the image, read in place through
// row pointers, with panels of the kernel.
#include "core/memory_pool.h"
#include "gemm/bias_gradient.h"
#include "gemm/gemm.h"
#include "gemm/tile.h"
#include "ops/conv2d/conv2d_few_channels.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

// Outputs a task: enough that each pass over the kernel's panels is used often.
constexpr std::int64_t block_pixels = 384;
constexpr std::int64_t block_floats = 128 << 10;
// Terms of the reduction between two visits of the result.
constexpr std::int64_t max_terms = 576;
// Runs shorter than this are read through a table of offsets instead of segment by segment.
constexpr std::int64_t short_run = 16;
constexpr std::int64_t max_table = 512;

// Where the results of one sum over taps lie.
struct Target {
  float* data;
  float* pre_activation;  // same layout, or null
  std::int64_t pixel, row, image;
};

// The kernel as the matrix of a sum over taps: element (term, column) of a group, where a term is a
// tap and a channel of x.
struct TapKernel {
  const float* data;     // (KH, KW, C/G, F)
  std::int64_t filters;  // F
  // Forward the terms lie one after the other and a column is a filter. For the input gradient a
  // column is a channel, the terms of a tap are filters, and the taps come in the phase's order.
  bool transposed;
  std::int64_t channels;  // C/G
  const std::int64_t* h_tap;
  const std::int64_t* w_tap;
  std::int64_t kernel_width, w_count;

  // Terms [begin, end) of `columns` columns from j, as a panel of the given width.
  void pack(std::int64_t group, std::int64_t run, std::int64_t j, std::int64_t columns,
            std::int64_t begin, std::int64_t end, std::int64_t width, float* to) const {
    if (!transposed) {
      return pack_panel({data + begin * filters, filters, 1}, end - begin, group * columns + j,
                        min_i(width, columns - j), width, to);
    }
    for (std::int64_t k = begin; k < end;) {
      const std::int64_t tap = k / run;
      const std::int64_t length = min_i((tap + 1) * run, end) - k;
      const std::int64_t at = h_tap[tap / w_count] * kernel_width + w_tap[tap % w_count];
      const float* from = data + at * channels * filters + group * run + k % run;
      pack_panel({from, 1, filters}, length, j, min_i(width, columns - j), width, to);
      to += length * width;
      k += length;
    }
  }
};

struct TapSum {
  const float* x;
  std::int64_t batch;
  TapAxis h, w;
  std::int64_t channels;  // of x
  std::int64_t groups;
  std::int64_t run;      // channels of x a group
  std::int64_t columns;  // channels of the result a group
  TapKernel kernel;
  const float* bias;
  Activation activation;
  Target y;
};

class TapSumRunner {
 public:
  explicit TapSumRunner(const TapSum& s) : s_(s), terms_(s.h.count * s.w.count * s.run) {
    merged_ = s.groups == 1 && consecutive(s.w);
    run_ = merged_ ? s.w.count * s.run : s.run;
    runs_ = merged_ ? s.h.count : s.h.count * s.w.count;
    const std::int64_t x_row = max_i(s.w.input, s.w.span(0, s.w.output)) * s.channels;
    use_table_ =
        run_ < short_run && terms_ <= max_table && s.h.span(0, 1) * x_row < (std::int64_t{1} << 31);
    // The kernels for few channels are at most two vectors wide.
    vectors_ = use_table_ ? (s.columns <= Float::width ? 1 : 2) : panel_vectors(s.columns);
    width_ = vectors_ * Float::width;
    panels_ = ceil_div(s.columns, width_);
    cut_ = cut_blocks(s.batch, s.h, s.w, s.channels, block_pixels, block_floats);
    // More tasks where there are few blocks: the panels are shared out too.
    panel_groups_ = 1;
    while (cut_.count * panel_groups_ < 8 && panel_groups_ * 2 <= panels_ &&
           cut_pixels() * terms_ * width_ * panels_ / panel_groups_ > (1 << 18)) {
      panel_groups_ *= 2;
    }
  }

  void run() {
    const std::int64_t window = window_floats(cut_, s_.h, s_.w, s_.channels);
    const std::int64_t pixels = cut_pixels();
    chunks_ = use_table_ ? 1 : max_i(1, ceil_div(terms_, max_terms));
    chunk_terms_ = ceil_div(terms_, chunks_);
    const std::int64_t tasks = cut_.count * panel_groups_;
    const bool serial =
        s_.batch * s_.h.output * s_.w.output * terms_ * s_.columns * s_.groups < (128 << 10);
    const int slots = serial ? 1 : num_threads();
    const Scratch<float> windows("conv2d", window * slots);
    const Scratch<std::int64_t> offsets("conv2d", 2 * pixels * slots);
    // A run may be cut by the end of a chunk: at most one more piece on either side.
    const Scratch<Segment> segments("conv2d", (runs_ + 2) * slots);
    const Scratch<std::int32_t> table("conv2d", use_table_ ? terms_ * slots : 0);
    // A kernel no wider than a panel is one as it lies. Others are copied once for all tasks, or
    // where few blocks share them by the task that uses them.
    const bool in_place = !s_.kernel.transposed && s_.groups == 1 && s_.columns == width_ &&
                          (is_aligned(s_.kernel.data, width_) || cut_.count == 1);
    pack_in_task_ = !in_place && cut_.count <= 2;
    const std::int64_t panel = pack_in_task_ ? chunk_terms_ * width_ : 0;
    const Scratch<float> panels("conv2d", panel * slots);
    const bool shared = !in_place && !pack_in_task_;
    const Scratch<float> packed("conv2d", shared ? s_.groups * panels_ * width_ * terms_ : 0);
    kernel_ = in_place ? s_.kernel.data : packed.get();
    if (shared) pack_kernel(packed.get(), slots);
    parallel_for_slots(tasks, slots, [&](std::int64_t index, int slot) {
      const Block block = block_at(cut_, index / panel_groups_, s_.batch, s_.h.output);
      if (block.rows <= 0) return;
      const Work work = {
          open_window(s_.x, s_.h, s_.w, s_.channels, block, windows.get() + slot * window),
          offsets.get() + slot * 2 * pixels,
          offsets.get() + slot * 2 * pixels + pixels,
          block.images * block.rows * s_.w.output,
          segments.get() + slot * (runs_ + 2),
          table.get() + slot * terms_,
          panels.get() + slot * panel};
      run_block(block, work, index % panel_groups_);
    });
  }

 private:
  struct Work {
    Window window;
    std::int64_t* x_offset;  // of each pixel of the block, in the window
    std::int64_t* y_offset;  // in the result
    std::int64_t pixels;
    Segment* segments;
    std::int32_t* table;
    float* panel;
  };

  // [group][panel][term][width]
  void pack_kernel(float* packed, int slots) const {
    const std::int64_t chunk = max_i(16, (16 << 10) / width_);
    const std::int64_t chunks = ceil_div(terms_, chunk);
    parallel_for_slots(s_.groups * panels_ * chunks, slots, [&](std::int64_t i, int) {
      const std::int64_t panel = i / chunks;
      const std::int64_t begin = i % chunks * chunk;
      s_.kernel.pack(panel / panels_, s_.run, panel % panels_ * width_, s_.columns, begin,
                     min_i(terms_, begin + chunk), width_,
                     packed + (panel * terms_ + begin) * width_);
    });
  }

  std::int64_t cut_pixels() const { return cut_.images * cut_.rows * s_.w.output; }

  void run_block(const Block& block, const Work& work, std::int64_t panel_group) const {
    std::int64_t pixel = 0;
    for (std::int64_t n = 0; n < block.images; ++n) {
      for (std::int64_t i = 0; i < block.rows; ++i) {
        const std::int64_t x = n * work.window.image + i * s_.h.step * work.window.row;
        const std::int64_t y = (block.image + n) * s_.y.image + (block.row + i) * s_.y.row;
        for (std::int64_t j = 0; j < s_.w.output; ++j, ++pixel) {
          work.x_offset[pixel] = x + j * s_.w.step * work.window.pixel;
          work.y_offset[pixel] = y + j * s_.y.pixel;
        }
      }
    }
    if (use_table_) fill_table(work);
    const std::int64_t panel_begin = panel_group * panels_ / panel_groups_;
    const std::int64_t panel_end = (panel_group + 1) * panels_ / panel_groups_;
    for (std::int64_t group = 0; group < s_.groups; ++group) {
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const std::int64_t begin = chunk * chunk_terms_;
        const std::int64_t end = min_i(terms_, begin + chunk_terms_);
        const std::int64_t segments = fill_segments(work, begin, end);
        for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
          run_panel(work, group, panel, begin, end, segments);
        }
      }
    }
  }

  std::int64_t run_offset(const Work& work, std::int64_t r) const {
    const std::int64_t p = merged_ ? r : r / s_.w.count;
    const std::int64_t q = merged_ ? 0 : r % s_.w.count;
    return (s_.h.offset[p] - s_.h.first()) * work.window.row +
           (s_.w.offset[q] - s_.w.first()) * work.window.pixel;
  }

  void fill_table(const Work& work) const {
    for (std::int64_t k = 0; k < terms_; ++k) {
      work.table[k] = static_cast<std::int32_t>(run_offset(work, k / run_) + k % run_);
    }
  }

  // The pieces of the runs that lie in terms [begin, end); returns their number.
  std::int64_t fill_segments(const Work& work, std::int64_t begin, std::int64_t end) const {
    if (use_table_) return 0;
    std::int64_t count = 0;
    for (std::int64_t k = begin; k < end;) {
      const std::int64_t r = k / run_;
      const std::int64_t length = min_i((r + 1) * run_, end) - k;
      work.segments[count++] = {run_offset(work, r) + k % run_, (k - begin) * width_, length};
      k += length;
    }
    return count;
  }

  void run_panel(const Work& work, std::int64_t group, std::int64_t panel, std::int64_t begin,
                 std::int64_t end, std::int64_t segments) const {
    const bool first = begin == 0;
    const bool last = end == terms_;
    const std::int64_t j = panel * width_;
    const std::int64_t channel = group * s_.columns + j;
    float* const result = s_.y.pre_activation != nullptr ? s_.y.pre_activation : s_.y.data;
    const bool relu = s_.activation.kind == Kind::relu && result == s_.y.data;
    const bool activate_after = last && !relu && s_.activation.kind != Kind::linear;
    Tile t;
    t.a_step = 1;
    t.columns = min_i(width_, s_.columns - j);
    t.b_stride = width_;
    if (pack_in_task_) {
      s_.kernel.pack(group, s_.run, j, s_.columns, begin, end, width_, work.panel);
      t.b = work.panel;
    } else {
      t.b = kernel_ + ((group * panels_ + panel) * terms_ + begin) * width_;
    }
    t.bias = s_.bias == nullptr ? nullptr : s_.bias + channel;
    t.accumulate = !first;
    t.relu = relu && last;
    if (use_table_) {
      run_table(work, t, group, channel, result, activate_after);
      return;
    }
    t.segments = work.segments;
    t.segment_count = segments;
    const int vectors = tile_vectors(t.columns);
    const std::int64_t tile = ceil_div(work.pixels, ceil_div(work.pixels, full_tile_rows(vectors)));
    const TileKernel kernel = tile_kernel(Form::rows, tile, vectors);
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    t.a = a;
    t.c = c;
    for (std::int64_t pixel = 0; pixel < work.pixels; pixel += tile) {
      const std::int64_t rows = min_i(tile, work.pixels - pixel);
      for (std::int64_t r = 0; r < rows; ++r) {
        a[r] = work.window.data + group * s_.run + work.x_offset[pixel + r];
        c[r] = result + work.y_offset[pixel + r] + channel;
      }
      (rows == tile ? kernel : tile_kernel(Form::rows, rows, vectors))(t);
      if (activate_after) activate_pixels(work, pixel, rows, channel, t.columns, result);
    }
  }

  void run_table(const Work& work, const Tile& t, std::int64_t group, std::int64_t channel,
                 float* result, bool activate_after) const {
    TableRow row;
    row.x_step = s_.w.step * work.window.pixel;
    row.table = work.table;
    row.terms = terms_;
    row.b = t.b;
    row.bias = t.bias;
    row.relu = t.relu;
    row.y_step = s_.y.pixel;
    row.outputs = s_.w.output;
    row.columns = t.columns;
    for (std::int64_t pixel = 0; pixel < work.pixels; pixel += s_.w.output) {
      row.x = work.window.data + group * s_.run + work.x_offset[pixel];
      row.y = result + work.y_offset[pixel] + channel;
      // The panel's layout has vectors_ to a term, also where the last panel fills only one.
      if (vectors_ == 1) {
        table_row<1>(row);
      } else {
        table_row<2>(row);
      }
      if (activate_after) {
        activate_pixels(work, pixel, s_.w.output, channel, t.columns, result);
      }
    }
  }

  // From the pre-activation, or in place, for pixels whose tile is still in cache.
  void activate_pixels(const Work& work, std::int64_t begin, std::int64_t count,
                       std::int64_t channel, std::int64_t columns, const float* result) const {
    for (std::int64_t r = begin; r < begin + count; ++r) {
      const std::int64_t at = work.y_offset[r] + channel;
      if (result != s_.y.data) {
        std::memcpy(s_.y.data + at, result + at, static_cast<std::size_t>(columns) * sizeof(float));
      }
      activate_row(s_.activation, s_.y.data + at, columns);
    }
  }

  TapSum s_;
  int vectors_;
  std::int64_t width_, panels_, terms_;
  bool merged_, use_table_;
  std::int64_t run_, runs_;
  std::int64_t chunks_ = 1, chunk_terms_ = 0;
  Blocks cut_;
  std::int64_t panel_groups_;
  bool pack_in_task_ = false;
  const float* kernel_ = nullptr;
};

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
  TapSumRunner(s).run();
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
    TapSumRunner(s).run();
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::conv2d::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::correlate, kernel::input_gradient, kernel::kernel_gradient,
                                kernel::bias_gradient};

}  // namespace lamella::conv2d::LAMELLA_ISA
