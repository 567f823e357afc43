// Launches: which blocks and threads run, in which order, on which fibers, and the blocks' shared
// memory.
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "simt/kernel.h"
#include "simt/scheduler.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace lamella::simt {

namespace {

constexpr std::size_t guard_bytes = 256;
constexpr std::uint16_t guard_word = 0xFFFD;  // a NaN to every reader, unlike unwritten memory
constexpr std::size_t shared_alignment = 128;
constexpr std::int64_t most_sleeps = 20'000'000;  // about a second

std::uint64_t mixed(std::uint64_t v) {
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
  return v ^ (v >> 31);
}

Executor& make_executor() {
  // Never destroyed: a thread of the process may still be in a launch when it exits.
  auto* made = new Executor;
  const char* seed = std::getenv("LAMELLA_SIMT_SEED");
  made->seed(seed == nullptr ? 0 : std::strtoull(seed, nullptr, 0));
  return *made;
}

}  // namespace

Executor& executor = make_executor();

void run(const char* op, const Shape& shape, void (*body)(const void*), const void* closure) {
  const std::lock_guard<std::mutex> lock(executor.mutex);
  executor.run(op, shape, body, closure);
}

void set_seed(std::uint64_t seed) {
  const std::lock_guard<std::mutex> lock(executor.mutex);
  executor.seed(seed);
}

// The made-up device holds 1024 threads and one block's most shared memory a multiprocessor.
int resident_blocks(int threads, std::size_t shared_bytes) {
  const device::Properties& device = device::properties();
  if (threads <= 0 || threads > 1024 || shared_bytes > device.shared_bytes) return 0;
  int blocks = 1024 / threads;
  if (shared_bytes > 0) {
    const std::size_t fit = device.shared_bytes / shared_bytes;
    if (fit < static_cast<std::size_t>(blocks)) blocks = static_cast<int>(fit);
  }
  return blocks * device.multiprocessors;
}

void fail(const char* text, Location where) {
  executor.blame(text, where);
  executor.leave(Outcome::failed);
}

void* dynamic_shared(Location where) {
  void* shared = executor.current->block->shared;
  if (shared == nullptr) fail("the launch gave no dynamic shared memory", where);
  return shared;
}

int lane() {
  return executor.current->lane;
}

void perhaps_yield() {
  executor.perhaps_yield();
}

void sleep(Location where) {
  executor.sleep(where);
}

// ---- the order of threads --------------------------------------------------------------------

void Executor::seed(std::uint64_t seed) {
  seed_ = seed;
  launches_ = 0;
}

void Executor::shuffle_last(std::size_t count) {
  Thread** group = ready_.data() + (ready_.size() - count);
  for (std::size_t i = count; i > 1; --i) std::swap(group[i - 1], group[below(i)]);
}

Thread* Executor::next() {
  if (ready_.empty()) return nullptr;
  if (!deep_) std::swap(ready_[below(ready_.size())], ready_.back());
  Thread* thread = ready_.back();
  ready_.pop_back();
  return thread;
}

void Executor::resume(Thread* thread) {
  current = thread;
  threadIdx = thread->index;
  blockIdx = thread->block->index;
}

// The current thread waits: others run until something has woken it.
void Executor::suspend() {
  Thread* self = current;
  Thread* thread = next();
  if (thread == nullptr) leave(Outcome::stuck);
  resume(thread);
  if (thread == self) return;
  if (thread->stack == nullptr) {
    thread->stack = stacks_.acquire();
    if (thread->stack == nullptr) simt::fail("no memory for its threads' stacks", self->where);
    prepare(thread->context, *thread->stack, fiber_main);
  }
  switch_context(self->context, thread->context);
}

void Executor::perhaps_yield() {
  sleeps_ = 0;
  if (random() < (1u << 28)) yield();
}

void Executor::sleep(Location where) {
  current->where = where;
  if (++sleeps_ > most_sleeps)
    simt::fail("waits in a loop while no other thread does anything", where);
  yield();
}

void Executor::yield() {
  if (ready_.empty()) return;
  current->state = State::ready;
  ready_.push_back(current);
  std::swap(ready_[below(ready_.size())], ready_.back());
  suspend();
}

// ---- fibers ----------------------------------------------------------------------------------

