// Element by element, over operands that stretch. An operator is a type with a static function of wide values.

struct Same { template <class W> static INLINE W of(W x, W, W) { return x; } };
struct LogicalNot { static INLINE bool of(bool x, bool, bool) { return !x; } };
struct Neg {
    template <class W> static INLINE W of(W x, W, W) { return -x; }
    static INLINE int of(int x, int, int) { return static_cast<int>(0u - static_cast<unsigned>(x)); }
    static INLINE long long of(long long x, long long, long long) {
        return static_cast<long long>(0ull - static_cast<unsigned long long>(x));
    }
};
struct Abs {
    template <class W> static INLINE W of(W x, W, W) {
        if constexpr (is_floating<W>) return fabs(x);
        else if constexpr (is_signed<W>) return x < 0 ? Neg::of(x, W(), W()) : x;
        else return x;
    }
};
struct Sign {
    template <class W> static INLINE W of(W x, W, W) {
        if constexpr (is_floating<W>) if (x != x) return x;
        return static_cast<W>((x > W(0)) - (x < W(0)));
    }
};
#define FUNCTION(Name, expression) \
    struct Name { template <class W> static INLINE W of(W x, W first, W second) { return expression; } };
FUNCTION(Exp, exp(x))
FUNCTION(Log, log(x))
FUNCTION(Sqrt, sqrt(x))
FUNCTION(Rsqrt, rsqrt(x))
FUNCTION(Reciprocal, W(1) / x)
FUNCTION(Sin, sin(x))
FUNCTION(Cos, cos(x))
FUNCTION(Tanh, tanh(x))
FUNCTION(Erf, erf(x))
FUNCTION(Floor, floor(x))
FUNCTION(Ceil, ceil(x))
FUNCTION(Round, rint(x))
FUNCTION(Relu, x < W(0) ? W(0) : x)
FUNCTION(LeakyRelu, x < W(0) ? x * first : x)
FUNCTION(Elu, x < W(0) ? first * expm1(x) : x)
FUNCTION(Sigmoid, W(1) / (W(1) + exp(-x)))
FUNCTION(Silu, x / (W(1) + exp(-x)))
FUNCTION(Softplus, larger(x, W(0)) + log1p(exp(-fabs(x))))
FUNCTION(Gelu, W(0.5) * x * erfc(x * W(-0.70710678118654752440)))
FUNCTION(GeluTanh, W(0.5) * x * (W(1) + tanh(W(0.79788456080286535588) * (x + W(0.044715) * x * x * x))))
FUNCTION(Clip, smaller(larger(x, first), second))
#undef FUNCTION

// A double as a float whose last bit tells that it was not exact, so that rounding it once more rounds as once.
INLINE float rounded_to_odd(double x) {
    const float nearest = static_cast<float>(x);
    const int bits = __float_as_int(nearest);
    if (static_cast<double>(nearest) == x || x != x || bits & 1) return nearest;
    return __int_as_float(fabs(static_cast<double>(nearest)) > fabs(x) ? bits - 1 : bits + 1);
}
// To another type, still wide. Integers saturate and a NaN becomes 0; a bool is whether it is not 0, as a NaN is not.
template <class To, class W> INLINE WideOf<To> converted(W x) {
    using Target = WideOf<To>;
    if constexpr (sizeof(Target) == 1) {
        return x != W(0);
    } else if constexpr (is_floating<Target>) {
        if constexpr (sizeof(To) == 2 && sizeof(W) == 8 && is_floating<W>) return rounded_to_odd(x);
        else return static_cast<Target>(x);
    } else {
        constexpr To least = lowest_integer<To>, most = static_cast<To>(~least);
        if constexpr (is_floating<W>) {
            if (x != x) return 0;
            // The largest integer may round up on its way to W, to the first number that does not fit.
            return x <= static_cast<W>(least) ? least : x >= static_cast<W>(most) ? most : static_cast<Target>(x);
        } else {
            using Largest = unsigned long long;
            const bool negative = x < W(0);
            const bool below = negative && (!is_signed<To> || static_cast<long long>(x) < static_cast<long long>(least));
            const bool above = !negative && static_cast<Largest>(x) > static_cast<Largest>(most);
            return static_cast<Target>(below ? least : above ? most : static_cast<To>(x));
        }
    }
}
template <class To> struct Cast {
    template <class W> static INLINE WideOf<To> of(W x, W, W) { return converted<To>(x); }
};

#define WRAPPING(Name, sign)                                              \
    struct Name {                                                         \
        template <class W> static INLINE W of(W a, W b, W) {              \
            using B = BitsOf<W>;                                          \
            return static_cast<W>(static_cast<B>(a) sign static_cast<B>(b)); \
        }                                                                 \
    };
WRAPPING(Add, +)
WRAPPING(Sub, -)
WRAPPING(Mul, *)
#undef WRAPPING
struct Div {
    template <class W> static INLINE W of(W a, W b, W) {
        if constexpr (!is_floating<W>) {
            if (b == W(0)) return W(0);
            if constexpr (is_signed<W>) if (b == W(-1)) return Neg::of(a, W(), W());  // the lowest one has no opposite
        }
        return a / b;
    }
};
#define OPERATOR(Name, Result, expression) \
    struct Name { template <class W> static INLINE Result of(W a, W b, W first) { return expression; } };
