#include "simt/mma.h"

#include <cstdint>
#include <cstring>

namespace lamella::simt {

namespace {

struct Rows {
  const void* row;
  unsigned* registers;
};

template <int count, bool transposed>
const char* load(void* const* lanes) {
  for (int matrix = 0; matrix < count; ++matrix) {
    std::uint16_t element[8][8];
    for (int r = 0; r < 8; ++r) {
      const void* row = static_cast<const Rows*>(lanes[8 * matrix + r])->row;
      if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
        return "the address of a row is not a multiple of 16";
      }
      std::memcpy(element[r], row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int major = lane / 4;
      const int minor = lane % 4 * 2;
      const unsigned low = transposed ? element[minor][major] : element[major][minor];
      const unsigned high = transposed ? element[minor + 1][major] : element[major][minor + 1];
      static_cast<Rows*>(lanes[lane])->registers[matrix] = high << 16 | low;
    }
  }
  return nullptr;
}

struct Fragments {
  float* d;
  const unsigned* a;
  const unsigned* b;
};

// d(16, 8) += a(16, depth) b(depth, 8), summed in the order of depth.
template <int depth>
void multiply(void* const* lanes, const float (&a)[16][depth], const float (&b)[depth][8]) {
  for (int row = 0; row < 16; ++row) {
    float sum[8];
    for (int column = 0; column < 8; ++column) {
      const auto* f = static_cast<const Fragments*>(lanes[row % 8 * 4 + column / 2]);
      sum[column] = f->d[row / 8 * 2 + column % 2];
    }
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < 8; ++column) {
      auto* f = static_cast<Fragments*>(lanes[row % 8 * 4 + column / 2]);
      f->d[row / 8 * 2 + column % 2] = sum[column];
    }
  }
}

template <float (*to_float)(std::uint16_t)>
const char* multiply_pairs(void* const* lanes) {
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* f = static_cast<const Fragments*>(lanes[lane]);
    const int group = lane / 4;
    const int first = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      for (int half = 0; half < 2; ++half) {
        a[group + i % 2 * 8][first + i / 2 * 8 + half] =
            to_float(static_cast<std::uint16_t>(f->a[i] >> (16 * half)));
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int half = 0; half < 2; ++half) {
        b[first + i * 8 + half][group] =
            to_float(static_cast<std::uint16_t>(f->b[i] >> (16 * half)));
      }
    }
  }
  multiply(lanes, a, b);
  return nullptr;
}

const char* multiply_tf32_fragments(void* const* lanes) {
  float a[16][8];
  float b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* f = static_cast<const Fragments*>(lanes[lane]);
    const int group = lane / 4;
    const int place = lane % 4;
    // The hardware does not read the low 13 bits.
    for (int i = 0; i < 4; ++i) {
      a[group + i % 2 * 8][place + i / 2 * 4] = float_of(f->a[i] & ~0x1FFFu);
    }
    for (int i = 0; i < 2; ++i) b[place + i * 4][group] = float_of(f->b[i] & ~0x1FFFu);
  }
  multiply(lanes, a, b);
  return nullptr;
}

}  // namespace

void load_matrix(unsigned* registers, int count, bool transposed, const void* row, Location where) {
  constexpr Collective loads[2][3] = {{load<1, false>, load<2, false>, load<4, false>},
                                      {load<1, true>, load<2, true>, load<4, true>}};
  Rows rows{row, registers};
  collective("ldmatrix", loads[transposed ? 1 : 0][count / 2], &rows, where);
}

template <>
void multiply_16<__half>(float* d, const unsigned* a, const unsigned* b, Location where) {
  Fragments fragments{d, a, b};
  collective("mma_m16n8k16", multiply_pairs<half_to_float>, &fragments, where);
}

template <>
void multiply_16<__nv_bfloat16>(float* d, const unsigned* a, const unsigned* b, Location where) {
  Fragments fragments{d, a, b};
  collective("mma_m16n8k16", multiply_pairs<bfloat16_to_float>, &fragments, where);
}

void multiply_tf32(float* d, const unsigned* a, const unsigned* b, Location where) {
  Fragments fragments{d, a, b};
  collective("mma_m16n8k8_tf32", multiply_tf32_fragments, &fragments, where);
}

}  // namespace lamella::simt
