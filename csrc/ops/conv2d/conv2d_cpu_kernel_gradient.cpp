// Kernel gradient: for a tile of kernel rows (one tap, neighbouring channels) and a panel of
// filters, one long reduction over output pixels. The image is read as a transposed matrix: pixel
// after pixel, a tile's channels of each. In the image those lie `channels` floats apart and would
// fall on few cache sets, so a block's image is first copied tile by tile,
// [tile][row][column][channel] (one copy serves all taps and filters). With few channels a tile
// spans taps and reads the image itself through one pointer a row.
#include "core/memory_pool.h"
#include "gemm/bias_gradient.h"
#include "gemm/gemm.h"
#include "gemm/tile.h"
#include "ops/conv2d/conv2d_output_gradient.h"
#include "ops/conv2d/conv2d_partial.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

constexpr std::int64_t block_pixels = 256;
constexpr std::int64_t block_floats = 128 << 10;
// With fewer channels the rows of a tile get a pointer each.
constexpr std::int64_t fewest_channels = 8;
// dz with more filters is copied into panels: rows far apart fall on the same cache sets.
constexpr std::int64_t most_filters_in_place = 32;

class KernelGradient {
 public:
  KernelGradient(const Problem& p, const float* x, const conv2d::OutputGradient& g,
                 const TapAxis& h, const TapAxis& w)
      : p_(p),
        x_(x),
        g_(g),
        h_(h),
        w_(w),
        channels_(p.channels / p.groups),
        filters_(p.filters / p.groups) {
    terms_ = p.taps() * channels_;
    gather_ = channels_ < fewest_channels;
    const std::int64_t tiled = gather_ ? terms_ : channels_;
    const std::int64_t vectors = min_i(tile_vectors(filters_), 2);
    tile_rows_ = ceil_div(tiled, ceil_div(tiled, full_tile_rows(vectors)));
    channel_tiles_ = ceil_div(channels_, tile_rows_);
    tiles_ = gather_ ? ceil_div(terms_, tile_rows_) : channel_tiles_ * p.taps();
    width_ = vectors * Float::width;
    panels_ = ceil_div(filters_, width_);
    cut_ = cut_blocks(p.batch, h, w, p.channels, block_pixels, block_floats);
  }

  void run(const conv2d::KernelGradients& out) {
    const std::int64_t size = terms_ * p_.filters;
    dz_ = out.dz;
    pack_dz_ = filters_ % Float::width != 0 || p_.filters > most_filters_in_place ||
               g_.activation.kind != Kind::linear || out.dbias != nullptr;
    const PartialSums partial(cut_.count, size, out.dkernel);
    // A few floats a filter: summed by whoever reads dz, then over the partial sums in order.
    const Scratch<float> bias("conv2d", out.dbias != nullptr ? partial.count * p_.filters : 0);
    zero_fill(bias.get(), out.dbias != nullptr ? partial.count * p_.filters : 0);
    const std::int64_t work = p_.batch * h_.output * w_.output * size;
    // More tasks than partial sums: the tiles are shared out too.
    const std::int64_t parts = work < (256 << 10) ? 1 : min_i(tiles_, max_i(1, 8 / partial.count));
    const std::int64_t window =
        gather_ ? window_floats(cut_, h_, w_, p_.channels)
                : channel_tiles_ * tile_floats(cut_.images, h_.span(0, cut_.rows));
    const std::int64_t pixels = cut_.images * cut_.rows * w_.output;
    const std::int64_t packed = pack_dz_ ? pixels * panels_ * width_ : 0;
    const std::int64_t segments = cut_.images * cut_.rows;
    const int slots = work < (128 << 10) ? 1 : num_threads();
    const Scratch<float> windows("conv2d", window * slots);
    const Scratch<float> panels("conv2d", packed * slots);
    const Scratch<Segment> rows("conv2d", segments * slots);
    parallel_for_slots(partial.count * parts, slots, [&](std::int64_t index, int slot) {
      const std::int64_t sum = index / parts;
      const std::int64_t tile_begin = index % parts * tiles_ / parts;
      const std::int64_t tile_end = (index % parts + 1) * tiles_ / parts;
      bool first = true;
      for (std::int64_t b = partial.begin(sum); b < partial.begin(sum + 1); ++b) {
        const Block block = block_at(cut_, b, p_.batch, h_.output);
        if (block.rows <= 0) continue;
        float* const bias_sum = out.dbias != nullptr ? bias.get() + sum * p_.filters : nullptr;
        add_block(block, windows.get() + slot * window, panels.get() + slot * packed,
                  rows.get() + slot * segments, tile_begin, tile_end, first, partial.data(sum),
                  bias_sum);
        first = false;
      }
    });
    partial.reduce();
    if (out.dbias != nullptr) {
      column_sums(bias.get(), partial.count, p_.filters, p_.filters, out.dbias);
    }
  }

