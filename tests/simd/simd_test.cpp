// Tests of csrc/simd for the instruction set it is compiled for (LAMELLA_ISA): every vector
// function against scalar code lane by lane, Philox against core/philox.h, the elementary functions
// against double precision. Prints the largest errors found; the exit status is the number of
// failures.
//
//   simd_test [stride]    of the sweep over all float32 bit patterns; default 20011
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "core/philox.h"
#include "simd/math.h"
#include "simd/philox.h"

using namespace lamella::LAMELLA_ISA;

namespace {

constexpr int width = Float::width;
int failures = 0;

float float_of(std::uint32_t pattern) {
  float x;
  std::memcpy(&x, &pattern, sizeof x);
  return x;
}
std::uint32_t pattern_of(float x) {
  std::uint32_t pattern;
  std::memcpy(&pattern, &x, sizeof pattern);
  return pattern;
}

// Equal bit patterns, or both NaN.
bool same(float a, float b) {
  return pattern_of(a) == pattern_of(b) || (a != a && b != b);
}

void fail(const char* what, double a, double b, double got, double expected) {
  if (++failures <= 20)
    std::printf("FAILED %s(%.9g, %.9g) = %.9g, not %.9g\n", what, a, b, got, expected);
}

const float specials[] = {0.0f,     -0.0f,     1.0f,     -1.0f,       0.5f,       -2.5f,
                          1.5f,     3.7f,      -1e-3f,   1e-20f,      1e20f,      -1e38f,
                          1e-40f,   -1e-45f,   16777216, -8388607.5f, 1000001.5f, 2.0000002f,
                          INFINITY, -INFINITY, NAN};
constexpr int special_count = sizeof specials / sizeof specials[0];

// f on vectors against g on numbers, for all pairs of specials in all lanes.
template <class F, class G>
void check_binary(const char* name, const F& f, const G& g) {
  for (int shift = 0; shift < special_count; ++shift) {
    for (int start = 0; start < special_count; ++start) {
      float a[width], b[width], y[width];
      for (int i = 0; i < width; ++i) {
        a[i] = specials[(start + i) % special_count];
        b[i] = specials[(start + i + shift) % special_count];
      }
      store(y, f(load(a), load(b)));
      for (int i = 0; i < width; ++i) {
        if (!same(y[i], g(a[i], b[i]))) fail(name, a[i], b[i], y[i], g(a[i], b[i]));
      }
    }
  }
}

template <class F, class G>
void check_unary(const char* name, const F& f, const G& g) {
  check_binary(name, [&](Float a, Float) { return f(a); }, [&](float a, float) { return g(a); });
}

template <class F, class G>
void check_mask(const char* name, const F& f, const G& g) {
  check_binary(
      name, [&](Float a, Float b) { return select(f(a, b), set(1.0f), set(-1.0f)); },
      [&](float a, float b) { return g(a, b) ? 1.0f : -1.0f; });
}

void check_floats() {
  check_binary("+", [](Float a, Float b) { return a + b; }, [](float a, float b) { return a + b; });
  check_binary("-", [](Float a, Float b) { return a - b; }, [](float a, float b) { return a - b; });
  check_binary("*", [](Float a, Float b) { return a * b; }, [](float a, float b) { return a * b; });
  check_binary("/", [](Float a, Float b) { return a / b; }, [](float a, float b) { return a / b; });
  check_binary(
      "min", [](Float a, Float b) { return min(a, b); },
      [](float a, float b) { return a < b ? a : b; });
  check_binary(
      "max", [](Float a, Float b) { return max(a, b); },
      [](float a, float b) { return a > b ? a : b; });
  check_unary("sqrt", [](Float a) { return sqrt(a); }, [](float a) { return std::sqrt(a); });
  check_unary("abs", [](Float a) { return abs(a); }, [](float a) { return std::fabs(a); });
  check_unary(
      "round", [](Float a) { return round(select(less(abs(a), set(2e9f)), a, zero())) + zero(); },
      [](float a) { return std::fabs(a) < 2e9f ? std::nearbyintf(a) + 0.0f : 0.0f; });
  check_mask(
      "less", [](Float a, Float b) { return less(a, b); }, [](float a, float b) { return a < b; });
  check_mask(
      "less_equal", [](Float a, Float b) { return less_equal(a, b); },
      [](float a, float b) { return a <= b; });
  check_mask(
      "equal", [](Float a, Float b) { return equal(a, b); },
      [](float a, float b) { return a == b; });
  check_mask(
      "is_nan", [](Float a, Float) { return is_nan(a); }, [](float a, float) { return a != a; });
  check_mask(
      "&", [](Float a, Float b) { return less(a, b) & less(zero(), a); },
      [](float a, float b) { return a < b && 0 < a; });
  check_mask(
      "|", [](Float a, Float b) { return less(a, b) | less(zero(), a); },
      [](float a, float b) { return a < b || 0 < a; });
  // One rounding or two, whichever the set has; integers are exact either way. NaN becomes -9.
  check_binary(
      "fma",
      [](Float a, Float b) {
        return fma(round(min(max(a, set(-9)), set(9))), round(min(max(b, set(-9)), set(9))),
                   set(5));
      },
      [](float a, float b) {
        const auto clipped = [](float x) {
          x = x > -9 ? x : -9;
          return std::nearbyintf(x < 9 ? x : 9);
        };
        return clipped(a) * clipped(b) + 5;
      });
  check_binary(
      "fnma", [](Float a, Float b) { return fnma(set(2), a, b); },
      [](float a, float b) { return b - 2 * a; });
}

void check_memory_and_sums() {
  float source[3 * width];
  for (int i = 0; i < 3 * width; ++i) source[i] = static_cast<float>(i * i + 1);
  for (int offset = 0; offset < width; ++offset) {
    for (int n = 0; n <= width; ++n) {
      float target[3 * width];
      for (float& x : target) x = -1.0f;
      store(target + width, load_n(source + offset, n));
      for (int i = 0; i < width; ++i) {
        const float expected = i < n ? source[offset + i] : 0.0f;
        if (target[width + i] != expected) fail("load_n", offset, n, target[width + i], expected);
      }
      for (float& x : target) x = -1.0f;
      store_n(target + offset, load(source + 1), n);
      for (int i = 0; i < 3 * width; ++i) {
        const bool inside = i >= offset && i < offset + n;
        const float expected = inside ? source[1 + i - offset] : -1.0f;
        if (target[i] != expected) fail("store_n", offset, n, target[i], expected);
      }
    }
    float total = 0.0f;
    float largest = 0.0f;
    for (int i = 0; i < width; ++i) {
      total += source[offset + i];
      largest = std::fmax(largest, source[offset + i]);
    }
    if (sum(load(source + offset)) != total)
      fail("sum", offset, 0, sum(load(source + offset)), total);
    float back[width];  // the largest in another lane
    for (int i = 0; i < width; ++i) back[i] = source[offset + (i * 7 + 3) % width];
    if (maximum(load(back)) != largest) fail("maximum", offset, 0, maximum(load(back)), largest);
  }
  for (int lane = 0; lane < width; ++lane) {
    float x[width] = {};
    x[lane] = 1.0f;
    if (!any(less(zero(), load(x)))) fail("any", lane, 0, 0, 1);
  }
  if (any(less(zero(), zero()))) fail("any", 0, 0, 1, 0);
}

const std::uint32_t patterns[] = {0,          1,          2,          0x7fffffff,
                                  0x80000000, 0x80000001, 0xffffffff, 0x12345678,
                                  0xD2511F53, 0xfedcba98, 23,         0x00800000};
constexpr int pattern_count = sizeof patterns / sizeof patterns[0];

// f on vectors against g(a, b, i), which sees all lanes.
template <class F, class G>
void check_int(const char* name, const F& f, const G& g) {
  for (int shift = 0; shift < pattern_count; ++shift) {
    for (int start = 0; start < pattern_count; ++start) {
      std::uint32_t a[width], b[width], y[width];
      for (int i = 0; i < width; ++i) {
        a[i] = patterns[(start + i) % pattern_count];
        b[i] = patterns[(start + 5 * i + shift) % pattern_count];
      }
      const Int result = f(load_int(reinterpret_cast<const std::int32_t*>(a)),
                           load_int(reinterpret_cast<const std::int32_t*>(b)));
      store_int(reinterpret_cast<std::int32_t*>(y), result);
      for (int i = 0; i < width; ++i) {
        if (y[i] != g(a, b, i)) fail(name, a[i], b[i], y[i], g(a, b, i));
      }
    }
  }
}

using Lanes = const std::uint32_t*;

void check_ints() {
  check_int(
      "int +", [](Int a, Int b) { return a + b; },
      [](Lanes a, Lanes b, int i) { return a[i] + b[i]; });
  check_int(
      "int -", [](Int a, Int b) { return a - b; },
      [](Lanes a, Lanes b, int i) { return a[i] - b[i]; });
  check_int(
      "int &", [](Int a, Int b) { return a & b; },
      [](Lanes a, Lanes b, int i) { return a[i] & b[i]; });
  check_int(
      "int |", [](Int a, Int b) { return a | b; },
      [](Lanes a, Lanes b, int i) { return a[i] | b[i]; });
  check_int(
      "int ^", [](Int a, Int b) { return a ^ b; },
      [](Lanes a, Lanes b, int i) { return a[i] ^ b[i]; });
  check_int(
      "shift_left", [](Int a, Int) { return shift_left<23>(a); },
      [](Lanes a, Lanes, int i) { return a[i] << 23; });
  check_int(
      "shift_right", [](Int a, Int) { return shift_right<5>(a); },
      [](Lanes a, Lanes, int i) { return a[i] >> 5; });
  check_int(
      "bits", [](Int a, Int) { return bits(from_bits(a)); },
      [](Lanes a, Lanes, int i) { return a[i]; });
  check_int(
      "to_int", [](Int a, Int) { return to_int(to_float(shift_right<9>(a))); },
      [](Lanes a, Lanes, int i) { return a[i] >> 9; });
  check_int(
      "less_unsigned",
      [](Int a, Int b) { return bits(select(less_unsigned(a, b), set(1.0f), zero())); },
      [](Lanes a, Lanes b, int i) { return a[i] < b[i] ? 0x3f800000u : 0u; });
  check_int(
      "multiply_even", [](Int a, Int b) { return multiply_even(a, b); },
      [](Lanes a, Lanes b, int i) {
        const std::uint64_t product = std::uint64_t{a[i & ~1]} * b[i & ~1];
        return static_cast<std::uint32_t>(product >> (i % 2 * 32));
      });
  check_int(
      "odd_to_even", [](Int a, Int) { return odd_to_even(a); },
      [](Lanes a, Lanes, int i) { return i % 2 ? 0 : a[i + 1]; });
  check_int(
      "zip_even", [](Int a, Int b) { return zip_even(a, b); },
      [](Lanes a, Lanes b, int i) { return i % 2 ? b[i - 1] : a[i]; });
  check_int(
      "zip_pairs_low", [](Int a, Int b) { return zip_pairs_low(a, b); },
      [](Lanes a, Lanes b, int i) { return i % 4 < 2 ? a[i] : b[i - 2]; });
  check_int(
      "zip_pairs_high", [](Int a, Int b) { return zip_pairs_high(a, b); },
      [](Lanes a, Lanes b, int i) { return i % 4 < 2 ? a[i + 2] : b[i]; });
}

void check_philox() {
  const std::uint64_t seeds[] = {0, 1, 0xffffffffffffffff, 0x299f31d0a4093822, 1ull << 32};
  const std::uint64_t counters[] = {0, 8, 4096, (1ull << 32) - 8, 1ull << 32, (1ull << 61) + 64};
  for (const std::uint64_t seed : seeds) {
    const PhiloxKeys keys = philox_keys(seed);
    for (const std::uint64_t counter : counters) {
      std::uint32_t words[2 * width];
      const PhiloxWords result = philox(keys, counter);
      store_int(reinterpret_cast<std::int32_t*>(words), result.first);
      store_int(reinterpret_cast<std::int32_t*>(words) + width, result.second);
      for (int i = 0; i < 2 * width; ++i) {
        const std::uint64_t at = counter + static_cast<std::uint64_t>(i) / 4;
        const std::uint32_t expected = lamella::philox(seed, at).word[i % 4];
        if (words[i] != expected) {
          fail("philox", static_cast<double>(seed), static_cast<double>(at), words[i], expected);
        }
      }
    }
  }
}

constexpr double smallest_normal = 0x1p-126;

double ulp(double x) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, exponent - 24);
}

