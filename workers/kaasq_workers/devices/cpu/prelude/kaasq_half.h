// __half and __nv_bfloat16: stored in 16 bits, computed in float and rounded after every operation, as on a GPU.
#pragma once

namespace kaasq {
// Round to nearest, ties to even: the low bits that go decide, and the last bit that stays breaks the tie.
inline uint16_t bfloat16_bits(float x) {
    const uint32_t word = bits<uint32_t>(x);
    if (x != x) return 0x7fff;
    return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}
inline float bfloat16_value(uint16_t stored) { return bits<float>(static_cast<uint32_t>(stored) << 16); }

#if defined(__aarch64__) || defined(__FLT16_MANT_DIG__)
#if defined(__aarch64__)
using NativeHalf = __fp16;  // GCC has _Float16 there too, but in C++ only from version 13 on
#else
using NativeHalf = _Float16;
#endif
inline uint16_t half_bits(float x) { return bits<uint16_t>(static_cast<NativeHalf>(x)); }
inline float half_value(uint16_t stored) { return static_cast<float>(bits<NativeHalf>(stored)); }
#else
// For compilers without _Float16. Scaling by powers of two lets the processor's own rounding do the work.
inline uint16_t half_bits(float x) {
    const uint32_t word = bits<uint32_t>(x), sign = word >> 16 & 0x8000, magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7fff);
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 or more
    if (magnitude < 0x38800000)  // subnormal: adding 0.5 puts the last bit where half's last bit is
        return static_cast<uint16_t>(sign | (bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000));
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
inline float half_value(uint16_t stored) {
    const uint32_t sign = static_cast<uint32_t>(stored & 0x8000) << 16, magnitude = stored & 0x7fff;
    if (magnitude >= 0x7c00) return bits<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x400) return bits<float>(sign | bits<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
    return bits<float>(sign | ((magnitude << 13) + 0x38000000));
}
#endif
}  // namespace kaasq

