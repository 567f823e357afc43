// Correct kernels in all the words that device sources use, against plain loops: on the executor
// once for each of a few seeds, with the same bits each time; compiled by nvcc on a GPU too.
// Prints what failed; the exit status is the number of failures.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cuda/copy.cuh"
#include "cuda/grid_barrier.cuh"
#include "cuda/reduce.cuh"
#include "program.h"

using namespace lamella::device;

namespace {

thread_local unsigned long long digest = 0;  // of all results of one seed

template <class T>
std::vector<T> results(const Array<T>& array) {
  std::vector<T> values = array.host();
  for (const T& value : values) {
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, std::min(sizeof value, sizeof bits));
    digest = (digest ^ bits) * 0x100000001B3ull;
  }
  return values;
}

std::size_t index(int i) {
  return static_cast<std::size_t>(i);
}

// ---- numbers of threads and blocks -----------------------------------------------------------

__global__ void count_threads(unsigned* visits) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  atomicAdd(&visits[block * (blockDim.x * blockDim.y * blockDim.z) + thread], 1u + thread % 7);
}

void test_indices() {
  const dim3 grid(3, 4, 2);
  const dim3 block(5, 3, 2);
  const int count = 3 * 4 * 2 * 5 * 3 * 2;
  const Array<unsigned> visits(std::vector<unsigned>(index(count), 0u));
  launch("indices", {.grid = grid, .block = block}, count_threads, visits.get());
  const std::vector<unsigned> host = results(visits);
  for (int i = 0; i < count; ++i) {
    expect(host[index(i)] == 1u + static_cast<unsigned>(i % 30 % 7), "every thread runs once");
  }
  launch("empty", {.grid = dim3(0), .block = 32}, count_threads, visits.get());
}

// ---- shuffles and votes ----------------------------------------------------------------------

template <class T>
__global__ void shuffle(T* out, int by, int width) {
  const T value = static_cast<T>(static_cast<float>(threadIdx.x * 3 + 1));
  T* mine = out + 4 * threadIdx.x;
  mine[0] = __shfl_sync(all_lanes, value, by, width);
  mine[1] = __shfl_up_sync(all_lanes, value, static_cast<unsigned>(by), width);
  mine[2] = __shfl_down_sync(all_lanes, value, static_cast<unsigned>(by), width);
  mine[3] = __shfl_xor_sync(all_lanes, value, by, width);
}

template <class T>
void test_shuffles(const char* type) {
  for (int width = 1; width <= 32; width *= 2) {
    for (int by = 0; by < 32; by += by < 4 ? 1 : 9) {
      const Array<T> out(4 * 64);
      launch("shuffle", {.grid = 1, .block = 64}, shuffle<T>, out.get(), by, width);
      const std::vector<T> host = results(out);
      for (int thread = 0; thread < 64; ++thread) {
        const int warp = thread / 32 * 32;
        const int place = thread % width;
        const int segment = thread - place;
        const int up = place - by < 0 ? thread : thread - by;
        const int down = place + by >= width ? thread : thread + by;
        // Lanes of lower segments can be read, those of higher ones not.
        const int across = warp + (thread % 32 ^ by);
        const int expected[4] = {segment + by % width, up, down,
                                 across >= segment + width ? thread : across};
        for (int kind = 0; kind < 4; ++kind) {
          const float value = static_cast<float>(host[index(4 * thread + kind)]);
          expect(value == static_cast<float>(expected[kind] * 3 + 1),
                 std::string("shuffle ") + std::to_string(kind) + " of " + type + " by " +
                     std::to_string(by) + " in width " + std::to_string(width));
        }
      }
    }
  }
}

__global__ void shuffle_wide(__half2* halves, double* doubles, long long* longs) {
  const int lane = lane_index();
  halves[lane] =
      __shfl_sync(all_lanes, __floats2half2_rn(static_cast<float>(lane), 0.5f), (lane + 5) % 32);
  doubles[lane] = __shfl_xor_sync(all_lanes, 1.0 / (1 + lane), 3);
  longs[lane] = __shfl_down_sync(all_lanes, 0x123456789ALL * (1 + lane), 4);
}

