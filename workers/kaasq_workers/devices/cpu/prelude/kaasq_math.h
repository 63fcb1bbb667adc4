// CUDA's mathematical functions beyond those of <math.h>. The fast intrinsics (__expf) are the accurate functions here.
#pragma once

namespace kaasq {
// C's fmax and fmin, which ignore a NaN, but as expressions that the compiler can vectorise.
template <class T>
inline constexpr T greater(T a, T b) { return a > b || b != b ? a : b; }
template <class T>
inline constexpr T lesser(T a, T b) { return a < b || b != b ? a : b; }
template <class A, class B>
using common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;

// Float to integer as CUDA does it: NaN is 0, what is too large or too small is the largest or smallest integer.
template <class I, class F>
inline I saturating(F x) {
    constexpr I lowest = std::is_signed_v<I> ? static_cast<I>(static_cast<std::make_unsigned_t<I>>(1) << (8 * sizeof(I) - 1)) : 0;
    constexpr I highest = static_cast<I>(~lowest);
    if (x != x) return 0;
    if (x <= static_cast<F>(lowest)) return lowest;
    if (x >= static_cast<F>(highest)) return highest;
    return static_cast<I>(x);
}
}  // namespace kaasq

template <class A, class B>
inline constexpr kaasq::common<A, B> max(A a, B b) {
    return kaasq::greater<kaasq::common<A, B>>(a, b);
}
template <class A, class B>
inline constexpr kaasq::common<A, B> min(A a, B b) {
    return kaasq::lesser<kaasq::common<A, B>>(a, b);
}
inline float kaasq_fmaxf(float a, float b) { return kaasq::greater(a, b); }
inline float kaasq_fminf(float a, float b) { return kaasq::lesser(a, b); }
template <class A, class B>
inline kaasq::common<A, B> kaasq_fmax(A a, B b) { return kaasq::greater<kaasq::common<A, B>>(a, b); }
template <class A, class B>
inline kaasq::common<A, B> kaasq_fmin(A a, B b) { return kaasq::lesser<kaasq::common<A, B>>(a, b); }
namespace std {
using ::kaasq_fmax;
using ::kaasq_fmaxf;
using ::kaasq_fmin;
using ::kaasq_fminf;
}  // namespace std
// The C library's are calls, which keep a loop from being vectorised; std::fmaxf works too, see above.
#define fmaxf kaasq_fmaxf
#define fminf kaasq_fminf
#define fmax kaasq_fmax
#define fmin kaasq_fmin

