// What all built-ins share: element types, vectors, walks over strided operands, joining what threads found.
// Runs on the cpu device as well, where the tests look for mistakes of indexing.
#define INLINE __device__ __forceinline__

// A bool as buffers hold it: any byte other than 0 is true.
struct Flag { unsigned char byte; };
struct alignas(16) Bytes16 { unsigned long long low, high; };

// Wide: what an element is computed in. Bits: what it wraps around in, where a signed overflow would be undefined.
template <class T, class W, class B> struct Plain {
    using Wide = W;
    using Bits = B;
    static INLINE W widen(T value) { return static_cast<W>(value); }
    static INLINE T narrow(W value) { return static_cast<T>(value); }
};
template <class T> struct Element;
template <> struct Element<signed char> : Plain<signed char, int, unsigned> {};
template <> struct Element<short> : Plain<short, int, unsigned> {};
template <> struct Element<int> : Plain<int, int, unsigned> {};
template <> struct Element<long long> : Plain<long long, long long, unsigned long long> {};
template <> struct Element<unsigned char> : Plain<unsigned char, unsigned, unsigned> {};
template <> struct Element<unsigned short> : Plain<unsigned short, unsigned, unsigned> {};
template <> struct Element<unsigned> : Plain<unsigned, unsigned, unsigned> {};
template <> struct Element<unsigned long long> : Plain<unsigned long long, unsigned long long, unsigned long long> {};
template <> struct Element<float> : Plain<float, float, float> {};
template <> struct Element<double> : Plain<double, double, double> {};
template <> struct Element<Flag> {
    using Wide = bool;
    using Bits = bool;
    static INLINE bool widen(Flag value) { return value.byte != 0; }
    static INLINE Flag narrow(bool value) { return {static_cast<unsigned char>(value)}; }
};

template <class T> using WideOf = typename Element<T>::Wide;
template <class T> using BitsOf = typename Element<T>::Bits;
template <class T> INLINE WideOf<T> widen(T value) { return Element<T>::widen(value); }
template <class T> INLINE T narrow(WideOf<T> value) { return Element<T>::narrow(value); }

template <class W> struct IsFloating { static constexpr bool value = false; };
template <> struct IsFloating<float> { static constexpr bool value = true; };
template <> struct IsFloating<double> { static constexpr bool value = true; };
template <class W> constexpr bool is_floating = IsFloating<W>::value;
template <class W> constexpr bool is_signed = static_cast<W>(-1) < static_cast<W>(1);

// Of an integer type; the largest is its complement.
template <class T> constexpr T lowest_integer =
    is_signed<T> ? static_cast<T>(static_cast<unsigned long long>(1) << (8 * sizeof(T) - 1)) : static_cast<T>(0);
INLINE float infinity(float) { return __int_as_float(0x7f800000); }
INLINE double infinity(double) { return __longlong_as_double(0x7ff0000000000000ll); }
template <class W> INLINE W lowest() {
    if constexpr (is_floating<W>) return -infinity(W());
    else return lowest_integer<W>;
}
template <class W> INLINE W highest() {
    if constexpr (is_floating<W>) return infinity(W());
    else return static_cast<W>(~lowest_integer<W>);
}
// NaN if one is, as NumPy has it.
template <class W> INLINE W larger(W a, W b) { return a > b || a != a ? a : b; }
template <class W> INLINE W smaller(W a, W b) { return a < b || a != a ? a : b; }