// One fiber runs one thread after another for as long as none of them waits.
void Executor::fiber_main() {
  entered();
  Executor& e = executor;
  for (;;) {
    e.body_(e.closure_);
    Thread* ended = e.current;
    e.end_thread(*ended);
    Thread* thread = e.next();
    if (thread == nullptr) e.leave(e.live_ == 0 ? Outcome::done : Outcome::stuck);
    e.resume(thread);
    if (thread->stack == nullptr) {
      std::swap(thread->stack, ended->stack);
      continue;
    }
    e.stacks_.release(ended->stack);
    ended->stack = nullptr;
    switch_context(ended->context, thread->context, true);
  }
}

void Executor::end_thread(Thread& thread) {
  thread.state = State::ended;
  thread.copies.clear();
  --live_;
  sleeps_ = 0;
  Warp& warp = *thread.warp;
  warp.ended |= 1u << thread.lane;
  if (warp.waiting != 0) release_after_end(warp);
}

void Executor::leave(Outcome outcome) {
  outcome_ = outcome;
  Context over{};
  switch_context(over, main_, true);
  std::abort();
}

void Executor::blame(const std::string& what, Location where, bool divergent,
                     const Thread* culprit) {
  error_ = message(op_, ": ", what, ", at ", text(where), " in ",
                   name(culprit == nullptr ? *current : *culprit));
  divergent_ = divergent;
}

// ---- grids -----------------------------------------------------------------------------------

void Executor::check_shape() const {
  const dim3 block = shape_.block;
  const dim3 grid = shape_.grid;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads == 0 || threads > 1024) {
    throw CudaError(message(op_, ": no device runs a block of ", text({block.x, block.y, block.z}),
                            " threads"));
  }
  if (grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) {
    throw CudaError(
        message(op_, ": no device runs a grid of ", text({grid.x, grid.y, grid.z}), " blocks"));
  }
  const std::size_t most = device::properties().shared_bytes;
  if (shape_.shared_bytes > most) {
    throw CudaError(message(op_, ": a block asks for ", shape_.shared_bytes,
                            " bytes of shared memory, of which the device has ", most));
  }
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  if (shape_.cooperative) {
    const auto fit =
        static_cast<std::size_t>(resident_blocks(static_cast<int>(threads), shape_.shared_bytes));
    if (blocks > fit) {
      throw CudaError(message(op_, ": a cooperative launch of ", blocks,
                              " blocks, of which the device holds ", fit, " at once"));
    }
  }
}

void Executor::make_threads(int blocks) {
  const auto count = static_cast<std::size_t>(blocks) * block_threads_;
  const auto warps = static_cast<std::size_t>(blocks) * block_warps_;
  if (threads_.size() < count) threads_.resize(count);
  if (warps_.size() < warps) warps_.resize(warps);
  if (blocks_.size() < static_cast<std::size_t>(blocks)) blocks_.resize(blocks);
  ready_.clear();
  ready_.reserve(count + 1);
  for (int b = 0; b < blocks; ++b) {
    blocks_[b].threads = &threads_[static_cast<std::size_t>(b) * block_threads_];
    for (int w = 0; w < block_warps_; ++w) {
      Warp& warp = warps_[static_cast<std::size_t>(b) * block_warps_ + w];
      warp.threads = blocks_[b].threads + w * 32;
    }
    for (int t = 0; t < block_threads_; ++t) {
      Thread& thread = blocks_[b].threads[t];
      const unsigned x = static_cast<unsigned>(t);
      thread.block = &blocks_[b];
      thread.warp = &warps_[static_cast<std::size_t>(b) * block_warps_ + t / 32];
      thread.lane = t % 32;
      thread.index = {x % shape_.block.x, x / shape_.block.x % shape_.block.y,
                      x / shape_.block.x / shape_.block.y};
    }
  }
}

void Executor::begin_block(int place, std::int64_t number) {
  Block& block = blocks_[place];
  const auto x = static_cast<std::uint64_t>(number);
  block.index = {static_cast<unsigned>(x % shape_.grid.x),
                 static_cast<unsigned>(x / shape_.grid.x % shape_.grid.y),
                 static_cast<unsigned>(x / shape_.grid.x / shape_.grid.y)};
  block.waiting = 0;
  allocate_shared(block);
  for (int w = 0; w < block_warps_; ++w) {
    Warp& warp = warps_[static_cast<std::size_t>(place) * block_warps_ + w];
    const int lanes = block_threads_ - w * 32;
    warp.ended = lanes >= 32 ? 0 : ~0u << lanes;
    warp.waiting = 0;
  }
  for (int t = 0; t < block_threads_; ++t) {
    Thread& thread = block.threads[t];
    thread.groups = 0;
    wake(&thread);
  }
  live_ += block_threads_;
}