// What simd/math.h says of a function: its error is at most `ulps` + `growth` x^2 units in the last
// place, and at most the smallest normal number where the exact result is below that.
struct Claim {
  const char* name;
  double ulps;
  double growth = 0.0;
};

struct Worst {
  double ulps = 0.0;
  float at = 0.0f;
};

// y is what the function gives for x.
void check_value(const Claim& claim, float x, float y, double expected, Worst& worst) {
  const float largest = std::numeric_limits<float>::max();
  if (expected != expected) {
    if (y == y) fail(claim.name, x, 0, y, expected);
  } else if (std::isinf(static_cast<float>(expected))) {
    // The largest number is right too where the exact result is within the claim of it.
    const bool near = std::fabs(expected) < double{largest} * (1.0 + claim.ulps * 0x1p-23);
    if (y != static_cast<float>(expected) && !(near && std::fabs(y) > largest * 0.999999f)) {
      fail(claim.name, x, 0, y, expected);
    }
  } else if (std::fabs(expected) < smallest_normal) {
    if (!(std::fabs(y - expected) <= smallest_normal)) fail(claim.name, x, 0, y, expected);
  } else {
    const double error = std::fabs(y - expected) / ulp(expected);
    const double growth = claim.growth == 0.0 ? 0.0 : claim.growth * x * x;
    if (!(error <= claim.ulps + growth)) fail(claim.name, x, 0, y, expected);
    if (error - growth > worst.ulps) worst = {error - growth, x};
  }
}