OPERATOR(Pow, W, pow(a, b))
OPERATOR(Maximum, W, larger(a, b))
OPERATOR(Minimum, W, smaller(a, b))
OPERATOR(LogicalAnd, bool, a && b)
OPERATOR(LogicalOr, bool, a || b)
OPERATOR(LogicalXor, bool, a != b)
OPERATOR(Equal, bool, a == b)
OPERATOR(NotEqual, bool, a != b)
OPERATOR(Less, bool, a < b)
OPERATOR(LessEqual, bool, a <= b)
OPERATOR(Greater, bool, a > b)
OPERATOR(GreaterEqual, bool, a >= b)
OPERATOR(Axpy, W, b + first * a)
#undef OPERATOR
struct Where { template <class W> static INLINE W of(bool condition, W a, W b) { return condition ? a : b; } };

template <class Op, class Out, class A, class I, int R, int V>
__global__ void __launch_bounds__(256) map1(
    Walk<I, R, 2> walk, Out* out, const A* a, WideOf<A> first, WideOf<A> second) {
    long long at[2];
    const int lanes = walk.template place<V>(thread_index<I>(), at);
    if (lanes == V) {
        const Pack<A, V> x = read<V>(a + at[1], walk.spread(1));
        Pack<Out, V> y;
#pragma unroll
        for (int k = 0; k < V; k++) y.lane[k] = narrow<Out>(Op::of(widen(x.lane[k]), first, second));
        write<V>(out + at[0], y);
    } else if (lanes) {
        out[at[0]] = narrow<Out>(Op::of(widen(a[at[1]]), first, second));
    }
}

template <class Op, class Out, class A, class I, int R, int V>
__global__ void __launch_bounds__(256) map2(Walk<I, R, 3> walk, Out* out, const A* a, const A* b, WideOf<A> first) {
    long long at[3];
    const int lanes = walk.template place<V>(thread_index<I>(), at);
    if (lanes == V) {
        const Pack<A, V> x = read<V>(a + at[1], walk.spread(1)), y = read<V>(b + at[2], walk.spread(2));
        Pack<Out, V> z;
#pragma unroll
        for (int k = 0; k < V; k++) z.lane[k] = narrow<Out>(Op::of(widen(x.lane[k]), widen(y.lane[k]), first));
        write<V>(out + at[0], z);
    } else if (lanes) {
        out[at[0]] = narrow<Out>(Op::of(widen(a[at[1]]), widen(b[at[2]]), first));
    }
}

// T is an unsigned type of the elements' size: a choice moves bits.
template <class T, class I, int R, int V>
__global__ void __launch_bounds__(256) choose(
    Walk<I, R, 4> walk, T* out, const Flag* condition, const T* a, const T* b) {
    long long at[4];
    const int lanes = walk.template place<V>(thread_index<I>(), at);
    if (lanes == V) {
        const Pack<Flag, V> which = read<V>(condition + at[1], walk.spread(1));
        const Pack<T, V> x = read<V>(a + at[2], walk.spread(2)), y = read<V>(b + at[3], walk.spread(3));
        Pack<T, V> z;
#pragma unroll
        for (int k = 0; k < V; k++) z.lane[k] = Where::of(widen(which.lane[k]), x.lane[k], y.lane[k]);
        write<V>(out + at[0], z);
    } else if (lanes) {
        out[at[0]] = Where::of(widen(condition[at[1]]), a[at[2]], b[at[3]]);
    }
}

template <class W> struct Channel {
    W mean, factor, bias;
    INLINE W of(W x) const { return (x - mean) * factor + bias; }
};
template <class T> INLINE Channel<WideOf<T>> channel_at(
    long long at, const T* scale, const T* bias, const T* mean, const T* variance, WideOf<T> epsilon) {
    return {widen(mean[at]), widen(scale[at]) / sqrt(widen(variance[at]) + epsilon), widen(bias[at])};
}

// The walk's third operand stands for all that have an element per channel.
template <class T, class I, int R, int V>
__global__ void __launch_bounds__(256) batchnorm(
    Walk<I, R, 3> walk, T* out, const T* x, const T* scale, const T* bias, const T* mean, const T* variance,
    WideOf<T> epsilon) {
    long long at[3];
    const int lanes = walk.template place<V>(thread_index<I>(), at);
    if (!lanes) return;
    Channel<WideOf<T>> channel = channel_at(at[2], scale, bias, mean, variance, epsilon);
    if (lanes == V) {
        Pack<T, V> pack = read<V>(x + at[1], false);
#pragma unroll
        for (int k = 0; k < V; k++) {
            if (k > 0 && !walk.spread(2)) channel = channel_at(at[2] + k, scale, bias, mean, variance, epsilon);
            pack.lane[k] = narrow<T>(channel.of(widen(pack.lane[k])));
        }
        write<V>(out + at[0], pack);
    } else {
        out[at[0]] = narrow<T>(channel.of(widen(x[at[1]])));
    }
}