// Until all threads of the blocks that have begun are over.
void Executor::run_resident() {
  new_interval();
  shuffle_last(ready_.size());
  Thread* first = next();
  resume(first);
  first->stack = stacks_.acquire();
  if (first->stack == nullptr) throw std::bad_alloc();
  prepare(first->context, *first->stack, fiber_main);
  switch_context(main_, first->context);
  if (outcome_ == Outcome::stuck) explain_stuck();
  if (outcome_ != Outcome::done) {
    abandon();
    if (divergent_) throw DivergentBarrier(error_);
    throw KernelError(error_);
  }
  stacks_.release(current->stack);
  current->stack = nullptr;
}

void Executor::abandon() {
  const std::size_t count = static_cast<std::size_t>(resident_) * block_threads_;
  for (std::size_t t = 0; t < count; ++t) {
    if (threads_[t].stack != nullptr) stacks_.release(threads_[t].stack);
    threads_[t].stack = nullptr;
    threads_[t].copies.clear();
  }
}

void Executor::run(const char* op, const Shape& shape, void (*body)(const void*),
                   const void* closure) {
  op_ = op;
  shape_ = shape;
  body_ = body;
  closure_ = closure;
  const std::int64_t blocks = std::int64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  if (blocks == 0) throw CudaError(message(op_, ": a grid without blocks"));
  check_shape();
  block_threads_ = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  block_warps_ = (block_threads_ + 31) / 32;
  resident_ = shape.cooperative ? static_cast<int>(blocks) : 1;
  live_ = 0;
  sleeps_ = 0;
  at_grid_barrier_ = 0;
  grid_state_ = nullptr;
  divergent_ = false;
  random_ = mixed(seed_ * 0x9E3779B97F4A7C15ull + ++launches_) | 1;
  ::blockDim = shape.block;
  ::gridDim = shape.grid;
  make_threads(resident_);
  if (shape.cooperative) {
    for (int b = 0; b < resident_; ++b) begin_block(b, b);
    run_resident();
    for (int b = 0; b < resident_; ++b) check_guards(blocks_[b]);
    return;
  }
  // Blocks in the order of a random affine permutation.
  const auto count = static_cast<std::uint64_t>(blocks);
  std::uint64_t step = 1 + below(count);
  while (std::gcd(step, count) != 1) ++step;
  std::uint64_t number = below(count);
  for (std::int64_t b = 0; b < blocks; ++b) {
    begin_block(0, static_cast<std::int64_t>(number));
    run_resident();
    check_guards(blocks_[0]);
    number = (number + step) % count;
  }
}

// ---- shared memory -------------------------------------------------------------------------

void Executor::allocate_shared(Block& block) {
  const std::size_t bytes = shape_.shared_bytes;
  block.memory.reset();
  block.shared = nullptr;
  if (bytes == 0) return;
#if defined(LAMELLA_SIMT_ASAN)
  const std::size_t whole = bytes;
#else
  const std::size_t whole = guard_bytes + bytes + guard_bytes;
#endif
  void* memory = nullptr;
  if (posix_memalign(&memory, shared_alignment, whole) != 0) throw std::bad_alloc();
  block.memory.reset(static_cast<unsigned char*>(memory));
  block.shared = block.memory.get() + (whole == bytes ? 0 : guard_bytes);
  std::memset(block.shared, 0xFF, bytes);
#if !defined(LAMELLA_SIMT_ASAN)
  for (std::size_t i = 0; i < guard_bytes; i += sizeof guard_word) {
    std::memcpy(block.memory.get() + i, &guard_word, sizeof guard_word);
    std::memcpy(block.shared + bytes + i, &guard_word, sizeof guard_word);
  }
#endif
}

void Executor::check_guards([[maybe_unused]] const Block& block) const {
#if !defined(LAMELLA_SIMT_ASAN)
  if (!block.memory) return;
  for (std::size_t i = 0; i < guard_bytes; i += sizeof guard_word) {
    const bool below = std::memcmp(block.memory.get() + i, &guard_word, sizeof guard_word) != 0;
    const bool above =
        std::memcmp(block.shared + shape_.shared_bytes + i, &guard_word, sizeof guard_word) != 0;
    if (!below && !above) continue;
    throw KernelError(message(op_, ": block ", text(block.index), " wrote ",
                              below ? guard_bytes - i : i, " bytes ", below ? "before" : "beyond",
                              " its ", shape_.shared_bytes, " bytes of dynamic shared memory"));
  }
#endif
}

}  // namespace lamella::simt
