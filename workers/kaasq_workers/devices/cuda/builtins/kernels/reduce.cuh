// Reductions. An operator says what one element tells, how to join two tellings, and what comes out at the end.

template <class T> struct Sum {
    using Acc = BitsOf<T>;
    static INLINE Acc empty() { return 0; }
    static INLINE Acc of(T value, long long) { return static_cast<Acc>(widen(value)); }
    static INLINE Acc join(Acc a, Acc b) { return a + b; }
    static INLINE T done(Acc acc, double) { return narrow<T>(static_cast<WideOf<T>>(acc)); }
};
template <class T> struct Mean : Sum<T> {
    using Acc = typename Sum<T>::Acc;
    static INLINE T done(Acc acc, double count) { return narrow<T>(acc / static_cast<Acc>(count)); }
};
template <class T> struct Prod : Sum<T> {
    using Acc = typename Sum<T>::Acc;
    static INLINE Acc empty() { return 1; }
    static INLINE Acc join(Acc a, Acc b) { return a * b; }
};
template <class T> struct Max {
    using Acc = WideOf<T>;
    static INLINE Acc empty() { return lowest<Acc>(); }
    static INLINE Acc of(T value, long long) { return widen(value); }
    static INLINE Acc join(Acc a, Acc b) { return larger(a, b); }
    static INLINE T done(Acc acc, double) { return narrow<T>(acc); }
};
template <class T> struct Min : Max<T> {
    using Acc = WideOf<T>;
    static INLINE Acc empty() { return highest<Acc>(); }
    static INLINE Acc join(Acc a, Acc b) { return smaller(a, b); }
};

template <class W> struct Found {
    long long index;  // -1: nothing yet
    W value;
};
// The first of the largest (or smallest). A NaN is both, as NumPy has it.
template <class T, class Out, bool LARGEST> struct Arg {
    using W = WideOf<T>;
    using Acc = Found<W>;
    static INLINE Acc empty() { return {-1, W()}; }
    static INLINE Acc of(T value, long long index) { return {index, widen(value)}; }
    static INLINE Acc join(Acc a, Acc b) {
        if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
        const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
        if (a_nan != b_nan) return a_nan ? a : b;
        if (!a_nan && a.value != b.value) return (LARGEST ? a.value > b.value : a.value < b.value) ? a : b;
        return a.index < b.index ? a : b;
    }
    static INLINE Out done(Acc acc, double) { return static_cast<Out>(acc.index); }
};

// LANES threads for each output, along the axes that go; several parts of them where blockIdx.y says so. FINAL: `out`
// takes results, else what each part found, (parts, outputs).
template <class Op, class T, class Out, class I, int RK, int RR, int V, int LANES, bool FINAL>
__global__ void __launch_bounds__(256) reduce_rows(
    Walk<I, RK, 1> kept, Walk<I, RR, 1> gone, Out* out, const T* x, I part, double count) {
    using Acc = typename Op::Acc;
    const I row = static_cast<I>(blockIdx.x) * (256 / LANES) + threadIdx.x / LANES;
    const bool active = row < kept.packs;
    Acc acc[V];
#pragma unroll
    for (int k = 0; k < V; k++) acc[k] = Op::empty();
    if (active) {
        long long base[1];
        kept.offsets(row, base);
        const T* from = x + base[0];
        const I all = gone.packs + gone.tail;
        const I begin = part * blockIdx.y, end = all - begin < part ? all : begin + part;
#pragma unroll 4
        for (I i = begin + threadIdx.x % LANES; i < end; i += LANES) {
            long long at[1];
            if (V == 1) {
                gone.offsets(i, at);
                acc[0] = Op::join(acc[0], Op::of(from[at[0]], static_cast<long long>(i)));
            } else if (gone.template place<V>(i, at) == V) {
                const Pack<T, V> pack = read<V>(from + at[0], false);
#pragma unroll
                for (int k = 0; k < V; k++) acc[k] = Op::join(acc[k], Op::of(pack.lane[k], at[0] + k));
            } else {
                acc[0] = Op::join(acc[0], Op::of(from[at[0]], at[0]));
            }
        }
    }
#pragma unroll
    for (int k = 1; k < V; k++) acc[0] = Op::join(acc[0], acc[k]);
    const Acc joined = join_lanes<Op, LANES>(acc[0]);
    if (active && threadIdx.x % LANES == 0) {
        if constexpr (FINAL) out[row] = Op::done(joined, count);
        else out[static_cast<long long>(blockIdx.y) * kept.packs + row] = joined;
    }
}

// A thread for V neighbouring outputs, eight rows of threads along the axes that go.
template <class Op, class T, class Out, class I, int RK, int RR, int V, bool FINAL>
__global__ void __launch_bounds__(256) reduce_columns(
    Walk<I, RK, 1> kept, Walk<I, RR, 1> gone, Out* out, const T* x, I part, double count) {
    using Acc = typename Op::Acc;
    __shared__ Acc rows[8][32 * V];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const I column = static_cast<I>(blockIdx.x) * 32 + lane;
    const bool active = column < kept.packs;
    Acc acc[V];
#pragma unroll
    for (int k = 0; k < V; k++) acc[k] = Op::empty();
    if (active) {
        long long base[1];
        kept.offsets(column, base);
        const T* from = x + base[0];
        const I begin = part * blockIdx.y, end = gone.packs - begin < part ? gone.packs : begin + part;
#pragma unroll 4
        for (I i = begin + row; i < end; i += 8) {
            long long at[1];
            gone.offsets(i, at);
            const Pack<T, V> pack = read<V>(from + at[0], false);
#pragma unroll
            for (int k = 0; k < V; k++) acc[k] = Op::join(acc[k], Op::of(pack.lane[k], static_cast<long long>(i)));
        }
    }
#pragma unroll
    for (int k = 0; k < V; k++) rows[row][lane * V + k] = acc[k];
    __syncthreads();
    if (row > 0 || !active) return;
#pragma unroll
    for (int k = 0; k < V; k++) {
        Acc joined = rows[0][lane * V + k];
        for (int other = 1; other < 8; other++) joined = Op::join(joined, rows[other][lane * V + k]);
        const long long output = static_cast<long long>(column) * V + k;
        if constexpr (FINAL) out[output] = Op::done(joined, count);
        else out[static_cast<long long>(blockIdx.y) * kept.packs * V + output] = joined;
    }
}

// What the parts found, (parts, outputs), joined in order: 32 threads for each output.
template <class Op, class Out>
__global__ void __launch_bounds__(256) reduce_parts(
    Out* out, const typename Op::Acc* parts, long long outputs, int part_count, double count) {
    const long long output = static_cast<long long>(blockIdx.x) * 8 + threadIdx.x / 32;
    typename Op::Acc acc = Op::empty();
    if (output < outputs)
        for (int part = threadIdx.x % 32; part < part_count; part += 32)
            acc = Op::join(acc, parts[part * outputs + output]);
    acc = join_lanes<Op, 32>(acc);
    if (output < outputs && threadIdx.x % 32 == 0) out[output] = Op::done(acc, count);
}
