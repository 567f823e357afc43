// Group normalization. What limits it is memory. An image that fits a core's L2 is one task: it
// comes from memory once for the sums and lies in L2 for the result. Larger images, and those of a
// small batch, are cut into chunks for all threads, a few megabytes at a time: these lie in the
// last level of cache for the result.
//
// The sums of the channels are batch_norm's, of one image each (simd/channel_sums.h).
#include "ops/group_norm/group_norm.h"

#include "core/cache.h"
#include "core/memory_pool.h"
#include "simd/channel_sums.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using group_norm::Backward;
using group_norm::Forward;
using group_norm::Images;

constexpr const char* op = "group_norm";

// How images become tasks. Depends on the shape alone, and so does the order of all sums.
struct Plan {
  Images shape;
  ChannelRows layout;  // of an image
  std::int64_t image;  // floats of one
  std::int64_t pieces;
  bool whole;  // an image is the work of one thread
  // Images whose gradients of gamma and beta are added up together, and how many such sums there
  // are.
  std::int64_t run;
  std::int64_t runs;
  // Images that are worked on together where they are cut.
  std::int64_t wave;

  explicit Plan(const Images& s) : shape(s), layout(s.rows, s.channels) {
    constexpr std::int64_t small_image = 65536, large_image = 262144, many_images = 16;
    constexpr std::int64_t wave_floats = 1 << 20;
    image = s.rows * s.channels;
    pieces = max_i(1, layout.chunks);
    whole = image <= small_image || (image <= large_image && s.images >= many_images);
    // A run has sums of its own: 32 rows or more pay for them.
    run = whole ? ceil_div(max_i(16384, 32 * s.channels), image) : 1;
    runs = ceil_div(s.images, run);
    const std::int64_t waves = ceil_div(s.images * image, wave_floats);
    wave = ceil_div(s.images, max_i(1, waves));
  }

  // How many images have scratch memory at the same time.
  std::int64_t places(int threads) const { return whole ? threads : wave; }
};

// For each image n: work.begin(n, place), work.add_piece(n, place, i) for its pieces,
// work.finish(n, place), and work.put_piece(n, place, i). `place` numbers the scratch memory. The
// images of a run are finished in order.
template <class Work>
void each_image(const Plan& plan, int threads, const Work& work) {
  const std::int64_t images = plan.shape.images;
  if (plan.whole) {
    return parallel_for_slots(plan.runs, threads, [&](std::int64_t run, int slot) {
      for (std::int64_t n = run * plan.run; n < min_i(images, (run + 1) * plan.run); ++n) {
        work.begin(n, slot);
        for (std::int64_t i = 0; i < plan.pieces; ++i) work.add_piece(n, slot, i);
        work.finish(n, slot);
        for (std::int64_t i = 0; i < plan.pieces; ++i) work.put_piece(n, slot, i);
      }
    });
  }
  for (std::int64_t first = 0; first < images; first += plan.wave) {
    const std::int64_t wave = min_i(plan.wave, images - first);
    const auto each_piece = [&](const auto& body) {
      parallel_for(wave * plan.pieces,
                   [&](std::int64_t k) { body(k / plan.pieces, k % plan.pieces); });
    };
    parallel_for(wave, [&](std::int64_t w) { work.begin(first + w, w); });
    each_piece([&](std::int64_t w, std::int64_t i) { work.add_piece(first + w, w, i); });
    parallel_for(wave, [&](std::int64_t w) { work.finish(first + w, w); });
    each_piece([&](std::int64_t w, std::int64_t i) { work.put_piece(first + w, w, i); });
  }
}

// body(begin, end) for the blocks of columns of a chunk, if there is one.
template <class Body>
LAMELLA_INLINE void each_block(const ChannelRows& layout, const Body& body) {
  if (layout.chunks == 0) return;
  for (std::int64_t begin = 0; begin < layout.columns; begin += layout.block) {
    body(begin, min_i(layout.columns, begin + layout.block));
  }
}

// The elements that begin the folded rows [begin, end) of an image.
struct FoldedRows {
  std::int64_t begin;
  std::int64_t end;
};

