// Optimizer steps on the device: bound by memory, so each is one pass whatever its options.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row_team.cuh"
#include "ops/optimizer/optimizer.h"

namespace lamella::optimizer::device {
namespace {

using namespace lamella::device;

constexpr const char* op = "optimizer";

// Rounded once: 1 - decay as a factor would be off by 6e-8, which is not small beside decay.
__device__ inline float decayed(float w, float decay) {
  return fmaf(-w, decay, w);
}

// old_share mean + new_share x. The former is exact to one rounding although neither share is exact
// in float: from whichever is small. 0.999 as a float would let a mean of squares settle 3e-5 off.
__device__ inline float averaged(float mean, float x, const Average& average) {
  const float faded =
      average.new_share <= 0.5f ? fmaf(-average.new_share, mean, mean) : average.old_share * mean;
  return fmaf(average.new_share, x, faded);
}

struct SgdStep {
  Sgd o;
  float* param;
  const float* grad;
  float* velocity;

  template <int width>
  __device__ void run(std::int64_t i) const {
    const Elements<width> g = load_elements<width>(grad, i);
    Elements<width> w = load_elements<width>(param, i);
    if (velocity == nullptr) {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        w.v[k] = fmaf(-o.learning_rate, g.v[k], decayed(w.v[k], o.decay));
      }
      return store_elements<width>(param, i, w);
    }
    Elements<width> v = load_elements<width>(velocity, i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const float kept = decayed(w.v[k], o.decay);
      v.v[k] = fmaf(-o.learning_rate, g.v[k], o.momentum * v.v[k]);
      w.v[k] = o.nesterov ? fmaf(-o.learning_rate, g.v[k], fmaf(o.momentum, v.v[k], kept))
                          : kept + v.v[k];
    }
    store_elements<width>(velocity, i, v);
    store_elements<width>(param, i, w);
  }
};

struct RmsPropStep {
  RmsProp o;
  float* param;
  const float* grad;
  float* square;
  float* mean;
  float* momentum;

  template <int width>
  __device__ void run(std::int64_t i) const {
    const Elements<width> g = load_elements<width>(grad, i);
    Elements<width> w = load_elements<width>(param, i);
    Elements<width> s = load_elements<width>(square, i);
    Elements<width> a = {}, b = {};
    if (mean != nullptr) a = load_elements<width>(mean, i);
    if (momentum != nullptr) b = load_elements<width>(momentum, i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      s.v[k] = averaged(s.v[k], g.v[k] * g.v[k], o.rho);
      float spread = s.v[k];
      if (mean != nullptr) {
        a.v[k] = averaged(a.v[k], g.v[k], o.rho);
        // Rounding may put a variance of zero below it; NaN stays.
        spread = fmaf(-a.v[k], a.v[k], spread);
        spread = spread < 0.0f ? 0.0f : spread;
      }
      float step = o.learning_rate * g.v[k] / sqrtf(spread + o.epsilon);
      if (momentum != nullptr) {
        step = fmaf(o.momentum, b.v[k], step);
        b.v[k] = step;
      }
      w.v[k] = decayed(w.v[k], o.decay) - step;
    }
    store_elements<width>(square, i, s);
    if (mean != nullptr) store_elements<width>(mean, i, a);
    if (momentum != nullptr) store_elements<width>(momentum, i, b);
    store_elements<width>(param, i, w);
  }
};

struct AdamStep {
  Adam o;
  float* param;
  const float* grad;
  float* m;
  float* v;
  float* vhat;

