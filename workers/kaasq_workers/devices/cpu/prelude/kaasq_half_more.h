// The rest of the arithmetic of __half and __nv_bfloat16: saturating, NaN-keeping, and by pairs.
#pragma once

#define KAASQ_PAIRWISE(T, name2, name) \
    inline T##2 name2(T##2 a) { return {name(a.x), name(a.y)}; }
#define KAASQ_PAIR_TESTS(T, test)                                                                            \
    inline T##2 __h##test##2(T##2 a, T##2 b) { return {T(__h##test(a.x, b.x)), T(__h##test(a.y, b.y))}; }    \
    inline bool __hb##test##2(T##2 a, T##2 b) { return __h##test(a.x, b.x) && __h##test(a.y, b.y); }         \
    inline bool __h##test##u(T a, T b) { return __hisnan(a) || __hisnan(b) || __h##test(a, b); }

#define KAASQ_SMALL_FLOAT(T)                                                                                 \
    inline T hexp10(T a) { return T(exp10f(a)); }                                                            \
    inline T hlog10(T a) { return T(log10f(a)); }                                                            \
    inline T hrint(T a) { return T(rintf(a)); }                                                              \
    inline T htrunc(T a) { return T(truncf(a)); }                                                            \
    inline T htanh(T a) { return T(tanhf(a)); }                                                              \
    inline int __hisinf(T a) { return float(a) == INFINITY ? 1 : float(a) == -INFINITY ? -1 : 0; }           \
    inline T __hadd_rn(T a, T b) { return a + b; }                                                           \
    inline T __hsub_rn(T a, T b) { return a - b; }                                                           \
    inline T __hmul_rn(T a, T b) { return a * b; }                                                           \
    inline T __hadd_sat(T a, T b) { return T(__saturatef(a + b)); }                                          \
    inline T __hsub_sat(T a, T b) { return T(__saturatef(a - b)); }                                          \
    inline T __hmul_sat(T a, T b) { return T(__saturatef(a * b)); }                                          \
    inline T __hfma_sat(T a, T b, T c) { return T(__saturatef(__hfma(a, b, c))); }                           \
    inline T __hfma_relu(T a, T b, T c) {                                                                    \
        const T sum = __hfma(a, b, c);                                                                       \
        return float(sum) < 0.0f ? T(0.0f) : sum;                                                            \
    }                                                                                                        \
    inline T __hmax_nan(T a, T b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmax(a, b); }               \
    inline T __hmin_nan(T a, T b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmin(a, b); }               \
    inline T& operator++(T& a) { return a += T(1.0f); }                                                      \
    inline T& operator--(T& a) { return a -= T(1.0f); }                                                      \
    inline T operator++(T& a, int) { const T old = a; ++a; return old; }                                     \
    inline T operator--(T& a, int) { const T old = a; --a; return old; }                                     \
    inline T##2& operator+=(T##2& a, T##2 b) { return a = a + b; }                                           \
    inline T##2& operator-=(T##2& a, T##2 b) { return a = a - b; }                                           \
    inline T##2& operator*=(T##2& a, T##2 b) { return a = a * b; }                                           \
    inline T##2& operator/=(T##2& a, T##2 b) { return a = a / b; }                                           \
    inline T##2 operator-(T##2 a) { return __hneg2(a); }                                                     \
    inline bool operator==(T##2 a, T##2 b) { return a.x == b.x && a.y == b.y; }                              \
    inline bool operator!=(T##2 a, T##2 b) { return a.x != b.x && a.y != b.y; }                              \
    inline T##2 __hadd2_sat(T##2 a, T##2 b) { return {__hadd_sat(a.x, b.x), __hadd_sat(a.y, b.y)}; }         \
    inline T##2 __hsub2_sat(T##2 a, T##2 b) { return {__hsub_sat(a.x, b.x), __hsub_sat(a.y, b.y)}; }         \
    inline T##2 __hmul2_sat(T##2 a, T##2 b) { return {__hmul_sat(a.x, b.x), __hmul_sat(a.y, b.y)}; }         \
    inline T##2 __hisnan2(T##2 a) { return {T(__hisnan(a.x)), T(__hisnan(a.y))}; }                           \
    inline T##2 __hcmadd(T##2 a, T##2 b, T##2 c) { /* complex: a b + c */                                    \
        const T x = __hfma(a.x, b.x, c.x), y = __hfma(a.x, b.y, c.y);                                        \
        return {__hfma(-a.y, b.y, x), __hfma(a.y, b.x, y)};                                                  \
    }                                                                                                        \
    KAASQ_PAIRWISE(T, __habs2, __habs) KAASQ_PAIRWISE(T, h2ceil, hceil) KAASQ_PAIRWISE(T, h2cos, hcos)       \
    KAASQ_PAIRWISE(T, h2exp, hexp) KAASQ_PAIRWISE(T, h2exp10, hexp10) KAASQ_PAIRWISE(T, h2exp2, hexp2)       \
    KAASQ_PAIRWISE(T, h2floor, hfloor) KAASQ_PAIRWISE(T, h2log, hlog) KAASQ_PAIRWISE(T, h2log10, hlog10)     \
    KAASQ_PAIRWISE(T, h2log2, hlog2) KAASQ_PAIRWISE(T, h2rcp, hrcp) KAASQ_PAIRWISE(T, h2rint, hrint)         \
    KAASQ_PAIRWISE(T, h2rsqrt, hrsqrt) KAASQ_PAIRWISE(T, h2sin, hsin) KAASQ_PAIRWISE(T, h2sqrt, hsqrt)       \
    KAASQ_PAIRWISE(T, h2trunc, htrunc) KAASQ_PAIRWISE(T, h2tanh, htanh)                                      \
    KAASQ_PAIR_TESTS(T, eq) KAASQ_PAIR_TESTS(T, ne) KAASQ_PAIR_TESTS(T, lt) KAASQ_PAIR_TESTS(T, le)          \
    KAASQ_PAIR_TESTS(T, gt) KAASQ_PAIR_TESTS(T, ge)
KAASQ_SMALL_FLOAT(__half)
KAASQ_SMALL_FLOAT(__nv_bfloat16)
#undef KAASQ_SMALL_FLOAT
#undef KAASQ_PAIR_TESTS
#undef KAASQ_PAIRWISE

inline __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
inline __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }
inline __half2 __low2half2(__half2 a) { return {a.x, a.x}; }
inline __half2 __high2half2(__half2 a) { return {a.y, a.y}; }
inline __half2 __lowhigh2highlow(__half2 a) { return {a.y, a.x}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
inline __nv_bfloat16 __int2bfloat16_rn(int x) { return __nv_bfloat16(x); }
inline int __bfloat162int_rn(__nv_bfloat16 x) { return __float2int_rn(x); }
inline unsigned __half2uint_rn(__half x) { return __float2uint_rn(x); }
inline unsigned __half2uint_rz(__half x) { return __float2uint_rz(x); }
inline short __half2short_rn(__half x) { return kaasq::saturating<short>(rintf(x)); }
inline short __half2short_rz(__half x) { return kaasq::saturating<short>(truncf(x)); }
inline long long __half2ll_rn(__half x) { return __float2ll_rn(x); }
inline __half __short2half_rn(short x) { return __half(x); }
inline __half __ll2half_rn(long long x) { return __half(x); }