void test_wide_shuffles() {
  const Array<__half2> halves(32);
  const Array<double> doubles(32);
  const Array<long long> longs(32);
  launch("shuffle", {.grid = 1, .block = 32}, shuffle_wide, halves.get(), doubles.get(),
         longs.get());
  const auto h = results(halves);
  const auto d = results(doubles);
  const auto l = results(longs);
  for (int lane = 0; lane < 32; ++lane) {
    expect(static_cast<float>(h[index(lane)].x) == static_cast<float>((lane + 5) % 32) &&
               static_cast<float>(h[index(lane)].y) == 0.5f,
           "shuffle of half2");
    expect(d[index(lane)] == 1.0 / (1 + (lane ^ 3)), "shuffle of double");
    expect(l[index(lane)] == 0x123456789ALL * (1 + (lane < 28 ? lane + 4 : lane)),
           "shuffle of long long");
  }
}

// Groups of lanes that go different ways, some of which have ended.
__global__ void vote(unsigned* out) {
  const int lane = lane_index();
  unsigned* mine = out + 5 * threadIdx.x;
  if (lane >= 28) return;
  const unsigned mask = lane % 2 == 0 ? 0x55555555u : 0xAAAAAAAAu;  // ended lanes included
  if (lane % 2 == 0) {
    mine[0] = __ballot_sync(mask, lane % 3 == 0);
    mine[1] = static_cast<unsigned>(__any_sync(mask, lane == 4));
  } else {
    __syncwarp(mask);
    mine[0] = __ballot_sync(mask, lane < 9);
    mine[1] = static_cast<unsigned>(__any_sync(mask, lane == 4));
  }
  mine[2] = static_cast<unsigned>(__all_sync(0x0FFFFFFFu, lane < 28));
  mine[3] = __match_any_sync(0x0FFFFFFFu, lane / 5);
  mine[4] = __shfl_sync(0x0FFFFFFFu, static_cast<unsigned>(lane), 27);
}

void test_votes() {
  const Array<unsigned> out(std::vector<unsigned>(5 * 64, 99u));
  launch("vote", {.grid = 1, .block = 64}, vote, out.get());
  const std::vector<unsigned> host = results(out);
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const unsigned* const mine = &host[index(5 * thread)];
    if (lane >= 28) {
      expect(mine[0] == 99u, "an ended lane writes nothing");
      continue;
    }
    unsigned ballot = 0;
    unsigned match = 0;
    for (int other = 0; other < 28; ++other) {
      const bool yes = lane % 2 == 0 ? other % 3 == 0 : other < 9;
      if (other % 2 == lane % 2 && yes) ballot |= 1u << other;
      if (other / 5 == lane / 5) match |= 1u << other;
    }
    expect(mine[0] == ballot, "ballot of half the lanes");
    expect(mine[1] == (lane % 2 == 0 ? 1u : 0u), "any of half the lanes");
    expect(mine[2] == 1u && mine[3] == match && mine[4] == 27u, "all, match_any, shuffle after it");
  }
}

__global__ void block_vote(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  int* mine = out + 4 * thread;
  mine[0] = __syncthreads_count(thread % 5 == 0);
  mine[1] = __syncthreads_and(thread < 96) * 2 + (__syncthreads_and(thread < 95) != 0);
  mine[2] = __syncthreads_or(thread == 95) != 0;
  mine[3] = __syncthreads_or(thread == 96) != 0;
}

void test_block_votes() {
  const Array<int> out(4 * 96);
  launch("block_vote", {.grid = 1, .block = 96}, block_vote, out.get());
  const std::vector<int> host = results(out);
  for (int thread = 0; thread < 96; ++thread) {
    const int* const mine = &host[index(4 * thread)];
    expect(mine[0] == 20 && mine[1] / 2 != 0 && mine[1] % 2 == 0 && mine[2] == 1 && mine[3] == 0,
           "votes of a block");
  }
}

// ---- reductions ------------------------------------------------------------------------------

struct Extreme {
  float value;
  int place;
};
struct Larger {
  __device__ Extreme operator()(Extreme a, Extreme b) const {
    return a.value > b.value || (a.value == b.value && a.place < b.place) ? a : b;
  }
};

