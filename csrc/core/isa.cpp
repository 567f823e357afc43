#include "core/isa.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif

#include <cstdlib>

#include "core/error.h"

namespace lamella {
namespace {

#if defined(__x86_64__) || defined(_M_X64)
// Not every compiler's __builtin_cpu_supports knows it. The system keeps the registers it uses
// wherever AVX is supported.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// All that csrc/CMakeLists.txt lets the compiler use for the set.
bool cpu_runs(Isa isa) {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case Isa::avx512:
      return cpu_runs(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  (void)isa;
  return true;
#endif
}

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(isa_name(isa));
  return text;
}

}  // namespace

namespace detail {
// Set again by choose_isa_at_import; the last supported set is the strongest.
int isa_in_use = static_cast<int>(supported_isas().back());
}  // namespace detail

const char* isa_name(Isa isa) {
  static const char* const table[] = {
#define LAMELLA_ISA_NAME(isa) #isa,
      LAMELLA_FOR_EACH_ISA(LAMELLA_ISA_NAME)
#undef LAMELLA_ISA_NAME
  };
  return table[static_cast<int>(isa)];
}

const std::vector<Isa>& supported_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> found;
#define LAMELLA_ADD_IF_SUPPORTED(isa) \
  if (cpu_runs(Isa::isa)) found.push_back(Isa::isa);
    LAMELLA_FOR_EACH_ISA(LAMELLA_ADD_IF_SUPPORTED)
#undef LAMELLA_ADD_IF_SUPPORTED
    return found;
  }();
  return isas;
}

void set_isa(const std::string& name) {
  for (Isa isa : supported_isas()) {
    if (name == isa_name(isa)) {
      detail::isa_in_use = static_cast<int>(isa);
      return;
    }
  }
  throw ValueError("the CPU instruction set must be one of " + names(supported_isas()) +
                   " on this machine; received \"" + name + "\"");
}

}  // namespace lamella
