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
#include "ops/conv2d/conv2d_gradient_tile.h"
#include "ops/conv2d/conv2d_output_gradient.h"
#include "ops/conv2d/conv2d_partial.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/read_ahead.h"
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
// Of x and dz in a block with a single tap, where reading them is much of the work.
constexpr std::int64_t one_tap_floats = 80 << 10;
// Where dkernel outgrows L2 it is cut rather than visited block after block.
constexpr std::int64_t large_product = 128 << 10;
// Floats of panels made at a time, over the number of taps: dz is read in longer pieces where that
// is much of the work, and the panels stay in L2 beside the tiles of the image.
constexpr std::int64_t packed_floats = 64 << 10;
// A sum that would come from memory block after block is visited once, if dz fits L2 as a whole:
// all pixels are one block then, and the image is copied one tile of channels at a time.
constexpr std::int64_t large_sum = 1 << 20;
constexpr std::int64_t whole_dz_floats = 256 << 10;
// Read ahead at most.
constexpr std::int64_t ahead_floats = 96 << 10;

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
    vectors_ = min_i(tile_vectors(filters_), 2);
    tile_rows_ = ceil_div(tiled, ceil_div(tiled, full_tile_rows(vectors_)));
    channel_tiles_ = ceil_div(channels_, tile_rows_);
    tiles_ = gather_ ? ceil_div(terms_, tile_rows_) : channel_tiles_ * p.taps();
    width_ = vectors_ * Float::width;
    panels_ = ceil_div(filters_, width_);
    const std::int64_t wanted =
        p.taps() == 1 ? max_i(block_pixels / 2,
                              min_i(block_pixels, one_tap_floats / (p.channels + p.filters)))
                      : block_pixels;
    cut_ = cut_blocks(p.batch, h, w, p.channels, wanted, block_floats);
    const std::int64_t pixels = cut_.images * cut_.rows * w.output;
    panels_at_a_time_ = min_i(panels_, max_i(1, packed_floats / (p.taps() * pixels * width_ + 1)));
    channel_tiles_at_a_time_ = channel_tiles_;
    const std::int64_t all_pixels = p.batch * h.output * w.output;
    if (!gather_ && p.groups == 1 && terms_ * p.filters > large_sum &&
        all_pixels * panels_ * width_ <= whole_dz_floats) {
      cut_ = {p.batch, h.output, 1, 1};
      panels_at_a_time_ = panels_;
      channel_tiles_at_a_time_ = 1;
    }
  }

  void run(const conv2d::KernelGradients& out) {
    const std::int64_t size = terms_ * p_.filters;
    dz_ = out.dz;
    pack_dz_ = filters_ % Float::width != 0 || p_.filters > most_filters_in_place ||
               g_.activation.kind != Kind::linear || out.dbias != nullptr;
    only_tile_ = gather_ && tiles_ == 1 && dz_ == nullptr && filters_ % width_ == 0 &&
                 has_gradient_tile(g_.activation.kind, width_);
    const PartialSums partial(cut_.count, size, out.dkernel);
    // A few floats a filter: summed by whoever reads dz, then over the partial sums in order.
    const Scratch<float> bias("conv2d", out.dbias != nullptr ? partial.count * p_.filters : 0);
    zero_fill(bias.get(), out.dbias != nullptr ? partial.count * p_.filters : 0);
    const std::int64_t work = p_.batch * h_.output * w_.output * size;
    const int slots = work < (128 << 10) ? 1 : num_threads();
    // Few partial sums: the tiles are shared out too. Blocks of unequal length leave one thread
    // waiting for another, the more the fewer there are.
    const bool even =
        partial.count == 1 || (partial.count % slots == 0 && cut_.count % partial.count == 0);
    const std::int64_t tasks = even ? slots : 4 * slots;
    const std::int64_t parts = slots == 1 ? 1 : min_i(tiles_, ceil_div(tasks, partial.count));
    const std::int64_t window =
        gather_ ? window_floats(cut_, h_, w_, p_.channels)
                : channel_tiles_at_a_time_ * tile_floats(cut_.images, h_.span(0, cut_.rows));
    const std::int64_t pixels = cut_.images * cut_.rows * w_.output;
    const std::int64_t packed = pack_dz_ ? panels_at_a_time_ * panel_floats(pixels) : 0;
    const std::int64_t segments = cut_.images * cut_.rows;
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
        ReadAhead ahead;
        if (b + 1 < partial.begin(sum + 1)) read_ahead(b + 1, ahead);
        add_block(block, ahead, windows.get() + slot * window, panels.get() + slot * packed,
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
  struct Rows {
    std::int64_t term, count;
  };

  // Of one tile's copy. A pixel is written tile after tile: they must not be multiples of a page
  // apart, or they all fall on the same cache set.
  std::int64_t tile_floats(std::int64_t images, std::int64_t rows) const {
    return images * rows * row_span() * tile_rows_ + 16;
  }

  // Of a panel of dz; between panels likewise.
  std::int64_t panel_floats(std::int64_t pixels) const { return pixels * width_ + 16; }

  // Columns of the image that a row of outputs reads.
  std::int64_t row_span() const { return w_.span(0, w_.output); }

  // What block b reads, if L2 holds it beside what the block before it works on.
  void read_ahead(std::int64_t b, ReadAhead& ahead) const {
    const Block block = block_at(cut_, b, p_.batch, h_.output);
    if (block.rows <= 0) return;
    const std::int64_t out_row = w_.output * p_.filters;
    const std::int64_t dz_floats = block.images * block.rows * out_row;
    const std::int64_t top = max_i(0, block.row * h_.step + h_.first());
    const std::int64_t bottom = min_i(h_.input, top + h_.span(0, block.rows));
    const std::int64_t x_row = w_.input * p_.channels;
    const std::int64_t x_floats = ((block.images - 1) * h_.input + bottom - top) * x_row;
    const bool saved = g_.activation.kind != Kind::linear;
    if ((saved ? 2 : 1) * dz_floats + x_floats > ahead_floats) return;
    const std::int64_t at = (block.image * h_.output + block.row) * out_row;
    ahead.add(g_.dy + at, dz_floats);
    if (saved) ahead.add(g_.saved + at, dz_floats);
    ahead.add(x_ + (block.image * h_.input + top) * x_row, x_floats);
  }

  void add_block(const Block& block, ReadAhead& ahead, float* copy, float* packed,
                 Segment* segments, std::int64_t tile_begin, std::int64_t tile_end, bool first,
                 float* sum, float* bias_sum) const {
    const std::int64_t pixels = block.images * block.rows * w_.output;
    const std::int64_t at = (block.image * h_.output + block.row) * w_.output * p_.filters;
    // Of the tasks that share a block the first one gives dz and its sums.
    const bool gives = tile_begin == 0;
    // Between blocks a large sum goes to L3.
    const bool prefetch_sum = !first && terms_ * p_.filters > (64 << 10);
    Window window;
    if (gather_) window = open_window(x_, h_, w_, p_.channels, block, copy);
    const std::int64_t step_tiles = gather_ ? tiles_ : channel_tiles_at_a_time_ * p_.taps();
    for (std::int64_t group = 0; group < p_.groups; ++group) {
      for (std::int64_t begin = tile_begin, end = 0; begin < tile_end; begin = end) {
        end = min_i(tile_end, (begin / step_tiles + 1) * step_tiles);
        const std::int64_t copied = begin / p_.taps();
        if (!gather_) window = copy_tiles(block, group, copied, ceil_div(end, p_.taps()), copy);
        const std::int64_t step = w_.step * window.pixel;
        const std::int64_t count =
            fill_segments(block, window, step, pack_dz_ ? width_ : p_.filters, segments);
        for (std::int64_t panel = 0; panel < panels_; panel += panels_at_a_time_) {
          const std::int64_t panel_end = min_i(panel + panels_at_a_time_, panels_);
          const std::int64_t f = group * filters_ + panel * width_;
          float* const sums = gives && bias_sum != nullptr ? bias_sum + f : nullptr;
          // With all panels at hand the first tiles have them packed.
          if (pack_dz_ && !only_tile_ && (begin == tile_begin || panels_at_a_time_ < panels_)) {
            pack_output_gradient(
                g_, static_cast<int>(vectors_),
                {at + f, pixels, p_.filters, min_i(panel_end * width_, filters_) - panel * width_,
                 packed, panel_floats(pixels), gives ? dz_ : nullptr, sums});
          }
          for (std::int64_t q = panel; q < panel_end; ++q) {
            const std::int64_t j = (q - panel) * width_;
            Tile t = {};
            t.a_step = step;
            t.segments = segments;
            t.segment_count = count;
            t.columns = min_i(width_, filters_ - q * width_);
            t.accumulate = !first;
            if (only_tile_) {
              run_only_tile(t, at + f + j, group, window, sum + f + j,
                            sums == nullptr ? nullptr : sums + j);
              continue;
            }
            t.b = pack_dz_ ? packed + (q - panel) * panel_floats(pixels) : g_.dy + at + f + j;
            t.b_stride = pack_dz_ ? width_ : p_.filters;
            for (std::int64_t i = begin; i < end; ++i) {
              if (prefetch_sum && i + 1 < end) prefetch_rows(i + 1, sum + f + j, t.columns);
              t.ahead = ahead.take(pixels, t.b);
              run_tile(t, i, copied, block, group, window, sum + f + j);
            }
          }
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
            zero_fill(row + (tile - begin) * tile_floats, columns * tile_rows_);
          }
          continue;
        }
        for (std::int64_t tile = begin; tile < end; ++tile) {
          zero_fill(row + (tile - begin) * tile_floats, from * tile_rows_);
          zero_fill(row + (tile - begin) * tile_floats + to * tile_rows_,
                    (columns - to) * tile_rows_);
        }
        const float* x =
            x_ + (((block.image + n) * h_.input + a) * w_.input + w_.first() + from) * p_.channels +
            group * channels_;
        // All tiles but perhaps the last one are equally long: the copy's mask is made once.
        const std::int64_t whole = min_i(end, channels_ / tile_rows_);
        const std::int64_t length = tile_rows_;
        for (std::int64_t j = from; j < to; ++j, x += p_.channels) {
          float* y = row + j * length;
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

  // Without tiles: the first output's value of each of terms [term, term + rows).
  void gather_rows(std::int64_t term, std::int64_t rows, std::int64_t group, const Window& window,
                   const float** a) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      a[r] = window.data + tap_offset((term + r) / channels_, window) + group * channels_ +
             (term + r) % channels_;
    }
  }

  // First term of a tile, and its rows.
  Rows rows_of(std::int64_t index) const {
    if (gather_) return {index * tile_rows_, min_i(tile_rows_, terms_ - index * tile_rows_)};
    // Tile after tile of channels, so that a task's share of tiles needs few of them copied.
    const std::int64_t tile = index / p_.taps();
    return {index % p_.taps() * channels_ + tile * tile_rows_,
            min_i(tile_rows_, channels_ - tile * tile_rows_)};
  }

  void prefetch_rows(std::int64_t index, const float* sum, std::int64_t columns) const {
    const Rows rows = rows_of(index);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const float* const c = sum + (rows.term + r) * p_.filters;
      for (std::int64_t j = 0; j < columns; j += line_floats) __builtin_prefetch(c + j, 1, 3);
    }
  }

  // `copied`: the channel tile that the window begins with.
  void run_tile(Tile& t, std::int64_t index, std::int64_t copied, const Block& block,
                std::int64_t group, const Window& window, float* sum) const {
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    const auto [term, rows] = rows_of(index);
    if (gather_) {
      gather_rows(term, rows, group, window, a);
    } else {
      a[0] = window.data +
             (index / p_.taps() - copied) * tile_floats(block.images, window.image / window.row) +
             tap_offset(index % p_.taps(), window);
    }
    for (std::int64_t r = 0; r < rows; ++r) c[r] = sum + (term + r) * p_.filters;
    t.a = a;
    t.c = c;
    tile_kernel(gather_ ? Form::gather : Form::columns, rows, tile_vectors(t.columns))(t);
  }

  // The panel from pixel and filter `at` on, into `sum`.
  void run_only_tile(const Tile& t, std::int64_t at, std::int64_t group, const Window& window,
                     float* sum, float* bias_sum) const {
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    gather_rows(0, terms_, group, window, a);
    for (std::int64_t r = 0; r < terms_; ++r) c[r] = sum + r * p_.filters;
    GradientTile g = {t, g_.dy + at, g_.saved == nullptr ? nullptr : g_.saved + at, p_.filters,
                      bias_sum};
    g.tile.a = a;
    g.tile.c = c;
    gradient_tile_kernel(g_.activation.kind, terms_)(g);
  }

  Problem p_;
  const float* x_;
  conv2d::OutputGradient g_;
  float* dz_ = nullptr;
  TapAxis h_, w_;
  std::int64_t channels_, filters_;  // a group
  std::int64_t terms_, tile_rows_, channel_tiles_, tiles_;
  std::int64_t channel_tiles_at_a_time_;
  std::int64_t vectors_, width_, panels_, panels_at_a_time_;
  bool gather_, pack_dz_, only_tile_;
  Blocks cut_;
};

// dz first, then product(dz) for dkernel and the sums for dbias, each in a pass of its own.
template <class Product>
void separate_passes(const Problem& p, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out, const Product& product) {
  const std::int64_t rows = p.batch * p.height.output * p.width.output;
  const bool linear = g.activation.kind == Kind::linear;
  const Scratch<float> scratch("conv2d", linear || out.dz != nullptr ? 0 : rows * p.filters);
  float* const own = out.dz != nullptr ? out.dz : scratch.get();
  if (!linear) {
    activation::LAMELLA_ISA::kernels.backward_fused(g.activation, rows * p.filters, g.dy, g.saved,
                                                    own);
  }
  const float* const dz = linear ? g.dy : own;
  product(dz);
  if (out.dbias != nullptr) bias_gradient(dz, rows, p.filters, out.dbias);
}

// A 1x1 window that meets each pixel once: dkernel = x^T dz.
bool is_product(const Problem& p) {
  const auto each_once = [](const WindowAxis& a) {
    return a.kernel == 1 && a.stride == 1 && a.pad_before == 0 && a.output == a.input;
  };
  return p.groups == 1 && each_once(p.height) && each_once(p.width);
}

void product_gradient(const Problem& p, const float* x, const float* dz, float* dkernel) {
  const std::int64_t pixels = p.batch * p.height.output * p.width.output;
  const Matrix a = {x, 1, p.channels};
  const Matrix b = {dz, p.filters, 1};
  const GemmPlan plan = gemm_plan(p.channels, p.filters, pixels, a, b, num_threads());
  const Scratch<float> workspace("conv2d", plan.workspace());
  gemm(plan, a, b, dkernel, p.filters, {}, workspace.get());
}

}  // namespace

void kernel_gradient(const Problem& p, const float* x, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out) {
  if (p.depthwise()) {
    return separate_passes(
        p, g, out, [&](const float* dz) { depthwise_kernel_gradient(p, x, dz, out.dkernel); });
  }
  if (p.batch == 0) {
    zero_fill(out.dbias, out.dbias != nullptr ? p.filters : 0);
    return zero_fill(out.dkernel, p.taps() * p.channels / p.groups * p.filters);
  }
  if (is_product(p) && p.channels * p.filters >= large_product) {
    return separate_passes(p, g, out,
                           [&](const float* dz) { product_gradient(p, x, dz, out.dkernel); });
  }
  const Scratch<std::int64_t> offsets("conv2d", p.height.kernel + p.width.kernel);
  KernelGradient(p, x, g, forward_axis(p.height, offsets.get()),
                 forward_axis(p.width, offsets.get() + p.height.kernel))
      .run(out);
}

}  // namespace lamella::LAMELLA_ISA