#define KAASQ_SMALL_FLOAT(name, to_bits, to_float)                                                         \
    struct name {                                                                                          \
        uint16_t stored;                                                                                   \
        name() = default;                                                                                  \
        template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>                              \
        name(T x) : stored(to_bits(static_cast<float>(x))) {}                                              \
        operator float() const { return to_float(stored); }                                                \
        name& operator+=(name b) { return *this = name(float(*this) + float(b)); }                         \
        name& operator-=(name b) { return *this = name(float(*this) - float(b)); }                         \
        name& operator*=(name b) { return *this = name(float(*this) * float(b)); }                         \
        name& operator/=(name b) { return *this = name(float(*this) / float(b)); }                         \
    };                                                                                                     \
    inline name operator+(name a, name b) { return name(float(a) + float(b)); }                            \
    inline name operator-(name a, name b) { return name(float(a) - float(b)); }                            \
    inline name operator*(name a, name b) { return name(float(a) * float(b)); }                            \
    inline name operator/(name a, name b) { return name(float(a) / float(b)); }                            \
    inline name operator-(name a) { a.stored ^= 0x8000; return a; }                                        \
    inline name operator+(name a) { return a; }                                                            \
    inline bool operator<(name a, name b) { return float(a) < float(b); }                                  \
    inline bool operator>(name a, name b) { return float(a) > float(b); }                                  \
    inline bool operator<=(name a, name b) { return float(a) <= float(b); }                                \
    inline bool operator>=(name a, name b) { return float(a) >= float(b); }                                \
    inline bool operator==(name a, name b) { return float(a) == float(b); }                                \
    inline bool operator!=(name a, name b) { return float(a) != float(b); }                                \
    inline name __hadd(name a, name b) { return a + b; }                                                   \
    inline name __hsub(name a, name b) { return a - b; }                                                   \
    inline name __hmul(name a, name b) { return a * b; }                                                   \
    inline name __hdiv(name a, name b) { return a / b; }                                                   \
    inline name __hfma(name a, name b, name c) { return name(float(a) * float(b) + float(c)); }            \
    inline name __hneg(name a) { return -a; }                                                              \
    inline name __habs(name a) { a.stored &= 0x7fff; return a; }                                           \
    inline name __hmax(name a, name b) { return name(kaasq::greater(float(a), float(b))); }                \
    inline name __hmin(name a, name b) { return name(kaasq::lesser(float(a), float(b))); }                 \
    inline bool __hlt(name a, name b) { return a < b; }                                                    \
    inline bool __hle(name a, name b) { return a <= b; }                                                   \
    inline bool __hgt(name a, name b) { return a > b; }                                                    \
    inline bool __hge(name a, name b) { return a >= b; }                                                   \
    inline bool __heq(name a, name b) { return a == b; }                                                   \
    inline bool __hne(name a, name b) { return a != b; }                                                   \
    inline bool __hisnan(name a) { return float(a) != float(a); }                                          \
    inline name hsqrt(name a) { return name(sqrtf(a)); }                                                   \
    inline name hrsqrt(name a) { return name(1.0f / sqrtf(a)); }                                           \
    inline name hexp(name a) { return name(expf(a)); }                                                     \
    inline name hexp2(name a) { return name(exp2f(a)); }                                                   \
    inline name hlog(name a) { return name(logf(a)); }                                                     \
    inline name hlog2(name a) { return name(log2f(a)); }                                                   \
    inline name hsin(name a) { return name(sinf(a)); }                                                     \
    inline name hcos(name a) { return name(cosf(a)); }                                                     \
    inline name hfloor(name a) { return name(floorf(a)); }                                                 \
    inline name hceil(name a) { return name(ceilf(a)); }                                                   \
    inline name hrcp(name a) { return name(1.0f / float(a)); }                                             \
    struct alignas(4) name##2 { name x, y; };                                                              \
    inline name##2 __hadd2(name##2 a, name##2 b) { return {a.x + b.x, a.y + b.y}; }                        \
    inline name##2 __hsub2(name##2 a, name##2 b) { return {a.x - b.x, a.y - b.y}; }                        \
    inline name##2 __hmul2(name##2 a, name##2 b) { return {a.x * b.x, a.y * b.y}; }                        \
    inline name##2 __h2div(name##2 a, name##2 b) { return {a.x / b.x, a.y / b.y}; }                        \
    inline name##2 __hfma2(name##2 a, name##2 b, name##2 c) {                                              \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                             \
    }                                                                                                      \
    inline name##2 __hneg2(name##2 a) { return {-a.x, -a.y}; }                                             \
    inline name##2 __hmax2(name##2 a, name##2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }          \
    inline name##2 __hmin2(name##2 a, name##2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }          \
    inline name##2 operator+(name##2 a, name##2 b) { return __hadd2(a, b); }                               \
    inline name##2 operator-(name##2 a, name##2 b) { return __hsub2(a, b); }                               \
    inline name##2 operator*(name##2 a, name##2 b) { return __hmul2(a, b); }                               \
    inline name##2 operator/(name##2 a, name##2 b) { return __h2div(a, b); }

KAASQ_SMALL_FLOAT(__half, kaasq::half_bits, kaasq::half_value)
KAASQ_SMALL_FLOAT(__nv_bfloat16, kaasq::bfloat16_bits, kaasq::bfloat16_value)
#undef KAASQ_SMALL_FLOAT
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __double2half(double x) { return __half(x); }
inline float __half2float(__half x) { return x; }
inline __half __int2half_rn(int x) { return __half(x); }
inline __half __uint2half_rn(unsigned x) { return __half(x); }
inline int __half2int_rn(__half x) { return __float2int_rn(x); }
inline int __half2int_rz(__half x) { return __float2int_rz(x); }
inline unsigned short __half_as_ushort(__half x) { return x.stored; }
inline short __half_as_short(__half x) { return static_cast<short>(x.stored); }
inline __half __ushort_as_half(unsigned short x) { return kaasq::bits<__half>(x); }
inline __half __short_as_half(short x) { return kaasq::bits<__half>(x); }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline float __low2float(__half2 v) { return v.x; }
inline float __high2float(__half2 v) { return v.y; }

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.stored; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return kaasq::bits<__nv_bfloat16>(x); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {__nv_bfloat16(x), __nv_bfloat16(x)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }
