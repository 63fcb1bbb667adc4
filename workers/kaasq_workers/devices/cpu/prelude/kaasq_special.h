// CUDA's special functions that C does not have, computed in double precision.
#pragma once

namespace kaasq {
inline constexpr double TWO_OVER_ROOT_PI = 1.1283791670955126;

// Inverse of erfc on (0, 1]. Start: Abramowitz and Stegun 26.2.22; then Halley's method, which triples the digits.
inline double erfc_inverse(double y) {
    const double t = sqrt(-2.0 * log(0.5 * y));
    double x = M_SQRT1_2 * (t - (2.30753 + t * 0.27061) / (1.0 + t * (0.99229 + t * 0.04481)));
    for (int i = 0; i < 3; i++) {
        const double off = erfc(x) - y, slope = TWO_OVER_ROOT_PI * exp(-x * x);
        if (slope > 0.0) x += off / (slope - x * off);
    }
    return x;
}
}  // namespace kaasq

inline double erfcinv(double y) {
    if (!(y >= 0.0 && y <= 2.0)) return NAN;
    if (y == 0.0 || y == 2.0) return y == 0.0 ? INFINITY : -INFINITY;
    return y <= 1.0 ? kaasq::erfc_inverse(y) : -kaasq::erfc_inverse(2.0 - y);
}
inline double erfinv(double y) {
    const double size = fabs(y);
    if (!(size < 0.5)) return copysign(erfcinv(1.0 - size), y);
    double x = y / kaasq::TWO_OVER_ROOT_PI;  // 1 - y would lose the digits of a small y
    for (int i = 0; i < 4; i++) {
        const double off = erf(x) - y;
        x -= off / (kaasq::TWO_OVER_ROOT_PI * exp(-x * x) + x * off);
    }
    return x;
}
inline double normcdfinv(double y) { return -M_SQRT2 * erfcinv(2.0 * y); }

// Modified Bessel functions by their power series, whose terms are all positive: nothing cancels, at any size.
inline double cyl_bessel_i0(double x) {
    double term = 1.0, sum = 1.0;
    for (int k = 1; term > sum * 1e-17; k++) sum += term *= 0.25 * x * x / (static_cast<double>(k) * k);
    return sum;
}
inline double cyl_bessel_i1(double x) {
    double term = 1.0, sum = 1.0;
    for (int k = 1; term > sum * 1e-17; k++) sum += term *= 0.25 * x * x / (static_cast<double>(k) * (k + 1));
    return 0.5 * x * sum;
}

#define KAASQ_IN_DOUBLE(name) \
    inline float name##f(float x) { return static_cast<float>(name(static_cast<double>(x))); }
KAASQ_IN_DOUBLE(erfinv)
KAASQ_IN_DOUBLE(erfcinv)
KAASQ_IN_DOUBLE(normcdfinv)
KAASQ_IN_DOUBLE(cyl_bessel_i0)
KAASQ_IN_DOUBLE(cyl_bessel_i1)
#undef KAASQ_IN_DOUBLE

// Lengths of vectors.
inline double norm(int n, const double* p) {
    double length = 0.0;
    for (int i = 0; i < n; i++) length = hypot(length, p[i]);
    return length;
}
inline float normf(int n, const float* p) {
    double squares = 0.0;  // no square of a float overflows a double
    for (int i = 0; i < n; i++) squares += static_cast<double>(p[i]) * p[i];
    return static_cast<float>(sqrt(squares));
}
inline double norm4d(double a, double b, double c, double d) { return hypot(hypot(a, b), hypot(c, d)); }
inline float norm4df(float a, float b, float c, float d) {
    const float all[] = {a, b, c, d};
    return normf(4, all);
}
inline double rnorm(int n, const double* p) { return 1.0 / norm(n, p); }
inline float rnormf(int n, const float* p) { return 1.0f / normf(n, p); }
inline double rnorm3d(double a, double b, double c) { return 1.0 / norm3d(a, b, c); }
inline double rnorm4d(double a, double b, double c, double d) { return 1.0 / norm4d(a, b, c, d); }
inline float rnorm4df(float a, float b, float c, float d) { return 1.0f / norm4df(a, b, c, d); }
