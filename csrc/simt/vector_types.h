// dim3, and the vector types of CUDA with the alignment that its loads and stores require.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

#define LAMELLA_SIMT_VECTORS(T, name, align2, align4)    \
  struct name##1 {                                       \
    T x;                                                 \
  };                                                     \
  struct alignas(align2) name##2 {                       \
    T x, y;                                              \
  };                                                     \
  struct alignas(align4) name##4 {                       \
    T x, y, z, w;                                        \
  };                                                     \
  constexpr name##2 make_##name##2(T x, T y) {           \
    return {x, y};                                       \
  }                                                      \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { \
    return {x, y, z, w};                                 \
  }
#define LAMELLA_SIMT_VECTOR3(T, name) \
  struct name##3 {                    \
    T x, y, z;                        \
  };

LAMELLA_SIMT_VECTORS(signed char, char, 2, 4)
LAMELLA_SIMT_VECTORS(unsigned char, uchar, 2, 4)
LAMELLA_SIMT_VECTORS(short, short, 4, 8)
LAMELLA_SIMT_VECTORS(unsigned short, ushort, 4, 8)
LAMELLA_SIMT_VECTORS(int, int, 8, 16)
LAMELLA_SIMT_VECTORS(unsigned, uint, 8, 16)
LAMELLA_SIMT_VECTORS(long long, longlong, 16, 16)
LAMELLA_SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
LAMELLA_SIMT_VECTORS(float, float, 8, 16)
LAMELLA_SIMT_VECTORS(double, double, 16, 16)
LAMELLA_SIMT_VECTOR3(int, int)
LAMELLA_SIMT_VECTOR3(float, float)
#undef LAMELLA_SIMT_VECTORS
#undef LAMELLA_SIMT_VECTOR3

constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
  return {x, y, z};
}
constexpr int3 make_int3(int x, int y, int z) {
  return {x, y, z};
}
constexpr float3 make_float3(float x, float y, float z) {
  return {x, y, z};
}