template <int width>
__global__ void reduce_lanes(const float* x, float* out) {
  const float value = x[threadIdx.x];
  float* mine = out + 4 * threadIdx.x;
  mine[0] = warp_sum<width>(value);
  mine[1] = warp_max<width>(value);
  mine[2] = warp_min<width>(value);
  mine[3] = static_cast<float>(
      warp_reduce<width>(Extreme{value, static_cast<int>(threadIdx.x)}, Larger()).place);
}

template <int width>
void test_lanes() {
  const std::vector<float> x = numbers(64);
  const Array<float> in(x);
  const Array<float> out(4 * 64);
  launch("reduce", {.grid = 1, .block = 64}, reduce_lanes<width>, in.get(), out.get());
  const std::vector<float> host = results(out);
  for (int thread = 0; thread < 64; ++thread) {
    const int first = thread / width * width;
    float sum = 0;
    int largest = first;
    int smallest = first;
    for (int i = first; i < first + width; ++i) {
      sum += x[index(i)];
      if (x[index(i)] > x[index(largest)]) largest = i;
      if (x[index(i)] < x[index(smallest)]) smallest = i;
    }
    const float* const mine = &host[index(4 * thread)];
    expect(mine[0] == sum && mine[1] == x[index(largest)] && mine[2] == x[index(smallest)] &&
               mine[3] == static_cast<float>(largest),
           "reduction of " + std::to_string(width) + " lanes");
  }
}

template <int threads>
__global__ void reduce_block(const float* x, double* out) {
  __shared__ float shared[threads / warp_size];
  const float value = x[threadIdx.x];
  double* mine = out + 6 * threadIdx.x;
  mine[0] = block_sum<threads>(value, shared);
  mine[1] = block_max<threads>(value, shared);
  mine[2] = block_min<threads>(value, shared);
  mine[3] = static_cast<double>(block_sum<threads>(std::int64_t{1} << (20 + threadIdx.x % 20)));
  mine[4] = block_max_or_nan<threads>(threadIdx.x == threads - 3 ? NAN : value);
  mine[5] = block_max<threads>(threadIdx.x == threads - 3 ? NAN : value);
}

template <int threads>
void test_block() {
  const std::vector<float> x = numbers(threads);
  const Array<float> in(x);
  const Array<double> out(6 * threads);
  launch("reduce", {.grid = 1, .block = threads}, reduce_block<threads>, in.get(), out.get());
  const std::vector<double> host = results(out);
  float sum = 0;
  std::int64_t powers = 0;
  float others = -INFINITY;
  for (int i = 0; i < threads; ++i) {
    sum += x[index(i)];
    powers += std::int64_t{1} << (20 + i % 20);
    if (i != threads - 3) others = std::max(others, x[index(i)]);
  }
  for (int thread = 0; thread < threads; ++thread) {
    const double* const mine = &host[index(6 * thread)];
    expect(mine[0] == static_cast<double>(sum) &&
               mine[1] == static_cast<double>(*std::max_element(x.begin(), x.end())) &&
               mine[2] == static_cast<double>(*std::min_element(x.begin(), x.end())) &&
               mine[3] == static_cast<double>(powers) && std::isnan(mine[4]) &&
               mine[5] == static_cast<double>(others),
           "reduction of " + std::to_string(threads) + " threads");
  }
}

// ---- atomics ---------------------------------------------------------------------------------

struct Counters {
  int sum, largest, smallest;
  unsigned bits_or, bits_and, tickets, by_compare, exchanged;
  unsigned long long wide;
};

__global__ void atomics(Counters* c) {
  const int i = static_cast<int>(grid_thread());
  atomicAdd(&c->sum, i - 100);
  atomicMax(&c->largest, i * 7 % 1000);
  atomicMin(&c->smallest, -(i * 7 % 1000));
  atomicOr(&c->bits_or, 1u << (i % 32));
  atomicAnd(&c->bits_and, ~(1u << (i % 8)));
  atomicInc(&c->tickets, 99u);
  atomicAdd(&c->wide, 1ull << 33);
  atomicExch(&c->exchanged, 5u);
  unsigned seen = __ldcg(&c->by_compare);
  for (;;) {
    const unsigned before = atomicCAS(&c->by_compare, seen, seen + 3);
    if (before == seen) break;
    seen = before;
  }
}