// body(vectors, at, rows) for neighbouring columns of piece i of an image. The last piece has the
// rest of the rows.
template <class Body>
LAMELLA_INLINE void each_column_group(const Plan& plan, std::int64_t i, const Body& body) {
  const ChannelRows& layout = plan.layout;
  if (layout.chunks > 0) {
    const std::int64_t begin = layout.first_of(i);
    const FoldedRows rows = {begin, begin + layout.chunk_rows(i) * layout.columns};
    for_column_groups(0, layout.columns, [&](auto vectors, auto at) { body(vectors, at, rows); });
  }
  if (i < plan.pieces - 1) return;
  const FoldedRows rest = {layout.first_rest(), layout.first_rest() + 1};
  for_vectors(0, layout.rest * layout.channels, [&](auto at) { body(Vectors<1>{}, at, rest); });
}

LAMELLA_INLINE Channels group_of(const Images& shape, std::int64_t g) {
  const std::int64_t size = shape.channels / shape.groups;
  return {g * size, (g + 1) * size};
}

template <class Value>
LAMELLA_INLINE double group_sum(Channels group, const Value& value) {
  double sum = 0.0;
  for (std::int64_t c = group.begin; c < group.end; ++c) sum += value(c);
  return sum;
}

LAMELLA_INLINE double value_or(const float* values, std::int64_t c, double absent) {
  return values == nullptr ? absent : static_cast<double>(values[c]);
}

// From the first fold of an array of columns to the others.
LAMELLA_INLINE void repeat_folds(const ChannelRows& layout, float* columns) {
  fill_columns(layout, columns, [&](std::int64_t c) { return columns[c]; });
}

template <bool streams>
class ForwardWork {
 public:
  ForwardWork(const Forward& p, const Plan& plan, int threads)
      : p_(p),
        plan_(plan),
        sums_(plan.layout.chunks * plan.layout.columns),
        moments_(op, plan.places(threads) * 3 * sums_),
        coefficients_(op, plan.places(threads) * 3 * plan.layout.columns),
        channels_(op, plan.places(threads) * 2 * plan.shape.channels) {}

  void begin(std::int64_t, std::int64_t) const {}

  void add_piece(std::int64_t n, std::int64_t place, std::int64_t i) const {
    each_block(plan_.layout, [&](std::int64_t begin, std::int64_t end) {
      chunk_moments(plan_.layout, p_.x + n * plan_.image, i, begin, end, moments(place));
    });
  }

  void finish(std::int64_t n, std::int64_t place) const {
    const Images& shape = plan_.shape;
    const float* const x = p_.x + n * plan_.image;
    double* const mean = channels_.get() + place * 2 * shape.channels;
    double* const sums = mean + shape.channels;
    const auto sum_of = [&](std::int64_t c) { return sums[c]; };
    const double share = 1.0 / static_cast<double>(plan_.image / shape.groups);
    const Channels all = {0, shape.channels};
    sum_channels(plan_.layout, x, moments(place), all, sums);
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Channels group = group_of(shape, g);
      const double total = group_sum(group, sum_of);
      for (std::int64_t c = group.begin; c < group.end; ++c) mean[c] = total * share;
    }
    const auto mean_of = [&](std::int64_t c) { return mean[c]; };
    sum_squares(plan_.layout, x, moments(place), all, mean_of, sums);
    const Coefficients to = coefficients(place);
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Channels group = group_of(shape, g);
      const double total = group_sum(group, sum_of);
      // Rounding may leave a tiny negative sum where all elements are equal.
      const double variance = total < 0.0 ? 0.0 : total * share;
      const double scale = 1.0 / __builtin_sqrt(variance + p_.epsilon);
      const double exact = mean[group.begin];
      const float center = static_cast<float>(exact);
      const double shift = (static_cast<double>(center) - exact) * scale;
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        const double gamma = value_or(p_.gamma, c, 1.0);
        to.center[c] = center;
        to.factor[c] = static_cast<float>(gamma * scale);
        to.term[c] = static_cast<float>(gamma * shift + value_or(p_.beta, c, 0.0));
      }
      if (p_.saved.scale == nullptr) continue;
      p_.saved.center[n * shape.groups + g] = center;
      p_.saved.scale[n * shape.groups + g] = static_cast<float>(scale);
      p_.saved.shift[n * shape.groups + g] = static_cast<float>(shift);
    }
    for (float* columns : {to.center, to.factor, to.term}) repeat_folds(plan_.layout, columns);
  }

  void put_piece(std::int64_t n, std::int64_t place, std::int64_t i) const {
    const float* const x = p_.x + n * plan_.image;
    float* const y = p_.y + n * plan_.image;
    const Coefficients by = coefficients(place);
    each_column_group(plan_, i, [&](auto vectors, auto at, const FoldedRows& rows) {
      constexpr int count = decltype(vectors)::count;
      Float center[count], factor[count], term[count];
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = v * Float::width;
        center[v] = at.get(by.center + k);
        factor[v] = at.get(by.factor + k);
        term[v] = at.get(by.term + k);
      }
      for (std::int64_t first = rows.begin; first < rows.end; first += plan_.layout.columns) {
        for (int v = 0; v < count; ++v) {
          const std::int64_t k = first + v * Float::width;
          const Float centered = at.get(x + k) - center[v];
          put_result<streams>(at, y + k, fma(centered, factor[v], term[v]));
        }
      }
    });
    if (streams) stream_fence();
  }

 private:
  // y = (x - center) factor + term
  struct Coefficients {
    float* center;  // (columns), as the others
    float* factor;
    float* term;
  };
  Coefficients coefficients(std::int64_t place) const {
    const std::int64_t columns = plan_.layout.columns;
    float* const first = coefficients_.get() + place * 3 * columns;
    return {first, first + columns, first + 2 * columns};
  }
  ChunkMoments moments(std::int64_t place) const {
    float* const first = moments_.get() + place * 3 * sums_;
    return {first, first + sums_, first + 2 * sums_};
  }

  const Forward& p_;
  const Plan& plan_;
  std::int64_t sums_;
  Scratch<float> moments_;
  Scratch<float> coefficients_;
  Scratch<double> channels_;
};

