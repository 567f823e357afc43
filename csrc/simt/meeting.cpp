// Where threads meet: barriers of the block and of the grid, shuffles, votes and other work of a
// warp; the rules about who must come, and the texts for those who break them.
#include <bit>
#include <cstring>

#include "simt/scheduler.h"

namespace lamella::simt {

namespace {

constexpr unsigned full_warp = 0xFFFFFFFFu;

const char* barrier_name(Vote vote) {
  switch (vote) {
    case Vote::none:
      return "__syncthreads";
    case Vote::count:
      return "__syncthreads_count";
    case Vote::all:
      return "__syncthreads_and";
    case Vote::any:
      break;
  }
  return "__syncthreads_or";
}

const char* exchange_name(const Warp& warp, int lane) {
  switch (warp.kind[lane]) {
    case Exchange::shuffle:
      return "__shfl_sync";
    case Exchange::shuffle_up:
      return "__shfl_up_sync";
    case Exchange::shuffle_down:
      return "__shfl_down_sync";
    case Exchange::shuffle_xor:
      return "__shfl_xor_sync";
    case Exchange::ballot:
      return "__ballot_sync";
    case Exchange::any:
      return "__any_sync";
    case Exchange::all:
      return "__all_sync";
    case Exchange::match_any:
      return "__match_any_sync";
    case Exchange::barrier:
      return "__syncwarp";
    case Exchange::collective:
      break;
  }
  return warp.name[lane];
}

std::string hexadecimal(unsigned v) {
  std::string s = "0x";
  for (int digit = 7; digit >= 0; --digit) s += "0123456789abcdef"[v >> (4 * digit) & 15];
  return s;
}

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column();
}

std::string number(unsigned v) {
  return std::to_string(v);
}

// Whom a waiting lane meets: its mask; ended lanes need not come, unless the work is of all 32.
unsigned expected(const Warp& warp, int lane) {
  const unsigned mask = warp.mask[lane];
  return warp.kind[lane] == Exchange::collective ? mask : mask & ~warp.ended;
}

// Those of them who have not come, or who wait in something else.
unsigned absent(const Warp& warp, int lane) {
  const unsigned lanes = expected(warp, lane);
  unsigned missing = lanes & ~warp.waiting;
  if (missing != 0) return missing;
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const bool other_work =
        warp.kind[lane] == Exchange::collective && warp.perform[l] != warp.perform[lane];
    if (warp.kind[l] != warp.kind[lane] || warp.mask[l] != warp.mask[lane] || other_work) {
      missing |= 1u << l;
    }
  }
  return missing;
}

}  // namespace

std::string text(uint3 v) {
  return message("(", number(v.x), ", ", number(v.y), ", ", number(v.z), ")");
}

std::string text(const Location& where) {
  const char* file = where.file_name();
  if (const char* slash = std::strrchr(file, '/')) file = slash + 1;
  return message(file, ":", number(where.line()));
}

std::string name(const Thread& thread) {
  return message("thread ", text(thread.index), " of block ", text(thread.block->index));
}

int block_barrier(Vote vote, bool predicate, Location where) {
  return executor.block_barrier(vote, predicate, where);
}
void grid_barrier(unsigned* state, Location where) {
  executor.grid_barrier(state, where);
}
std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t value, int source,
                       Location where) {
  return executor.exchange(kind, mask, value, source, where);
}
void collective(const char* name, Collective perform, void* argument, Location where) {
  executor.collective(name, perform, argument, where);
}

// ---- barriers --------------------------------------------------------------------------------

int Executor::block_barrier(Vote vote, bool predicate, Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  self.where = where;
  if (block.waiting == 0) {
    block.vote = vote;
    block.where = where;
    block.count = 0;
  } else if (block.vote != vote || !same_place(block.where, where)) {
    blame(message(barrier_name(vote), " while other threads of the block wait at ",
                  barrier_name(block.vote), " at ", text(block.where)),
          where, true);
    leave(Outcome::failed);
  }
  block.count += predicate ? 1 : 0;
  if (++block.waiting < block_threads_) {
    self.state = State::at_barrier;
    suspend();
    return block.result;
  }
  block.waiting = 0;
  block.result = vote == Vote::count ? block.count
                 : vote == Vote::all ? block.count == block_threads_
                                     : block.count > 0;
  new_interval();
  for (int t = 0; t < block_threads_; ++t) {
    if (&block.threads[t] != &self) wake(&block.threads[t]);
  }
  if (deep_) shuffle_last(static_cast<std::size_t>(block_threads_ - 1));
  return block.result;
}