  template <int width>
  __device__ void run(std::int64_t i) const {
    const Elements<width> g = load_elements<width>(grad, i);
    Elements<width> w = load_elements<width>(param, i);
    Elements<width> first = load_elements<width>(m, i);
    Elements<width> second = load_elements<width>(v, i);
    Elements<width> most = {};
    if (vhat != nullptr) most = load_elements<width>(vhat, i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      first.v[k] = averaged(first.v[k], g.v[k], o.beta_1);
      second.v[k] = averaged(second.v[k], g.v[k] * g.v[k], o.beta_2);
      // NaN stays.
      most.v[k] = vhat != nullptr && most.v[k] > second.v[k] ? most.v[k] : second.v[k];
      const float step = o.alpha * first.v[k] / (sqrtf(most.v[k]) + o.epsilon);
      w.v[k] = decayed(w.v[k], o.decay) - step;
    }
    store_elements<width>(m, i, first);
    store_elements<width>(v, i, second);
    if (vhat != nullptr) store_elements<width>(vhat, i, most);
    store_elements<width>(param, i, w);
  }
};

struct Scale {
  float factor;
  float* x;

  template <int width>
  __device__ void run(std::int64_t i) const {
    Elements<width> e = load_elements<width>(x, i);
#pragma unroll
    for (int k = 0; k < width; ++k) e.v[k] *= factor;
    store_elements<width>(x, i, e);
  }
};

struct Clip {
  float low;
  float high;
  float* x;

  template <int width>
  __device__ void run(std::int64_t i) const {
    Elements<width> e = load_elements<width>(x, i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const float v = e.v[k];
      e.v[k] = v < low ? low : v > high ? high : v;
    }
    store_elements<width>(x, i, e);
  }
};

void sgd(const Sgd& options, std::int64_t size, float* param, const float* grad, float* velocity) {
  pointwise(op, size, aligned_for_vectors(param, grad, velocity),
            SgdStep{options, param, grad, velocity});
}

void rmsprop(const RmsProp& options, std::int64_t size, float* param, const float* grad,
             float* square, float* mean, float* momentum) {
  pointwise(op, size, aligned_for_vectors(param, grad, square, mean, momentum),
            RmsPropStep{options, param, grad, square, mean, momentum});
}

void adam(const Adam& options, std::int64_t size, float* param, const float* grad, float* m,
          float* v, float* vhat) {
  pointwise(op, size, aligned_for_vectors(param, grad, m, v, vhat),
            AdamStep{options, param, grad, m, v, vhat});
}

constexpr int norm_threads = 256;

// A block of the array a block of threads. In double, where the squares are exact.
__global__ void __launch_bounds__(norm_threads)
    add_squares(std::int64_t size, bool aligned, const float* x, double* sums) {
  __shared__ double shared[norm_threads / warp_size];
  const std::int64_t begin = std::int64_t{blockIdx.x} * norm_block;
  const int count = static_cast<int>(smaller<std::int64_t>(size - begin, norm_block));
  const int thread = static_cast<int>(threadIdx.x);
  const float* const first = x + begin;
  double sum = 0.0;
  const int vectors = aligned ? count / 4 : 0;
#pragma unroll 8
  for (int i = thread; i < vectors; i += norm_threads) {
    const Elements<4> e = load_elements<4>(first, 4 * i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const double v = static_cast<double>(e.v[k]);
      sum = fma(v, v, sum);
    }
  }
#pragma unroll 8
  for (int i = 4 * vectors + thread; i < count; i += norm_threads) {
    const double v = static_cast<double>(first[i]);
    sum = fma(v, v, sum);
  }
  sum = block_sum<norm_threads>(sum, shared);
  if (thread == 0) sums[blockIdx.x] = sum;
}

void squared_norm(std::int64_t size, const float* x, double* sums) {
  const std::int64_t blocks = ceil_div<std::int64_t>(size, norm_block);
  launch(op, {dim3(static_cast<unsigned>(blocks)), dim3(norm_threads)}, add_squares, size,
         aligned_for_vectors(x), x, sums);
}

void scale(float factor, std::int64_t size, float* x) {
  pointwise(op, size, aligned_for_vectors(x), Scale{factor, x});
}

void clip(float low, float high, std::int64_t size, float* x) {
  pointwise(op, size, aligned_for_vectors(x), Clip{low, high, x});
}

}  // namespace

extern const Kernels kernels = {sgd, rmsprop, adam, squared_norm, scale, clip};

}  // namespace lamella::optimizer::device
