// Asynchronous copies (cuda/copy.cuh). Until it is waited for, the destination of a copy holds
// NaNs; its source is read at once or when it lands, by chance.
#include <cstring>

#include "simt/scheduler.h"

namespace lamella::simt {

namespace {

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<unsigned>(bytes) == 0;
}

}  // namespace

void copy_issue(void* shared, const void* global, int bytes, bool valid, Location where) {
  Thread& self = *executor.current;
  if (!aligned(shared, bytes) || (valid && !aligned(global, bytes))) {
    executor.blame(message("copy_async<", bytes, "> ", aligned(shared, bytes) ? "from" : "to",
                           " an address that is not a multiple of ", bytes),
                   where);
    executor.leave(Outcome::failed);
  }
  Copy copy{shared, global, bytes, self.groups, !valid || (executor.random() & 1) != 0, {}};
  const auto size = static_cast<std::size_t>(bytes);
  if (valid && copy.read) std::memcpy(copy.data, global, size);
  std::memset(shared, 0xFF, size);
  self.copies.push_back(copy);
}

void copy_commit() {
  ++executor.current->groups;
}

void copy_wait(int groups) {
  Thread& self = *executor.current;
  std::size_t landed = 0;
  for (const Copy& copy : self.copies) {
    if (copy.group >= self.groups - groups) break;
    std::memcpy(copy.shared, copy.read ? copy.data : copy.global,
                static_cast<std::size_t>(copy.bytes));
    ++landed;
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(landed));
}

}  // namespace lamella::simt