 private:
  // Of one tile's copy. A pixel is written tile after tile: they must not be multiples of a page
  // apart, or they all fall on the same cache set.
  std::int64_t tile_floats(std::int64_t images, std::int64_t rows) const {
    return images * rows * row_span() * tile_rows_ + 16;
  }

  // Columns of the image that a row of outputs reads.
  std::int64_t row_span() const { return w_.span(0, w_.output); }

  void add_block(const Block& block, float* copy, float* packed, Segment* segments,
                 std::int64_t tile_begin, std::int64_t tile_end, bool first, float* sum,
                 float* bias_sum) const {
    const std::int64_t pixels = block.images * block.rows * w_.output;
    const std::int64_t at = (block.image * h_.output + block.row) * w_.output * p_.filters;
    // Of the tasks that share a block the first one gives dz and its sums.
    const bool gives = tile_begin == 0;
    Window window;
    if (gather_) window = open_window(x_, h_, w_, p_.channels, block, copy);
    for (std::int64_t group = 0; group < p_.groups; ++group) {
      if (!gather_) {
        window =
            copy_tiles(block, group, tile_begin / p_.taps(), ceil_div(tile_end, p_.taps()), copy);
      }
      const std::int64_t step = w_.step * window.pixel;
      const std::int64_t count =
          fill_segments(block, window, step, pack_dz_ ? width_ : p_.filters, segments);
      for (std::int64_t panel = 0; panel < panels_; ++panel) {
        const std::int64_t f = group * filters_ + panel * width_;
        Tile t;
        t.a_step = step;
        t.segments = segments;
        t.segment_count = count;
        t.columns = min_i(width_, filters_ - panel * width_);
        t.bias = nullptr;
        t.accumulate = !first;
        t.relu = false;
        t.b = g_.dy + at + f;
        t.b_stride = p_.filters;
        if (pack_dz_) {
          pack_output_gradient(
              g_, at + f, pixels, p_.filters, t.columns, static_cast<int>(width_ / Float::width),
              packed, gives ? dz_ : nullptr, gives && bias_sum != nullptr ? bias_sum + f : nullptr);
          t.b = packed;
          t.b_stride = width_;
        }
        for (std::int64_t i = tile_begin; i < tile_end; ++i) {
          run_tile(t, i, block, group, window, sum + f);
        }
      }
    }
  }

  // One run of the reduction for each output row, or longer ones where rows follow one another.
  std::int64_t fill_segments(const Block& block, const Window& window, std::int64_t step,
                             std::int64_t b_stride, Segment* segments) const {
    std::int64_t count = 0;
    std::int64_t b = 0;
    for (std::int64_t n = 0; n < block.images; ++n) {
      for (std::int64_t i = 0; i < block.rows; ++i, b += w_.output * b_stride) {
        const std::int64_t a = n * window.image + i * h_.step * window.row;
        if (count > 0) {
          Segment& last = segments[count - 1];
          if (last.a + last.length * step == a) {
            last.length += w_.output;
            continue;
          }
        }
        segments[count++] = {a, b, w_.output};
      }
    }
    return count;
  }

