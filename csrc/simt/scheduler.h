// The executor's state: threads, warps and blocks of the launch that runs, and who runs next.
// launch.cpp runs grids, meeting.cpp lets threads meet, copy.cpp keeps their asynchronous copies.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "simt/executor.h"
#include "simt/fiber.h"
#include "simt/vector_types.h"

namespace lamella::simt {

struct Warp;
struct Block;

enum class State : unsigned char { ready, at_barrier, at_grid_barrier, at_exchange, ended };

struct Copy {
  void* shared;
  const void* global;
  int bytes;
  int group;
  bool read;  // at once; else where it is waited for: the hardware may do either
  alignas(16) unsigned char data[16];
};

struct Thread {
  Context context;
  Stack* stack;  // null before it begins
  Warp* warp;
  Block* block;
  uint3 index;
  int lane;
  State state;
  Location where;  // what it waits at
  int groups;      // of copies, committed
  std::vector<Copy> copies;
};

struct Warp {
  Thread* threads;  // from lane 0 on
  unsigned ended;   // lanes that do not exist included
  unsigned waiting;
  std::uint64_t value[32];
  unsigned mask[32];
  Exchange kind[32];
  int source[32];
  Collective perform[32];
  const char* name[32];
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Block {
  uint3 index;
  Thread* threads;
  int waiting;
  Vote vote;
  Location where;
  int count;                                    // of true predicates among those that wait
  int result;                                   // of the last barrier
  std::unique_ptr<unsigned char, Free> memory;  // the guards included
  unsigned char* shared;                        // null: none
};

enum class Outcome { done, failed, stuck };

class Executor {
 public:
  void run(const char* op, const Shape& shape, void (*body)(const void*), const void* closure);
  void seed(std::uint64_t seed);
  std::mutex mutex;

  // The rest is called by threads of the kernel.
  Thread* current = nullptr;
  const char* op() const { return op_; }
  std::size_t shared_bytes() const { return shape_.shared_bytes; }
  unsigned random() {  // 32 bits
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return static_cast<unsigned>(random_ * 0x2545F4914F6CDD1Dull >> 32);
  }
  void perhaps_yield();
  void sleep(Location where);
  int block_barrier(Vote vote, bool predicate, Location where);
  void grid_barrier(unsigned* state, Location where);
  std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t value, int source,
                         Location where);
  void collective(const char* name, Collective perform, void* argument, Location where);
  // What is wrong, for the exception; `culprit`: null for the thread that calls. Then leave(), in a
  // statement of its own: what is alive on the fiber's stack then is never destroyed.
  void blame(const std::string& text, Location where, bool divergent = false,
             const Thread* culprit = nullptr);
  [[noreturn]] void leave(Outcome outcome);

 private:
  // launch.cpp
  static void fiber_main();
  void check_shape() const;
  void make_threads(int blocks);
  void begin_block(int place, std::int64_t number);
  void run_resident();
  void allocate_shared(Block& block);
  void check_guards(const Block& block) const;
  void abandon();
  unsigned below(std::size_t n) {
    return static_cast<unsigned>(static_cast<std::uint64_t>(random()) * n >> 32);
  }
  void new_interval() { deep_ = (random() & 1) != 0; }
  void wake(Thread* thread) {
    sleeps_ = 0;
    thread->state = State::ready;
    ready_.push_back(thread);
  }
  void shuffle_last(std::size_t count);
  Thread* next();
  void resume(Thread* thread);
  void suspend();
  void yield();
  void end_thread(Thread& thread);

  // meeting.cpp
  void arrive(Thread& self, Exchange kind, unsigned mask, Location where);
  void complete(Warp& warp, unsigned lanes);
  void complete_shuffle(Warp& warp, unsigned lanes);
  void release_after_end(Warp& warp);
  void explain_stuck();
  std::string waits(const Thread& thread) const;

  const char* op_ = "";
  Shape shape_{};
  void (*body_)(const void*) = nullptr;
  const void* closure_ = nullptr;
  int block_threads_ = 0;
  int block_warps_ = 0;
  int resident_ = 0;  // blocks
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Block> blocks_;
  std::int64_t live_ = 0;
  std::int64_t sleeps_ = 0;  // since something happened
  std::int64_t at_grid_barrier_ = 0;
  unsigned* grid_state_ = nullptr;
  Location grid_where_;

  std::vector<Thread*> ready_;
  bool deep_ = false;  // this interval: who was woken last goes on first, so that warps run ahead
  std::uint64_t seed_ = 0;
  std::uint64_t launches_ = 0;
  std::uint64_t random_ = 1;

  StackPool stacks_;
  Context main_{};
  Outcome outcome_ = Outcome::done;
  std::string error_;
  bool divergent_ = false;
};

extern Executor& executor;

std::string text(uint3 v);
std::string text(const Location& where);
std::string name(const Thread& thread);  // "thread (..) of block (..)"

}  // namespace lamella::simt