// For the float32 bit patterns in [begin, end), and those of the special numbers among them.
template <class F, class G>
void check_function(const Claim& claim, const F& f, const G& exact, std::uint64_t begin,
                    std::uint64_t end, std::uint64_t stride) {
  Worst worst;
  float x[width], y[width];
  const auto check = [&] {
    store(y, f(load(x)));
    for (int i = 0; i < width; ++i) {
      check_value(claim, x[i], y[i], exact(static_cast<double>(x[i])), worst);
    }
  };
  for (const float special : specials) {
    if (pattern_of(special) < begin || pattern_of(special) >= end) continue;
    for (float& lane : x) lane = special;
    check();
  }
  for (std::uint64_t first = begin; first < end; first += stride * width) {
    for (int i = 0; i < width; ++i) {
      const std::uint64_t pattern = first + static_cast<std::uint64_t>(i) * stride;
      x[i] = float_of(static_cast<std::uint32_t>(pattern < end ? pattern : begin));
    }
    check();
  }
  std::printf("%-14s %5.2f ulp (claim %g) at %.9g", claim.name, worst.ulps, claim.ulps, worst.at);
  if (claim.growth > 0) std::printf(", besides %g x^2", claim.growth);
  std::printf("\n");
}

void check_math(std::uint64_t stride) {
  const auto all = [&](const Claim& claim, const auto& f, const auto& exact) {
    check_function(claim, f, exact, 0, std::uint64_t{1} << 32, stride);
  };
  const auto not_negative = [&](const Claim& claim, const auto& f, const auto& exact) {
    check_function(claim, f, exact, 0, 0x7f800001, stride / 2 + 1);
  };
  const auto cdf = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  const auto density = [](double x) { return std::exp(-0.5 * x * x) * 0.3989422804014327; };
  all({"exp", 2}, [](Float x) { return exp(x); }, [](double x) { return std::exp(x); });
  not_negative({"log", 1}, [](Float x) { return log(x); }, [](double x) { return std::log(x); });
  not_negative(
      {"log1p_positive", 3}, [](Float x) { return log1p_positive(x); },
      [](double x) { return std::log1p(x); });
  all({"tanh", 2}, [](Float x) { return tanh(x); }, [](double x) { return std::tanh(x); });
  all(
      {"sigmoid", 3}, [](Float x) { return sigmoid(x); },
      [](double x) { return 1.0 / (1.0 + std::exp(-x)); });
  all(
      {"softplus", 3}, [](Float x) { return softplus(x); },
      [](double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); });
  all({"normal cdf", 8, 0.5}, [](Float x) { return normal(x).cdf; }, cdf);
  all({"normal density", 8, 0.5}, [](Float x) { return normal(x).density; }, density);
  float negative[width], y[width];
  for (float& x : negative) x = -1.0f;
  negative[0] = -0.0f;
  negative[1] = -INFINITY;
  store(y, log(load(negative)));
  if (y[0] != -INFINITY) fail("log", -0.0, 0, y[0], -INFINITY);
  for (int i = 1; i < width; ++i) {
    if (y[i] == y[i]) fail("log", negative[i], 0, y[i], NAN);
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  check_floats();
  check_memory_and_sums();
  check_ints();
  check_philox();
  check_math(argument_count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 20011);
  std::printf("%d failures, %d lanes\n", failures, width);
  return failures > 255 ? 255 : failures;
}
