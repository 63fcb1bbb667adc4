// float2, int4, dim3 and the like, with CUDA's sizes and alignments, and the index variables of a thread.
#pragma once

#define KAASQ_VECTORS(T, name, align1, align2, align4)                                    \
    struct alignas(align1) name##1 { T x; };                                              \
    struct alignas(align2) name##2 { T x, y; };                                           \
    struct alignas(align1) name##3 { T x, y, z; };                                        \
    struct alignas(align4) name##4 { T x, y, z, w; };                                     \
    inline name##1 make_##name##1(T x) { return {x}; }                                    \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                            \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                    \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

KAASQ_VECTORS(signed char, char, 1, 2, 4)
KAASQ_VECTORS(unsigned char, uchar, 1, 2, 4)
KAASQ_VECTORS(short, short, 2, 4, 8)
KAASQ_VECTORS(unsigned short, ushort, 2, 4, 8)
KAASQ_VECTORS(int, int, 4, 8, 16)
KAASQ_VECTORS(unsigned, uint, 4, 8, 16)
KAASQ_VECTORS(long, long, 8, 16, 16)
KAASQ_VECTORS(unsigned long, ulong, 8, 16, 16)
KAASQ_VECTORS(long long, longlong, 8, 16, 16)
KAASQ_VECTORS(unsigned long long, ulonglong, 8, 16, 16)
KAASQ_VECTORS(float, float, 4, 8, 16)
KAASQ_VECTORS(double, double, 8, 16, 16)
#undef KAASQ_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

// Static, and never passed on by address, so that the compiler knows that no store through a pointer changes them: it
// keeps them in registers. blockDim and gridDim are dim3 in CUDA; a constructor would make them slow to reach here.
static __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;
