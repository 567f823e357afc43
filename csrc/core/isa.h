// Instruction sets: which ones this build holds, which ones this CPU runs, which one is in use.
//
// Every kernel source is compiled once per instruction set into the namespace lamella::<isa>; a
// table of function pointers per op (LAMELLA_DECLARE_KERNELS) connects those namespaces with the
// code that is compiled once. The set in use is chosen at import (the best one the CPU has, or
// LAMELLA_CPU_ISA) and can be switched at run time between calls.
#pragma once

#include <string>
#include <vector>

#if defined(LAMELLA_DEVICE)  // a module of device kernels (csrc/cuda) has one set, theirs
#define LAMELLA_FOR_EACH_ISA(X) X(device)
#elif defined(__x86_64__) || defined(_M_X64)
#define LAMELLA_FOR_EACH_ISA(X) X(baseline) X(avx2) X(avx512)
#elif defined(__aarch64__)
#define LAMELLA_FOR_EACH_ISA(X) X(neon)
#else
#define LAMELLA_FOR_EACH_ISA(X) X(baseline)
#endif

namespace lamella {

enum class Isa : int {
#define LAMELLA_ISA_ENUMERATOR(isa) isa,
  LAMELLA_FOR_EACH_ISA(LAMELLA_ISA_ENUMERATOR)
#undef LAMELLA_ISA_ENUMERATOR
};

const char* isa_name(Isa isa);

// The sets this CPU can run, weakest first.
const std::vector<Isa>& supported_isas();

// Throws ValueError when the name is unknown or the CPU lacks the set.
void set_isa(const std::string& name);

namespace detail {
extern int isa_in_use;
}

inline Isa current_isa() {
#if defined(LAMELLA_DEVICE)
  return Isa::device;
#else
  return static_cast<Isa>(detail::isa_in_use);
#endif
}

}  // namespace lamella

// Declares `<isa>::kernels` of type `Kernels` for every set, and `kernels()`, those in use. A
// source compiled per set names its own, `LAMELLA_ISA::kernels`: `kernels()` is shared by all sets.
#define LAMELLA_DECLARE_ONE_ISA(isa) \
  namespace isa {                    \
  extern const Kernels kernels;      \
  }
#define LAMELLA_KERNELS_ADDRESS(isa) &isa::kernels,
// To be used inside the op's own namespace, after its `struct Kernels`.
#define LAMELLA_DECLARE_KERNELS()                                                          \
  LAMELLA_FOR_EACH_ISA(LAMELLA_DECLARE_ONE_ISA)                                            \
  inline const Kernels& kernels() {                                                        \
    static const Kernels* const table[] = {LAMELLA_FOR_EACH_ISA(LAMELLA_KERNELS_ADDRESS)}; \
    return *table[static_cast<int>(current_isa())];                                        \
  }