void Executor::grid_barrier(unsigned* state, Location where) {
  Thread& self = *current;
  self.where = where;
  if (!shape_.cooperative) simt::fail("grid_barrier() in a launch that is not cooperative", where);
  if (at_grid_barrier_ == 0) {
    if (grid_state_ == nullptr) {
      if ((*state & 0x7FFFFFFFu) != 0)
        simt::fail("the memory of grid_barrier() is not zero", where);
      grid_state_ = state;
    }
    grid_where_ = where;
  } else if (!same_place(grid_where_, where)) {
    blame(message("grid_barrier() while other threads wait in it at ", text(grid_where_)), where,
          true);
    leave(Outcome::failed);
  }
  if (state != grid_state_) simt::fail("grid_barrier() with memory other than before", where);
  const std::size_t all = static_cast<std::size_t>(resident_) * block_threads_;
  if (static_cast<std::size_t>(++at_grid_barrier_) < all) {
    self.state = State::at_grid_barrier;
    suspend();
    return;
  }
  at_grid_barrier_ = 0;
  *state ^= 0x80000000u;  // as it is on a device
  new_interval();
  for (std::size_t t = 0; t < all; ++t) {
    if (&threads_[t] != &self) wake(&threads_[t]);
  }
  if (deep_) shuffle_last(all - 1);
}

// ---- warps -----------------------------------------------------------------------------------

// Returns when all lanes of the mask have met, and their values have been exchanged.
void Executor::arrive(Thread& self, Exchange kind, unsigned mask, Location where) {
  Warp& warp = *self.warp;
  const int lane = self.lane;
  self.where = where;
  warp.kind[lane] = kind;
  warp.mask[lane] = mask;
  if ((mask >> lane & 1) == 0) {
    blame(message(exchange_name(warp, lane), " by lane ", lane, ", which is not in its mask ",
                  hexadecimal(mask)),
          where);
    leave(Outcome::failed);
  }
  warp.waiting |= 1u << lane;
  if (absent(warp, lane) == 0) {
    complete(warp, expected(warp, lane));
  } else {
    self.state = State::at_exchange;
    suspend();
  }
}

std::uint64_t Executor::exchange(Exchange kind, unsigned mask, std::uint64_t value, int source,
                                 Location where) {
  Thread& self = *current;
  self.warp->value[self.lane] = value;
  self.warp->source[self.lane] = source;
  arrive(self, kind, mask, where);
  return self.warp->value[self.lane];
}

void Executor::collective(const char* name, Collective perform, void* argument, Location where) {
  Thread& self = *current;
  self.warp->value[self.lane] = reinterpret_cast<std::uintptr_t>(argument);
  self.warp->perform[self.lane] = perform;
  self.warp->name[self.lane] = name;
  arrive(self, Exchange::collective, full_warp, where);
}

void Executor::complete(Warp& warp, unsigned lanes) {
  const int first = std::countr_zero(lanes);
  const Exchange kind = warp.kind[first];
  unsigned votes = 0;
  switch (kind) {
    case Exchange::shuffle:
    case Exchange::shuffle_up:
    case Exchange::shuffle_down:
    case Exchange::shuffle_xor:
      complete_shuffle(warp, lanes);
      break;
    case Exchange::ballot:
    case Exchange::any:
    case Exchange::all:
      for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const int l = std::countr_zero(rest);
        if (warp.value[l] != 0) votes |= 1u << l;
      }
      for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        warp.value[std::countr_zero(rest)] = kind == Exchange::ballot ? votes
                                             : kind == Exchange::any  ? votes != 0
                                                                      : votes == lanes;
      }
      break;
    case Exchange::match_any: {
      unsigned equal[32];
      for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const int l = std::countr_zero(rest);
        equal[l] = 0;
        for (unsigned others = lanes; others != 0; others &= others - 1) {
          const int o = std::countr_zero(others);
          if (warp.value[o] == warp.value[l]) equal[l] |= 1u << o;
        }
      }
      for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        warp.value[std::countr_zero(rest)] = equal[std::countr_zero(rest)];
      }
      break;
    }
    case Exchange::barrier:
      break;
    case Exchange::collective: {
      void* arguments[32];
      for (int l = 0; l < 32; ++l) {
        arguments[l] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(warp.value[l]));
      }
      if (const char* wrong = warp.perform[first](arguments)) {
        blame(message(warp.name[first], ": ", wrong), warp.threads[first].where, false,
              &warp.threads[first]);
        leave(Outcome::failed);
      }
      break;
    }
  }
  warp.waiting &= ~lanes;
  std::size_t woken = 0;
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    Thread* thread = &warp.threads[std::countr_zero(rest)];
    if (thread == current) continue;
    wake(thread);
    ++woken;
  }
  if (deep_) shuffle_last(woken);
}

