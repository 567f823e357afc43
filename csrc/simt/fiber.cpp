#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#if defined(LAMELLA_SIMT_UCONTEXT)
#elif defined(__x86_64__)
// rdi: where to put this stack pointer, rsi: the stack pointer to go on with.
asm(R"(
.text
.p2align 4
.globl lamella_simt_switch
.hidden lamella_simt_switch
.type lamella_simt_switch, @function
lamella_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lamella_simt_switch, .-lamella_simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl lamella_simt_switch
.hidden lamella_simt_switch
.type lamella_simt_switch, %function
lamella_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size lamella_simt_switch, .-lamella_simt_switch
)");
#endif

namespace lamella::simt {

namespace {
#if defined(LAMELLA_SIMT_ASAN)
constexpr std::size_t stack_bytes = 1 << 20;  // its frames are several times as large
#else
constexpr std::size_t stack_bytes = 1 << 17;
#endif
}  // namespace

Stack* StackPool::acquire() {
  if (!free_.empty()) {
    Stack* stack = free_.back();
    free_.pop_back();
    return stack;
  }
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* memory = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (mprotect(memory, page, PROT_NONE) != 0) {
    munmap(memory, page + stack_bytes);
    return nullptr;
  }
  auto* stack = new Stack;
  stack->low = static_cast<char*>(memory) + page;
  stack->bytes = stack_bytes;
  // Spread over the sets of the first-level cache: 256 stacks are in use at the same depth.
  stack->top = stack->low + stack_bytes - (made_ * 448) % 16384;
  ++made_;
  free_.reserve(made_);
  return stack;
}

void prepare(Context& context, const Stack& stack, void (*entry)()) {
#if defined(LAMELLA_SIMT_ASAN)
  // What an abandoned fiber left there.
  __asan_unpoison_memory_region(stack.low, stack.bytes);
  context.fake_stack = nullptr;
  context.low = stack.low;
  context.bytes = stack.bytes;
#endif
#if defined(LAMELLA_SIMT_UCONTEXT)
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack.low;
  context.state.uc_stack.ss_size = static_cast<std::size_t>(stack.top - stack.low);
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
#else
  auto address = reinterpret_cast<std::uintptr_t>(stack.top) & ~std::uintptr_t{63};
#if defined(__x86_64__)
  // Six registers, the address that the switch returns to, and 0 where entry()'s caller would be.
  auto* frame = reinterpret_cast<void**>(address) - 8;
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);
#else
  auto* frame = reinterpret_cast<void**>(address - 160);
  std::memset(frame, 0, 160);
  frame[11] = reinterpret_cast<void*>(entry);  // x30
#endif
  context.stack_pointer = frame;
#endif
}

}  // namespace lamella::simt