// V elements read and written at once.
template <class T, int V> struct alignas(sizeof(T) * V) Pack { T lane[V]; };
template <int V, class T> INLINE Pack<T, V> same(T value) {
    Pack<T, V> pack;
#pragma unroll
    for (int k = 0; k < V; k++) pack.lane[k] = value;
    return pack;
}
template <int V, class T> INLINE Pack<T, V> read(const T* from, bool spread) {
    if (V > 1 && !spread) return *reinterpret_cast<const Pack<T, V>*>(from);
    return same<V>(*from);
}
// Written at once on purpose: a struct the compiler takes apart, and does not always put together again. The L2 cache
// is where stores go anyway.
template <int BYTES> struct Unit;
template <> struct Unit<1> { using Type = unsigned char; };
template <> struct Unit<2> { using Type = unsigned short; };
template <> struct Unit<4> { using Type = unsigned; };
template <> struct Unit<8> { using Type = unsigned long long; };
template <class T> INLINE typename Unit<sizeof(T)>::Type bits_of(const T& value) {
    return *reinterpret_cast<const typename Unit<sizeof(T)>::Type*>(&value);
}
template <class T> INLINE unsigned word_of(const T* lanes, int word) {
    if constexpr (sizeof(T) >= 4) {
        constexpr int words = sizeof(T) / 4;
        return static_cast<unsigned>(bits_of(lanes[word / words]) >> (word % words * 32 % (8 * sizeof(T))));
    } else {
        constexpr int lanes_each = 4 / sizeof(T);
        unsigned found = 0;
#pragma unroll
        for (int k = 0; k < lanes_each; k++)
            found |= static_cast<unsigned>(bits_of(lanes[word * lanes_each + k])) << (8 * sizeof(T) * k);
        return found;
    }
}
template <int V, class T> INLINE void write(T* to, const Pack<T, V>& pack) {
    const T* lanes = pack.lane;
    if constexpr (sizeof(pack) == 16 && V > 1)
        __stcg(
            reinterpret_cast<uint4*>(to),
            make_uint4(word_of(lanes, 0), word_of(lanes, 1), word_of(lanes, 2), word_of(lanes, 3)));
    else if constexpr (sizeof(pack) == 8 && V > 1)
        __stcg(reinterpret_cast<uint2*>(to), make_uint2(word_of(lanes, 0), word_of(lanes, 1)));
    else if constexpr (sizeof(pack) == 4 && V > 1)
        *reinterpret_cast<unsigned*>(to) = word_of(lanes, 0);
    else
        *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// Division by a number known on the host. Of 32 bits, for dividends below 2^31: by multiplication, after T. Granlund
// and P. Montgomery, "Division by invariant integers using multiplication", 1994.
template <class I> struct Divisor;
template <> struct Divisor<unsigned> {
    unsigned value, magic, shift;
    INLINE unsigned quotient(unsigned n) const { return (__umulhi(n, magic) + n) >> shift; }
};
template <> struct Divisor<unsigned long long> {
    unsigned long long value;
    INLINE unsigned long long quotient(unsigned long long n) const { return n / value; }
};

// R axes, outermost first, over A operands: from an index to where each operand's pack of V elements lies. Steps are in
// elements; on the last axis they are those of a whole pack, 0 if one element stands for all. walks.py packs these.
template <class I, int R, int A> struct Walk {
    long long start[A];
    long long step[A][R];
    Divisor<I> size[R];
    I packs;
    I tail;  // elements behind the last pack; only where R is 1

    INLINE void offsets(I index, long long (&at)[A]) const {
#pragma unroll
        for (int a = 0; a < A; a++) at[a] = start[a];
#pragma unroll
        for (int axis = R - 1; axis > 0; axis--) {
            const I outer = size[axis].quotient(index);
            const long long here = static_cast<long long>(index - outer * size[axis].value);
#pragma unroll
            for (int a = 0; a < A; a++) at[a] += here * step[a][axis];
            index = outer;
        }
#pragma unroll
        for (int a = 0; a < A; a++) at[a] += static_cast<long long>(index) * step[a][0];
    }
    // How many elements the thread of that index has there: V, one of the tail, or none.
    template <int V> INLINE int place(I index, long long (&at)[A]) const {
        if (index < packs) {
            offsets(index, at);
            return V;
        }
        if (R > 1 || index - packs >= tail) return 0;
        const long long element = static_cast<long long>(packs) * V + static_cast<long long>(index - packs);
#pragma unroll
        for (int a = 0; a < A; a++) at[a] = start[a] + element * (step[a][0] / V);
        return 1;
    }
    INLINE bool spread(int operand) const { return step[operand][R - 1] == 0; }
};

template <class I> INLINE I thread_index() { return static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x; }

// Shuffles of anything whose size is a multiple of 4.
template <int N> struct Words { unsigned word[N]; };
template <class Acc> INLINE Acc from_lane(Acc mine, int lane_mask, bool exchange) {
    constexpr int count = sizeof(Acc) / 4;
    Words<count> words = *reinterpret_cast<Words<count>*>(&mine);
#pragma unroll
    for (int k = 0; k < count; k++)
        words.word[k] = exchange ? __shfl_xor_sync(0xffffffffu, words.word[k], lane_mask)
                                 : __shfl_sync(0xffffffffu, words.word[k], lane_mask);
    return *reinterpret_cast<Acc*>(&words);
}

// What LANES neighbouring threads (all of a block, if more than 32) found, joined, for each of them. The order is the
// same every time, and so is the result. All threads of the block must come here (of the warp, if LANES is 32 or less).
template <class Op, int LANES, class Acc> INLINE Acc join_lanes(Acc mine) {
#pragma unroll
    for (int step = (LANES < 32 ? LANES : 32) / 2; step > 0; step /= 2)
        mine = Op::join(mine, from_lane(mine, step, true));
    if constexpr (LANES > 32) {
        __shared__ Acc warps[LANES / 32];
        __syncthreads();  // the last call's may still be read
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
        __syncthreads();
        mine = warps[0];
        for (int warp = 1; warp < LANES / 32; warp++) mine = Op::join(mine, warps[warp]);
        return mine;
    }
    // Lanes join in mirrored orders, which may round differently: the first one's counts for all.
    return from_lane(mine, static_cast<int>(threadIdx.x % 32) & ~(LANES - 1), false);
}