void test_atomics() {
  const Array<Counters> counters(
      std::vector<Counters>{{0, 0, 0, 0u, 0xFFFFFFFFu, 0u, 0u, 0u, 0ull}});
  launch("atomics", {.grid = 5, .block = 96}, atomics, counters.get());
  const Counters c = counters.host()[0];
  expect(c.sum == 480 * 479 / 2 - 480 * 100, "atomicAdd of int");
  int largest = 0;
  for (int i = 0; i < 480; ++i) largest = std::max(largest, i * 7 % 1000);
  expect(c.largest == largest && c.smallest == -largest, "atomicMax, atomicMin");
  expect(c.bits_or == 0xFFFFFFFFu && c.bits_and == 0xFFFFFF00u, "atomicOr, atomicAnd");
  expect(c.tickets == 480u % 100u && c.exchanged == 5u, "atomicInc, atomicExch");
  expect(c.wide == 480ull << 33 && c.by_compare == 480u * 3u, "atomicAdd of 64 bits, atomicCAS");
}

// Partial sums; the block that comes last adds them.
__global__ void last_block(const float* x, float* partial, unsigned* arrived, float* sum) {
  __shared__ unsigned ticket;
  const float part = block_sum<64>(x[grid_thread()]);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = part;
    __threadfence();
    ticket = atomicAdd(arrived, 1u);
  }
  __syncthreads();
  if (ticket == gridDim.x - 1 && threadIdx.x == 0) {
    float total = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) total += __ldcg(&partial[block]);
    *sum = total;
  }
}

void test_last_block() {
  const int blocks = 13;
  const std::vector<float> x = numbers(64 * blocks);
  const Array<float> in(x);
  const Array<float> partial(index(blocks));
  const Array<unsigned> arrived(std::vector<unsigned>{0});
  const Array<float> sum(1);
  launch("last_block", {.grid = blocks, .block = 64}, last_block, in.get(), partial.get(),
         arrived.get(), sum.get());
  float expected = 0;
  for (const float value : x) expected += value;
  expect(results(sum)[0] == expected, "the sum by the last block");
}

// ---- asynchronous copies ---------------------------------------------------------------------

// Tiles of `threads` vectors through three stages; the last tile is short, its rest zeros.
template <class Vector>
__global__ void pipeline(const Vector* x, Vector* y, int count) {
  constexpr int size = sizeof(Vector);
  constexpr int stages = 3;
  const int threads = static_cast<int>(blockDim.x);
  const int tiles = ceil_div(count, threads);
  Vector* shared = dynamic_shared<Vector>();
  const auto fetch = [&](int tile) {
    const int i = tile * threads + static_cast<int>(threadIdx.x);
    if (tile < tiles) {
      copy_async<size>(&shared[tile % stages * threads + static_cast<int>(threadIdx.x)], &x[i],
                       i < count);
    }
    copy_commit();
  };
  for (int tile = 0; tile < stages - 1; ++tile) fetch(tile);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_wait<stages - 2>();
    __syncthreads();
    fetch(tile + stages - 1);
    const int other = threads - 1 - static_cast<int>(threadIdx.x);
    y[tile * threads + static_cast<int>(threadIdx.x)] = shared[tile % stages * threads + other];
  }
}

template <class Vector>
void test_copies() {
  const int threads = 64;
  const int count = 5 * threads + 17;
  const int words = static_cast<int>(sizeof(Vector) / 4);
  const std::vector<float> values = numbers(count * words);
  std::vector<Vector> x(index(count));
  std::memcpy(x.data(), values.data(), values.size() * 4);
  const Array<Vector> in(x);
  const Array<Vector> out(6 * threads);
  launch("pipeline", {.grid = 1, .block = threads, .shared_bytes = 3 * threads * sizeof(Vector)},
         pipeline<Vector>, in.get(), out.get(), count);
  const std::vector<Vector> y = results(out);
  for (int i = 0; i < 6 * threads; ++i) {
    const int source = i / threads * threads + threads - 1 - i % threads;
    Vector expected;
    std::memset(&expected, 0, sizeof expected);
    if (source < count) expected = x[index(source)];
    expect(std::memcmp(&y[index(i)], &expected, sizeof expected) == 0,
           "pipeline of " + std::to_string(sizeof(Vector)) + "-byte copies");
  }
}

// ---- the grid barrier ------------------------------------------------------------------------