template <bool streams>
class BackwardWork {
 public:
  BackwardWork(const Backward& p, const Plan& plan, int threads)
      : p_(p),
        plan_(plan),
        wants_parameters_(p.dgamma != nullptr || p.dbeta != nullptr),
        sums_(plan.layout.chunks * plan.layout.columns),
        gradients_(op, plan.places(threads) * 2 * sums_),
        coefficients_(op, plan.places(threads) * 4 * plan.layout.columns),
        channels_(op, plan.places(threads) * 2 * plan.shape.channels),
        runs_(op, wants_parameters_ ? plan.runs * 2 * plan.shape.channels : 0) {}

  void begin(std::int64_t n, std::int64_t place) const {
    const Images& shape = plan_.shape;
    float* const center = coefficients(place).center;
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Channels group = group_of(shape, g);
      const float value = p_.saved.center[n * shape.groups + g];
      for (std::int64_t c = group.begin; c < group.end; ++c) center[c] = value;
    }
    repeat_folds(plan_.layout, center);
  }

  void add_piece(std::int64_t n, std::int64_t place, std::int64_t i) const {
    const std::int64_t first = n * plan_.image;
    each_block(plan_.layout, [&](std::int64_t begin, std::int64_t end) {
      chunk_gradients(plan_.layout, p_.dy + first, p_.x + first, coefficients(place).center, i,
                      begin, end, gradients(place));
    });
  }

  void finish(std::int64_t n, std::int64_t place) const {
    const Images& shape = plan_.shape;
    const Coefficients to = coefficients(place);
    double* const plain = channels_.get() + place * 2 * shape.channels;
    double* const normal = plain + shape.channels;  // sums of dy n, at first of dy (x - center)
    sum_gradients(plan_.layout, p_.dy + n * plan_.image, p_.x + n * plan_.image, to.center,
                  gradients(place), {0, shape.channels}, plain, normal);
    const double share = 1.0 / static_cast<double>(plan_.image / shape.groups);
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Channels group = group_of(shape, g);
      const double scale = static_cast<double>(p_.saved.scale[n * shape.groups + g]);
      const double shift = static_cast<double>(p_.saved.shift[n * shape.groups + g]);
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        normal[c] = normal[c] * scale + plain[c] * shift;
      }
      const auto mean = [&](const double* sums) {
        return share * group_sum(group, [&](std::int64_t c) {
                 return value_or(p_.gamma, c, 1.0) * sums[c];
               });
      };
      const double mean_plain = mean(plain), mean_normal = mean(normal);
      for (std::int64_t c = group.begin; c < group.end; ++c) {
        to.slope[c] = static_cast<float>(value_or(p_.gamma, c, 1.0) * scale);
        to.curve[c] = static_cast<float>(-scale * scale * mean_normal);
        to.term[c] = static_cast<float>(-scale * (mean_plain + shift * mean_normal));
      }
    }
    for (float* columns : {to.slope, to.curve, to.term}) repeat_folds(plan_.layout, columns);
    if (wants_parameters_) add_to_run(n, plain, normal);
  }

  void put_piece(std::int64_t n, std::int64_t place, std::int64_t i) const {
    if (p_.dx == nullptr) return;
    const float* const x = p_.x + n * plan_.image;
    const float* const dy = p_.dy + n * plan_.image;
    float* const dx = p_.dx + n * plan_.image;
    const Coefficients by = coefficients(place);
    each_column_group(plan_, i, [&](auto vectors, auto at, const FoldedRows& rows) {
      constexpr int count = decltype(vectors)::count;
      Float center[count], slope[count], curve[count], term[count];
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = v * Float::width;
        center[v] = at.get(by.center + k);
        slope[v] = at.get(by.slope + k);
        curve[v] = at.get(by.curve + k);
        term[v] = at.get(by.term + k);
      }
      for (std::int64_t first = rows.begin; first < rows.end; first += plan_.layout.columns) {
        for (int v = 0; v < count; ++v) {
          const std::int64_t k = first + v * Float::width;
          const Float others = fma(at.get(x + k) - center[v], curve[v], term[v]);
          put_result<streams>(at, dx + k, fma(at.get(dy + k), slope[v], others));
        }
      }
    });
    if (streams) stream_fence();
  }

  // The sums of all runs, added in order.
  void put_parameters() const {
    if (!wants_parameters_) return;
    const std::int64_t channels = plan_.shape.channels;
    double* const total = runs_.get();
    for (std::int64_t run = 1; run < plan_.runs; ++run) {
      const double* const sums = total + run * 2 * channels;
      for (std::int64_t k = 0; k < 2 * channels; ++k) total[k] += sums[k];
    }
    const auto put = [&](float* out, const double* sums) {
      if (out == nullptr) return;
      for (std::int64_t c = 0; c < channels; ++c) out[c] = static_cast<float>(sums[c]);
    };
    put(p_.dgamma, total);
    put(p_.dbeta, total + channels);
  }

 private:
  // dx = dy slope + (x - center) curve + term
  struct Coefficients {
    float* center;  // (columns), as the others
    float* slope;
    float* curve;
    float* term;
  };
  Coefficients coefficients(std::int64_t place) const {
    const std::int64_t columns = plan_.layout.columns;
    float* const first = coefficients_.get() + place * 4 * columns;
    return {first, first + columns, first + 2 * columns, first + 3 * columns};
  }
  ChunkGradients gradients(std::int64_t place) const {
    float* const first = gradients_.get() + place * 2 * sums_;
    return {first, first + sums_};
  }

  void add_to_run(std::int64_t n, const double* plain, const double* normal) const {
    const std::int64_t channels = plan_.shape.channels;
    double* const dgamma = runs_.get() + n / plan_.run * 2 * channels;
    double* const dbeta = dgamma + channels;
    const bool first = n % plan_.run == 0;
    for (std::int64_t c = 0; c < channels; ++c) {
      dgamma[c] = first ? normal[c] : dgamma[c] + normal[c];
      dbeta[c] = first ? plain[c] : dbeta[c] + plain[c];
    }
  }

  const Backward& p_;
  const Plan& plan_;
  bool wants_parameters_;
  std::int64_t sums_;
  Scratch<float> gradients_;
  Scratch<float> coefficients_;
  Scratch<double> channels_;
  Scratch<double> runs_;
};

