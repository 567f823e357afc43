// Conversions of float16 and bfloat16 by the kernels' words, for tests/test_simt.py to compare
// with NumPy: reads float32 numbers from the standard input, and writes of each one its float16 and
// its bfloat16 pattern; then of each of the 65536 patterns the float32 number that it is as a
// float16 and as a bfloat16.
#include <cstring>

#include "program.h"

using namespace lamella::device;

namespace {

__global__ void narrow(const float* x, unsigned short* y, std::int64_t size) {
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    y[2 * i] = __half_as_ushort(__float2half_rn(x[i]));
    y[2 * i + 1] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
  }
}

__global__ void widen(float* y) {
  const auto pattern = static_cast<unsigned short>(grid_thread());
  y[2 * grid_thread()] = __half2float(__ushort_as_half(pattern));
  y[2 * grid_thread() + 1] = __bfloat162float(__ushort_as_bfloat16(pattern));
}

}  // namespace

int main() {
  std::vector<float> x;
  float chunk[4096];
  while (const std::size_t got = std::fread(chunk, sizeof(float), 4096, stdin)) {
    x.insert(x.end(), chunk, chunk + got);
  }
  const Array<float> in(x);
  const Array<unsigned short> narrowed(2 * x.size());
  const auto size = static_cast<std::int64_t>(x.size());
  launch("narrow", elements(size), narrow, in.get(), narrowed.get(), size);
  const Array<float> widened(2 * 65536);
  launch("widen", {.grid = 256, .block = 256}, widen, widened.get());
  const std::vector<unsigned short> a = narrowed.host();
  const std::vector<float> b = widened.host();
  std::fwrite(a.data(), sizeof a[0], a.size(), stdout);
  std::fwrite(b.data(), sizeof b[0], b.size(), stdout);
  return 0;
}