// Each round every thread takes what the thread before it in the whole grid had.
__global__ void rotate(float* a, float* b, int rounds, unsigned* barrier) {
  float* shared = dynamic_shared<float>();
  const std::int64_t mine = grid_thread();
  const std::int64_t before = (mine + grid_threads() - 1) % grid_threads();
  for (int round = 0; round < rounds; ++round) {
    shared[threadIdx.x] = __ldcg(&a[before]);
    __syncthreads();
    b[mine] = shared[threadIdx.x];
    grid_barrier(barrier);
    float* other = a;
    a = b;
    b = other;
  }
}

void test_grid_barrier() {
  const int threads = 64;
  const int blocks = std::min(7, resident_blocks(rotate, threads, threads * sizeof(float)));
  const int rounds = 9;
  const std::vector<float> x = numbers(threads * blocks);
  const Array<float> a(x);
  const Array<float> b(x.size());
  const GridBarrier barrier("rotate");
  launch("rotate",
         {.grid = static_cast<unsigned>(blocks),
          .block = threads,
          .shared_bytes = threads * sizeof(float),
          .cooperative = true},
         rotate, a.get(), b.get(), rounds, barrier.get());
  const std::vector<float> y = results(b);
  for (int i = 0; i < threads * blocks; ++i) {
    const int source = (i + threads * blocks - rounds) % (threads * blocks);
    expect(y[index(i)] == x[index(source)], "rotation through the grid barrier");
  }
}

// Block 0 hands a number on, and each block to the next, through flags in memory.
__global__ void relay(unsigned* flags, unsigned* numbers_seen) {
  if (threadIdx.x == 0) {
    if (blockIdx.x > 0) {
      while (atomicAdd(&flags[blockIdx.x - 1], 0u) == 0u) __nanosleep(20);
    }
    __threadfence();
    numbers_seen[blockIdx.x] = blockIdx.x == 0 ? 1u : __ldcg(&numbers_seen[blockIdx.x - 1]) * 3u;
    __threadfence();
    atomicExch(&flags[blockIdx.x], 1u);
  }
  __syncthreads();
}

void test_relay() {
  const Array<unsigned> flags(std::vector<unsigned>(6, 0u));
  const Array<unsigned> seen(std::vector<unsigned>(6, 0u));
  launch("relay", {.grid = 6, .block = 32, .cooperative = true}, relay, flags.get(), seen.get());
  unsigned expected = 1;
  for (const unsigned value : results(seen)) {
    expect(value == expected, "flags between blocks");
    expected *= 3u;
  }
}

// ---- bits and roundings ----------------------------------------------------------------------

__global__ void bits(unsigned* out) {
  const unsigned v = 0x00F0A500u;
  out[0] = static_cast<unsigned>(__popc(v));
  out[1] = static_cast<unsigned>(__clz(static_cast<int>(v)));
  out[2] = static_cast<unsigned>(__ffs(static_cast<int>(v)));
  out[3] = __brev(v);
  out[4] = __umulhi(v, 0x89ABCDEFu);
  out[5] = static_cast<unsigned>(__umul64hi(0x123456789ABCDEF0ull, 0xFEDCBA9876543210ull) >> 32);
  out[6] = __byte_perm(0x33221100u, 0x77665544u, 0x7150u);
  out[7] = __funnelshift_l(0x89ABCDEFu, 0x01234567u, 8);
  out[8] = __funnelshift_r(0x89ABCDEFu, 0x01234567u, 8);
  out[9] = __float_as_uint(1.5f);
  out[10] = __float_as_uint(__int_as_float(0x3FC00000) + 1.0f);
  out[11] = static_cast<unsigned>(__float2int_rn(2.5f) * 100 + __float2int_rz(2.9f) * 10 +
                                  __float2int_rd(2.9f));
  out[12] = __float_as_uint(__fmaf_rn(1.0f + 0x1p-12f, 1.0f + 0x1p-12f, -1.0f));
  out[13] = __float_as_uint(rsqrtf(0.0625f));
  out[14] = static_cast<unsigned>(__clz(0) + __ffs(0) * 100 + __popcll(~0ull) * 1000);
  out[15] =
      __float_as_uint(fmaxf(NAN, 2.0f) + fminf(3.0f, NAN) + max(1.0f, 2.0f) + min(4.0f, 8.0f));
}

