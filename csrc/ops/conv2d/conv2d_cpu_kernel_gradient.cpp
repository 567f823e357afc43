// Kernel gradient: for a tile of kernel rows (tap, channel) and a panel of filters, one long
// reduction over output pixels, the image read in place as a transposed matrix.
#include "core/memory_pool.h"
#include "gemm/gemm.h"
#include "gemm/tile.h"
#include "ops/conv2d/conv2d_partial.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

constexpr std::int64_t block_pixels = 256;
constexpr std::int64_t block_floats = 128 << 10;
// Below this the rows of a tile do not lie side by side in memory and get a pointer each.
constexpr std::int64_t shortest_run = 8;
// dz with more filters is copied into panels: rows far apart fall on the same cache sets.
constexpr std::int64_t most_filters_in_place = 256;

int vectors_for(std::int64_t columns) { return columns <= Float::width ? 1 : 2; }

class KernelGradient {
 public:
  KernelGradient(const Problem& p, const float* x, const float* dz, const TapAxis& h,
                 const TapAxis& w)
      : p_(p), x_(x), dz_(dz), h_(h), w_(w), channels_(p.channels / p.groups),
        filters_(p.filters / p.groups) {
    const bool merged = p.groups == 1 && consecutive(w);
    run_ = merged ? w.count * channels_ : channels_;
    terms_ = p.taps() * channels_;
    gather_ = run_ < shortest_run;
    const std::int64_t tiled = gather_ ? terms_ : run_;
    tile_rows_ = ceil_div(tiled, ceil_div(tiled, max_tile_rows));
    tiles_per_run_ = ceil_div(tiled, tile_rows_);
    tiles_ = tiles_per_run_ * (terms_ / tiled);
    width_ = vectors_for(filters_) * Float::width;
    panels_ = ceil_div(filters_, width_);
    pack_dz_ = filters_ % Float::width != 0 || p.filters > most_filters_in_place;
    cut_ = cut_blocks(p.batch, h, w, p.channels, block_pixels, block_floats);
  }

  void run(float* dkernel) {
    const std::int64_t size = terms_ * p_.filters;
    const PartialSums partial(cut_.count, size, dkernel);
    const std::int64_t work =
        p_.batch * h_.output * w_.output * size;
    // More tasks than partial sums: the tiles are shared out too.
    const std::int64_t parts =
        work < (256 << 10) ? 1 : min_i(tiles_, max_i(1, 8 / partial.count));
    const std::int64_t window = window_floats(cut_, h_, w_, p_.channels);
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
        const Window view =
            open_window(x_, h_, w_, p_.channels, block, windows.get() + slot * window);
        add_block(block, view, panels.get() + slot * packed, rows.get() + slot * segments,
                  tile_begin, tile_end, first, partial.data(sum));
        first = false;
      }
    });
    partial.reduce();
  }

 private:
  void add_block(const Block& block, const Window& window, float* packed, Segment* segments,
                 std::int64_t tile_begin, std::int64_t tile_end, bool first, float* sum) const {
    const std::int64_t pixels = block.images * block.rows * w_.output;
    const float* dz =
        dz_ + (block.image * h_.output + block.row) * w_.output * p_.filters;
    const std::int64_t step = w_.step * window.pixel;
    for (std::int64_t group = 0; group < p_.groups; ++group) {
      const std::int64_t count =
          fill_segments(block, window, step, pack_dz_ ? width_ : p_.filters, segments);
      for (std::int64_t panel = 0; panel < panels_; ++panel) {
        const std::int64_t f = group * filters_ + panel * width_;
        Tile t;
        t.a_step = step;
        t.a_table = nullptr;
        t.segments = segments;
        t.segment_count = count;
        t.columns = min_i(width_, filters_ - panel * width_);
        t.bias = nullptr;
        t.accumulate = !first;
        t.relu = false;
        t.b = dz + f;
        t.b_stride = p_.filters;
        if (pack_dz_) {
          pack_panel({dz, p_.filters, 1}, pixels, f, t.columns, width_, packed);
          t.b = packed;
          t.b_stride = width_;
        }
        const float* base = window.data + group * channels_;
        for (std::int64_t i = tile_begin; i < tile_end; ++i) {
          run_tile(t, i, base, window, sum + f);
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

  std::int64_t term_offset(std::int64_t term, const Window& window) const {
    const std::int64_t tap = term / channels_;
    return (h_.offset[tap / w_.count] - h_.first()) * window.row +
           (w_.offset[tap % w_.count] - w_.first()) * window.pixel + term % channels_;
  }

  void run_tile(Tile& t, std::int64_t index, const float* base, const Window& window,
                float* sum) const {
    const std::int64_t tiled = gather_ ? terms_ : run_;
    const std::int64_t begin = index % tiles_per_run_ * tile_rows_;
    const std::int64_t rows = min_i(tile_rows_, tiled - begin);
    const std::int64_t term = index / tiles_per_run_ * tiled + begin;
    const float* a[max_tile_rows];
    float* c[max_tile_rows];
    for (std::int64_t r = 0; r < rows; ++r) {
      c[r] = sum + (term + r) * p_.filters;
      if (gather_) a[r] = base + term_offset(term + r, window);
    }
    if (!gather_) a[0] = base + term_offset(term, window);
    t.a = a;
    t.c = c;
    tile_kernel(gather_ ? Form::gather : Form::columns, rows, vectors_for(t.columns))(t);
  }

  Problem p_;
  const float* x_;
  const float* dz_;
  TapAxis h_, w_;
  std::int64_t channels_, filters_;  // a group
  std::int64_t run_, terms_, tile_rows_, tiles_per_run_, tiles_;
  std::int64_t width_, panels_;
  bool gather_, pack_dz_;
  Blocks cut_;
};

}  // namespace

void kernel_gradient(const Problem& p, const float* x, const float* dz, float* dkernel) {
  if (p.depthwise()) return depthwise_kernel_gradient(p, x, dz, dkernel);
  if (p.batch == 0) return zero_fill(dkernel, p.taps() * p.channels / p.groups * p.filters);
  const Scratch<std::int64_t> offsets("conv2d", p.height.kernel + p.width.kernel);
  KernelGradient(p, x, dz, forward_axis(p.height, offsets.get()),
                 forward_axis(p.width, offsets.get() + p.height.kernel))
      .run(dkernel);
}

}  // namespace lamella::LAMELLA_ISA