  // Tiles [begin, end) of a group's channels for the rows that `block` reads, framed with zeros:
  // [tile][image][row][column][tile_rows_]. The window's strides are those inside one tile.
  Window copy_tiles(const Block& block, std::int64_t group, std::int64_t begin, std::int64_t end,
                    float* copy) const {
    const std::int64_t rows = h_.span(0, block.rows);
    const std::int64_t columns = row_span();
    const std::int64_t tile_floats = this->tile_floats(block.images, rows);
    const std::int64_t top = block.row * h_.step + h_.first();
    const std::int64_t from = max_i(0, -w_.first());
    const std::int64_t to = max_i(from, min_i(columns, w_.input - w_.first()));
    // Pixel by pixel, so that x is read in the order in which it lies.
    for (std::int64_t n = 0; n < block.images; ++n) {
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t a = top + i;
        float* const row = copy + (n * rows + i) * columns * tile_rows_;
        if (a < 0 || a >= h_.input || from >= to) {
          for (std::int64_t tile = begin; tile < end; ++tile) {
            zero_fill(row + tile * tile_floats, columns * tile_rows_);
          }
          continue;
        }
        for (std::int64_t tile = begin; tile < end; ++tile) {
          zero_fill(row + tile * tile_floats, from * tile_rows_);
          zero_fill(row + tile * tile_floats + to * tile_rows_, (columns - to) * tile_rows_);
        }
        const float* x =
            x_ + (((block.image + n) * h_.input + a) * w_.input + w_.first() + from) * p_.channels +
            group * channels_;
        // All tiles but perhaps the last one are equally long: the copy's mask is made once.
        const std::int64_t whole = min_i(end, channels_ / tile_rows_);
        const std::int64_t length = tile_rows_;
        for (std::int64_t j = from; j < to; ++j, x += p_.channels) {
          float* y = row + begin * tile_floats + j * length;
          std::int64_t tile = begin;
          for (; tile < whole; ++tile, y += tile_floats) copy_few(x + tile * length, length, y);
          if (tile < end) copy_few(x + tile * length, channels_ - tile * length, y);
        }
      }
    }
    return {copy, tile_rows_, columns * tile_rows_, rows * columns * tile_rows_};
  }

  static LAMELLA_INLINE void copy_few(const float* from, std::int64_t count, float* to) {
    std::int64_t i = 0;
    if constexpr (max_tile_rows >= Float::width) {
      for (; i + Float::width <= count; i += Float::width) store(to + i, load(from + i));
    }
    if (i < count) store_n(to + i, load_n(from + i, count - i), count - i);
  }

  std::int64_t tap_offset(std::int64_t tap, const Window& window) const {
    return (h_.offset[tap / w_.count] - h_.first()) * window.row +
           (w_.offset[tap % w_.count] - w_.first()) * window.pixel;
  }

  void run_tile(Tile& t, std::int64_t index, const Block& block, std::int64_t group,
                const Window& window, float* sum) const {
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    std::int64_t rows, term;
    if (gather_) {
      term = index * tile_rows_;
      rows = min_i(tile_rows_, terms_ - term);
      for (std::int64_t r = 0; r < rows; ++r) {
        a[r] = window.data + tap_offset((term + r) / channels_, window) + group * channels_ +
               (term + r) % channels_;
      }
    } else {
      // Tile after tile of channels, so that a task's share of tiles needs few of them copied.
      const std::int64_t tile = index / p_.taps();
      const std::int64_t tap = index % p_.taps();
      term = tap * channels_ + tile * tile_rows_;
      rows = min_i(tile_rows_, channels_ - tile * tile_rows_);
      a[0] = window.data + tile * tile_floats(block.images, window.image / window.row) +
             tap_offset(tap, window);
    }
    for (std::int64_t r = 0; r < rows; ++r) c[r] = sum + (term + r) * p_.filters;
    t.a = a;
    t.c = c;
    tile_kernel(gather_ ? Form::gather : Form::columns, rows, tile_vectors(t.columns))(t);
  }

  Problem p_;
  const float* x_;
  conv2d::OutputGradient g_;
  float* dz_ = nullptr;
  TapAxis h_, w_;
  std::int64_t channels_, filters_;  // a group
  std::int64_t terms_, tile_rows_, channel_tiles_, tiles_;
  std::int64_t width_, panels_;
  bool gather_, pack_dz_;
  Blocks cut_;
};

// In separate passes.
void depthwise_gradients(const Problem& p, const float* x, const conv2d::OutputGradient& g,
                         const conv2d::KernelGradients& out) {
  const std::int64_t rows = p.batch * p.height.output * p.width.output;
  const bool linear = g.activation.kind == Kind::linear;
  const Scratch<float> scratch("conv2d", linear || out.dz != nullptr ? 0 : rows * p.filters);
  float* const own = out.dz != nullptr ? out.dz : scratch.get();
  if (!linear) {
    activation::LAMELLA_ISA::kernels.backward_fused(g.activation, rows * p.filters, g.dy, g.saved, own);
  }
  const float* const dz = linear ? g.dy : own;
  depthwise_kernel_gradient(p, x, dz, out.dkernel);
  if (out.dbias != nullptr) bias_gradient(dz, rows, p.filters, out.dbias);
}

}  // namespace

void kernel_gradient(const Problem& p, const float* x, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out) {
  if (p.depthwise()) return depthwise_gradients(p, x, g, out);
  if (p.batch == 0) {
    zero_fill(out.dbias, out.dbias != nullptr ? p.filters : 0);
    return zero_fill(out.dkernel, p.taps() * p.channels / p.groups * p.filters);
  }
  const Scratch<std::int64_t> offsets("conv2d", p.height.kernel + p.width.kernel);
  KernelGradient(p, x, g, forward_axis(p.height, offsets.get()),
                 forward_axis(p.width, offsets.get() + p.height.kernel))
      .run(out);
}

}  // namespace lamella::LAMELLA_ISA