void test_bits() {
  const Array<unsigned> out(16);
  launch("bits", {.grid = 1, .block = 1}, bits, out.get());
  const unsigned expected[16] = {8u,          8u,          9u,          0x00A50F00u,
                                 0x008169CCu, 0x121FA00Au, 0x77115500u, 0x23456789u,
                                 0x6789ABCDu, 0x3FC00000u, 0x40200000u, 222u,
                                 0x3A000400u, 0x40800000u, 64032u,      0x41300000u};
  const std::vector<unsigned> host = results(out);
  for (int i = 0; i < 16; ++i) {
    expect(host[index(i)] == expected[i], "bits, number " + std::to_string(i) + ": " +
                                              std::to_string(host[index(i)]) + " instead of " +
                                              std::to_string(expected[i]));
  }
}

// ---- vectors and both 16-bit floats ----------------------------------------------------------

template <class T, class T2>
__global__ void vectors(const float4* x, float4* y, T* narrow, T2* pairs) {
  const float4 v = __ldg(&x[threadIdx.x]);
  __stcg(&y[threadIdx.x], make_float4(v.w, v.z, v.y, v.x));
  narrow[threadIdx.x] = T(v.x) * T(v.y) + T(v.z);
  T2 pair;
  pair.x = T(v.x);
  pair.y = T(v.w);
  pairs[threadIdx.x] = pair * pair;
}

template <class T, class T2>
void test_vectors() {
  const int count = 48;
  const std::vector<float> values = numbers(4 * count);
  std::vector<float4> x(index(count));
  std::memcpy(x.data(), values.data(), values.size() * 4);
  const Array<float4> in(x);
  const Array<float4> out(index(count));
  const Array<T> narrow(index(count));
  const Array<T2> pairs(index(count));
  launch("vectors", {.grid = 1, .block = count}, vectors<T, T2>, in.get(), out.get(), narrow.get(),
         pairs.get());
  const auto y = results(out);
  const auto n = results(narrow);
  const auto p = results(pairs);
  for (int i = 0; i < count; ++i) {
    const float4 v = x[index(i)];
    expect(y[index(i)].x == v.w && y[index(i)].w == v.x && y[index(i)].y == v.z, "float4");
    // Rounded after each operation.
    const auto rounded = [](float value) { return static_cast<float>(T(value)); };
    const float a = rounded(v.x);
    const float d = rounded(v.w);
    const float sum = rounded(rounded(a * rounded(v.y)) + rounded(v.z));
    expect(static_cast<float>(n[index(i)]) == sum, "16-bit arithmetic");
    expect(static_cast<float>(p[index(i)].x) == rounded(a * a) &&
               static_cast<float>(p[index(i)].y) == rounded(d * d),
           "arithmetic of pairs");
  }
}

// ---- callers ---------------------------------------------------------------------------------

#if defined(LAMELLA_SIMT)
void test_two_callers() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([] {
      for (int i = 0; i < 20; ++i) test_block<64>();
    });
  }
  for (std::thread& caller : callers) caller.join();
}
#endif

void test_all() {
  digest = 0xCBF29CE484222325ull;
  test_indices();
  test_shuffles<float>("float");
  test_shuffles<int>("int");
  test_shuffles<double>("double");
  test_wide_shuffles();
  test_votes();
  test_block_votes();
  test_lanes<32>();
  test_lanes<16>();
  test_lanes<8>();
  test_lanes<4>();
  test_lanes<2>();
  test_lanes<1>();
  test_block<32>();
  test_block<96>();
  test_block<256>();
  test_block<1024>();
  test_atomics();
  test_last_block();
  test_copies<float>();
  test_copies<float2>();
  test_copies<float4>();
  test_grid_barrier();
  test_relay();
  test_bits();
  test_vectors<__half, __half2>();
  test_vectors<__nv_bfloat16, __nv_bfloat162>();
}
}  // namespace

int main() {
  test_all();
#if defined(LAMELLA_SIMT)
  const unsigned long long first = digest;
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    lamella::simt::set_seed(seed);
    test_all();
    expect(digest == first, "the same bits for seed " + std::to_string(seed));
  }
  test_two_callers();
#endif
  std::printf("%d failures\n", failures.load());
  return failures > 255 ? 255 : failures.load();
}