// Whether a result is written past the caches.
bool streams_to(const Plan& plan, const float* out) {
  const std::int64_t bytes =
      plan.shape.images * plan.image * static_cast<std::int64_t>(sizeof(float));
  // With folds, images begin at whole vectors only if they have no rest.
  return out != nullptr && outgrows_cache(bytes) && can_stream(out, plan.layout.columns) &&
         plan.image % plan.layout.columns == 0;
}

template <bool streams>
void forward_of(const Forward& p, const Plan& plan) {
  const int threads = num_threads();
  each_image(plan, threads, ForwardWork<streams>(p, plan, threads));
}

template <bool streams>
void backward_of(const Backward& p, const Plan& plan) {
  const int threads = num_threads();
  const BackwardWork<streams> work(p, plan, threads);
  each_image(plan, threads, work);
  work.put_parameters();
}

void forward(const Forward& p) {
  const Plan plan(p.shape);
  streams_to(plan, p.y) ? forward_of<true>(p, plan) : forward_of<false>(p, plan);
}

void backward(const Backward& p) {
  const Plan plan(p.shape);
  streams_to(plan, p.dx) ? backward_of<true>(p, plan) : backward_of<false>(p, plan);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::group_norm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward};

}  // namespace lamella::group_norm::LAMELLA_ISA