void Executor::complete_shuffle(Warp& warp, unsigned lanes) {
  std::uint64_t result[32];
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const int source = warp.source[l] < 0 ? l : warp.source[l];
    if ((lanes >> source & 1) == 0) {
      blame(message(exchange_name(warp, l), ": lane ", l, " reads lane ", source, ", which ",
                    (warp.mask[l] >> source & 1) == 0 ? "is not in its mask "
                                                      : "is absent, though in its mask ",
                    hexadecimal(warp.mask[l])),
            warp.threads[l].where, false, &warp.threads[l]);
      leave(Outcome::failed);
    }
    result[l] = warp.value[source];
  }
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    warp.value[l] = result[l];
  }
}

// Those who waited for none but the lane that has ended.
void Executor::release_after_end(Warp& warp) {
  for (unsigned rest = warp.waiting; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    if (absent(warp, l) != 0) continue;
    complete(warp, expected(warp, l));
    rest &= warp.waiting | (1u << l);
  }
}

// ---- when nobody can go on -------------------------------------------------------------------

std::string Executor::waits(const Thread& thread) const {
  switch (thread.state) {
    case State::ended:
      return message(name(thread), " has ended");
    case State::at_barrier:
      return message(name(thread), " waits at ", barrier_name(thread.block->vote), " at ",
                     text(thread.where));
    case State::at_grid_barrier:
      return message(name(thread), " waits at grid_barrier at ", text(thread.where));
    case State::at_exchange:
      return message(name(thread), " waits at ", exchange_name(*thread.warp, thread.lane),
                     " with mask ", hexadecimal(thread.warp->mask[thread.lane]), " at ",
                     text(thread.where));
    case State::ready:
      break;
  }
  return message(name(thread), " runs");
}

// One thread that waits, and one that it waits for in vain.
void Executor::explain_stuck() {
  divergent_ = true;
  const std::size_t count = static_cast<std::size_t>(resident_) * block_threads_;
  for (std::size_t t = 0; t < count; ++t) {  // warps first: theirs are the causes of the others'
    const Thread& thread = threads_[t];
    if (thread.state != State::at_exchange) continue;
    const Warp& warp = *thread.warp;
    const unsigned missing = absent(warp, thread.lane);
    if (missing == 0) continue;
    const int lane = std::countr_zero(missing);
    const std::size_t place = static_cast<std::size_t>(warp.threads - thread.block->threads) + lane;
    error_ = message(op_, ": ", waits(thread), " for lane ", lane, ": ",
                     place < static_cast<std::size_t>(block_threads_)
                         ? waits(warp.threads[lane])
                         : std::string("the block has no such thread"));
    return;
  }
  for (std::size_t t = 0; t < count; ++t) {
    const Thread& thread = threads_[t];
    if (thread.state != State::at_barrier && thread.state != State::at_grid_barrier) continue;
    const bool of_block = thread.state == State::at_barrier;
    const Thread* const begin = of_block ? thread.block->threads : threads_.data();
    const std::size_t all = of_block ? static_cast<std::size_t>(block_threads_) : count;
    const std::size_t there = of_block ? static_cast<std::size_t>(thread.block->waiting)
                                       : static_cast<std::size_t>(at_grid_barrier_);
    for (std::size_t o = 0; o < all; ++o) {
      if (begin[o].state == thread.state) continue;
      error_ = message(op_, ": ", waits(thread), ", where ", there, " of ", all,
                       " threads have come: ", waits(begin[o]));
      return;
    }
  }
  error_ = message(op_, ": no thread can go on");
}

}  // namespace lamella::simt