// e to the x to within one unit in the last place, also as an expression that the compiler can vectorise: 2^n times a
// polynomial of what is left, |rest| <= ln(2) / 2, whose coefficients make the greatest relative error least (3e-9).
inline float kaasq_expf(float x) {
    float within = x < -104.0f ? -104.0f : x;  // beyond lie 0 and infinity; NaN stays itself
    within = within > 89.0f ? 89.0f : within;
    const float times = rintf(within * 1.442695041f);
    float rest = within - times * 0.693359375f;  // few digits, so that the product is exact
    rest = rest - times * -2.12194440e-4f;
    float p = 0.0013814610429108143f;
    p = p * rest + 0.008368710987269878f;
    p = p * rest + 0.04166838899254799f;
    p = p * rest + 0.1666652113199234f;
    p = p * rest + 0.4999999403953552f;
    p = p * (rest * rest) + rest + 1.0f;
    // In two steps, for 2^n alone may be no float; the first one in the exponent, so that no option reorders them.
    const int n = static_cast<int>(x == x ? times : 0.0f), half = n >> 1;
    int bits;
    __builtin_memcpy(&bits, &p, sizeof p);
    bits += half * (1 << 23);
    __builtin_memcpy(&p, &bits, sizeof p);
    bits = (n - half + 127) * (1 << 23);
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
namespace std {
using ::kaasq_expf;
}  // namespace std
#define expf kaasq_expf

#define KAASQ_UNARY(name, expression_f, expression_d)              \
    inline float name##f(float x) { return expression_f; }         \
    inline double name(double x) { return expression_d; }          \
    inline float name(float x) { return name##f(x); }
KAASQ_UNARY(rsqrt, 1.0f / sqrtf(x), 1.0 / sqrt(x))
KAASQ_UNARY(rcbrt, 1.0f / cbrtf(x), 1.0 / cbrt(x))
KAASQ_UNARY(sinpi, static_cast<float>(sin(M_PI * fmod(static_cast<double>(x), 2.0))), sin(M_PI * fmod(x, 2.0)))
KAASQ_UNARY(cospi, static_cast<float>(cos(M_PI * fmod(static_cast<double>(x), 2.0))), cos(M_PI * fmod(x, 2.0)))
KAASQ_UNARY(normcdf, 0.5f * erfcf(-x * 0.70710678f), 0.5 * erfc(-x * M_SQRT1_2))
KAASQ_UNARY(erfcx, static_cast<float>(exp(static_cast<double>(x) * x) * erfc(static_cast<double>(x))), exp(x * x) * erfc(x))
#undef KAASQ_UNARY
#ifndef __USE_GNU  // glibc has them as extensions
inline float exp10f(float x) { return powf(10.0f, x); }
inline double exp10(double x) { return pow(10.0, x); }
inline void sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline void sincos(double x, double* s, double* c) { *s = sin(x), *c = cos(x); }
#endif
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline void sincospi(double x, double* s, double* c) { *s = sinpi(x), *c = cospi(x); }
inline float norm3df(float a, float b, float c) { return sqrtf(a * a + b * b + c * c); }
inline double norm3d(double a, double b, double c) { return sqrt(a * a + b * b + c * c); }
inline float rnorm3df(float a, float b, float c) { return 1.0f / norm3df(a, b, c); }
inline float rhypotf(float a, float b) { return 1.0f / hypotf(a, b); }
inline double rhypot(double a, double b) { return 1.0 / hypot(a, b); }
inline float fdividef(float a, float b) { return a / b; }
inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
inline long long llmin(long long a, long long b) { return a < b ? a : b; }
inline long long llmax(long long a, long long b) { return a > b ? a : b; }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
inline unsigned umax(unsigned a, unsigned b) { return a > b ? a : b; }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }

// Rounding modes: to nearest is what the processor does; the others are rounded to nearest too.
#define KAASQ_ROUNDED(mode)                                                              \
    inline float __fadd_##mode(float a, float b) { return a + b; }                       \
    inline float __fsub_##mode(float a, float b) { return a - b; }                       \
    inline float __fmul_##mode(float a, float b) { return a * b; }                       \
    inline float __fdiv_##mode(float a, float b) { return a / b; }                       \
    inline float __frcp_##mode(float a) { return 1.0f / a; }                             \
    inline float __fsqrt_##mode(float a) { return sqrtf(a); }                            \
    inline float __fmaf_##mode(float a, float b, float c) { return fmaf(a, b, c); }      \
    inline float __fmaf_ieee_##mode(float a, float b, float c) { return fmaf(a, b, c); } \
    inline double __dadd_##mode(double a, double b) { return a + b; }                    \
    inline double __dsub_##mode(double a, double b) { return a - b; }                    \
    inline double __dmul_##mode(double a, double b) { return a * b; }                    \
    inline double __ddiv_##mode(double a, double b) { return a / b; }                    \
    inline double __drcp_##mode(double a) { return 1.0 / a; }                            \
    inline double __dsqrt_##mode(double a) { return sqrt(a); }                           \
    inline double __fma_##mode(double a, double b, double c) { return fma(a, b, c); }
KAASQ_ROUNDED(rn)
KAASQ_ROUNDED(rz)
KAASQ_ROUNDED(rd)
KAASQ_ROUNDED(ru)
#undef KAASQ_ROUNDED

#define KAASQ_TO_INTEGERS(mode, round_f, round_d)                                                              \
    inline int __float2int_##mode(float x) { return kaasq::saturating<int>(round_f(x)); }                      \
    inline unsigned __float2uint_##mode(float x) { return kaasq::saturating<unsigned>(round_f(x)); }           \
    inline long long __float2ll_##mode(float x) { return kaasq::saturating<long long>(round_f(x)); }           \
    inline unsigned long long __float2ull_##mode(float x) { return kaasq::saturating<unsigned long long>(round_f(x)); } \
    inline int __double2int_##mode(double x) { return kaasq::saturating<int>(round_d(x)); }                    \
    inline unsigned __double2uint_##mode(double x) { return kaasq::saturating<unsigned>(round_d(x)); }         \
    inline long long __double2ll_##mode(double x) { return kaasq::saturating<long long>(round_d(x)); }         \
    inline unsigned long long __double2ull_##mode(double x) { return kaasq::saturating<unsigned long long>(round_d(x)); } \
    inline float __int2float_##mode(int x) { return static_cast<float>(x); }                                   \
    inline float __uint2float_##mode(unsigned x) { return static_cast<float>(x); }                             \
    inline float __ll2float_##mode(long long x) { return static_cast<float>(x); }                              \
    inline float __ull2float_##mode(unsigned long long x) { return static_cast<float>(x); }                    \
    inline float __double2float_##mode(double x) { return static_cast<float>(x); }                             \
    inline double __ll2double_##mode(long long x) { return static_cast<double>(x); }                           \
    inline double __ull2double_##mode(unsigned long long x) { return static_cast<double>(x); }
KAASQ_TO_INTEGERS(rn, rintf, rint)
KAASQ_TO_INTEGERS(rz, truncf, trunc)
KAASQ_TO_INTEGERS(rd, floorf, floor)
KAASQ_TO_INTEGERS(ru, ceilf, ceil)
#undef KAASQ_TO_INTEGERS
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }

// Loads and stores with cache hints: the hints are for a GPU's caches.
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline T __ldlu(const T* p) { return *p; }
template <class T> inline T __ldcv(const T* p) { return *p; }
template <class T> inline void __stwb(T* p, T value) { *p = value; }
template <class T> inline void __stcg(T* p, T value) { *p = value; }
template <class T> inline void __stcs(T* p, T value) { *p = value; }
template <class T> inline void __stwt(T* p, T value) { *p = value; }
