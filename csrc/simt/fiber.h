// Fibers: the contexts in which the executor runs the threads of a kernel, each with a stack of
// its own. All of one launch's fibers run on the OS thread that launched.
//
// x86-64 and aarch64 have a switch of their own, which saves what the ABI preserves across calls
// and costs a few nanoseconds; other systems use ucontext (so does LAMELLA_SIMT_UCONTEXT, for
// tests), whose switch calls the kernel.
#pragma once

#include <cstddef>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define LAMELLA_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LAMELLA_SIMT_ASAN 1
#endif
#endif

#if defined(LAMELLA_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(LAMELLA_SIMT_UCONTEXT) && \
    !(defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)))
#define LAMELLA_SIMT_UCONTEXT 1
#endif

#if defined(LAMELLA_SIMT_UCONTEXT)
#include <ucontext.h>
#else
// Saves the caller's context on its stack, puts its stack pointer into *from, goes on at `to`.
extern "C" [[gnu::visibility("hidden")]] void lamella_simt_switch(void** from, void* to);
#endif

namespace lamella::simt {

struct Stack {
  char* low;          // above the guard page
  std::size_t bytes;  // up to the highest address
  char* top;          // where a fiber begins: not at the same place of a page on each stack
};

// Stacks are never given back to the system: the next launch uses them again, hottest first.
class StackPool {
 public:
  // Null where the system has no more memory.
  Stack* acquire();
  void release(Stack* stack) { free_.push_back(stack); }

 private:
  std::vector<Stack*> free_;
  std::size_t made_ = 0;
};

struct Context {
#if defined(LAMELLA_SIMT_UCONTEXT)
  ucontext_t state;
#else
  void* stack_pointer;
#endif
#if defined(LAMELLA_SIMT_ASAN)
  void* fake_stack;
  const void* low;
  std::size_t bytes;
#endif
};

// A context that begins in entry(), which never returns, when it is first switched to.
void prepare(Context& context, const Stack& stack, void (*entry)());

#if defined(LAMELLA_SIMT_ASAN)
inline Context* switched_from = nullptr;
#endif

// What entry() does first.
inline void entered() {
#if defined(LAMELLA_SIMT_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &switched_from->low, &switched_from->bytes);
#endif
}

// Goes on in `to`; returns when something switches back to `from`, which never happens to a
// context that is `over`.
inline void switch_context(Context& from, Context& to, [[maybe_unused]] bool over = false) {
#if defined(LAMELLA_SIMT_ASAN)
  switched_from = &from;
  __sanitizer_start_switch_fiber(over ? nullptr : &from.fake_stack, to.low, to.bytes);
#endif
#if defined(LAMELLA_SIMT_UCONTEXT)
  swapcontext(&from.state, &to.state);
#else
  lamella_simt_switch(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(LAMELLA_SIMT_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, &switched_from->low, &switched_from->bytes);
#endif
}

}  // namespace lamella::simt
