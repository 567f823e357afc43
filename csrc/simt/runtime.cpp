// cuda/runtime.h on the host's memory: a small made-up GPU. Nothing is queued; every launch and
// copy is over when it returns.
#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>

namespace lamella::device {

namespace {

// What a device of this capability lets one block have.
std::size_t shared_kilobytes(int capability) {
  if (capability < 80) return 64;
  if (capability == 80 || capability == 87) return 163;
  if (capability < 90 || capability >= 120) return 99;
  return 227;
}

Properties make_properties() {
  int capability = 90;
  if (const char* wanted = std::getenv("LAMELLA_SIMT_CAPABILITY")) {
    char* end = nullptr;
    const long value = std::strtol(wanted, &end, 10);
    if (*wanted == '\0' || *end != '\0' || value < 75 || value > 129) {
      throw CudaError(
          message("LAMELLA_SIMT_CAPABILITY must be a compute capability like 75 or 90, "
                  "received ",
                  wanted));
    }
    capability = static_cast<int>(value);
  }
  Properties p;
  p.name = "SIMT executor";
  p.major = capability / 10;
  p.minor = capability % 10;
  p.multiprocessors = 4;
  p.shared_bytes = shared_kilobytes(capability) * 1024;
  p.memory_bytes = std::size_t{1} << 32;
  p.l2_bytes = std::size_t{1} << 22;
  return p;
}

}  // namespace

const Properties& properties() {
  static const Properties made = make_properties();
  return made;
}

void copy_to_device(void* device, const void* host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void copy_to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

void copy_on_device(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void fill_bytes(void* device, unsigned char value, std::size_t bytes) {
  if (bytes > 0) std::memset(device, value, bytes);
}

void synchronize() {}

int device_count(std::string*) {
  return 1;
}

// The default stream: there are no others.
std::uintptr_t stream_handle() {
  return 0;
}

void synchronize_all() noexcept {}

void let_wait(std::uintptr_t) {}

void* allocate(std::size_t bytes) {
  return std::malloc(bytes > 0 ? bytes : 1);
}

void release(void* block) noexcept {
  std::free(block);
}

}  // namespace lamella::device
