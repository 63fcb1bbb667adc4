// Rows that are read twice: once for what they have in common, once to be written. The second time they are in a cache.

// Online softmax: the sum so far, relative to the largest so far. After M. Milakov and N. Gimelshein, "Online
// normalizer calculation for softmax", 2018.
template <class W> struct Scaled {
    W top, sum;
    INLINE W relative(W to) const { return top == to ? sum : sum * exp(top - to); }
};
template <class T, int V> INLINE void include(Scaled<WideOf<T>>& seen, const Pack<T, V>& pack) {
    using W = WideOf<T>;
    W top = seen.top;
#pragma unroll
    for (int k = 0; k < V; k++) top = widen(pack.lane[k]) > top ? widen(pack.lane[k]) : top;
    W sum = seen.relative(top);
    // Minus infinity adds nothing, but has no distance from itself, where nothing larger was seen yet.
#pragma unroll
    for (int k = 0; k < V; k++) sum += widen(pack.lane[k]) == lowest<W>() ? W(0) : exp(widen(pack.lane[k]) - top);
    seen = {top, sum};
}
template <class W> struct JoinScaled {
    static INLINE Scaled<W> join(Scaled<W> a, Scaled<W> b) {
        const W top = a.top > b.top ? a.top : b.top;
        return {top, a.relative(top) + b.relative(top)};
    }
};
template <bool LOG, class W> INLINE W softmax_of(W x, Scaled<W> all) {
    if constexpr (LOG) return x - all.top - log(all.sum);
    else return exp(x - all.top) / all.sum;
}

template <class T, class I, int V, int LANES, bool LOG>
__global__ void __launch_bounds__(LANES > 256 ? LANES : 256) softmax_rows(T* out, const T* x, I rows, I packs) {
    using W = WideOf<T>;
    const I row = static_cast<I>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
    if (row >= rows) return;  // whole warps, and no barrier waits for them: only LANES of 32 share a block
    const T* from = x + static_cast<long long>(row) * packs * V;
    T* to = out + static_cast<long long>(row) * packs * V;
    Scaled<W> all = {lowest<W>(), W(0)};
    for (I i = threadIdx.x % LANES; i < packs; i += LANES)
        include<T, V>(all, read<V>(from + static_cast<long long>(i) * V, false));
    all = join_lanes<JoinScaled<W>, LANES>(all);
    for (I i = threadIdx.x % LANES; i < packs; i += LANES) {
        Pack<T, V> pack = read<V>(from + static_cast<long long>(i) * V, false);
#pragma unroll
        for (int k = 0; k < V; k++) pack.lane[k] = narrow<T>(softmax_of<LOG>(widen(pack.lane[k]), all));
        write<V>(to + static_cast<long long>(i) * V, pack);
    }
}

// x is (outer, length, inner); 32 columns a block, eight rows of threads along the length.
template <class T, class I, bool LOG>
__global__ void __launch_bounds__(256) softmax_columns(T* out, const T* x, I columns, I length, I inner) {
    using W = WideOf<T>;
    __shared__ Scaled<W> rows[8][32];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const I column = static_cast<I>(blockIdx.x) * 32 + lane;
    const bool active = column < columns;
    const long long start = active ? static_cast<long long>(column / inner) * length * inner + column % inner : 0;
    Scaled<W> all = {lowest<W>(), W(0)};
    for (I i = row; active && i < length; i += 8)
        include<T, 1>(all, read<1>(x + start + static_cast<long long>(i) * inner, false));
    rows[row][lane] = all;
    __syncthreads();
    all = rows[0][lane];
    for (int other = 1; other < 8; other++) all = JoinScaled<W>::join(all, rows[other][lane]);
    for (I i = row; active && i < length; i += 8) {
        const long long at = start + static_cast<long long>(i) * inner;
        out[at] = narrow<T>(softmax_of<LOG>(widen(x[at]), all));
    }
}

// Mean and squared deviations of parts, joined. After T. Chan, G. Golub and R. LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances", 1979.
template <class W> struct Moments { W count, mean, squares; };
template <class W> struct JoinMoments {
    static INLINE Moments<W> join(Moments<W> a, Moments<W> b) {
        const W count = a.count + b.count;
        if (count == W(0)) return a;
        const W apart = b.mean - a.mean, share = b.count / count;
        return {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
    }
};

template <class T, class I, int V, int LANES, bool SCALE, bool BIAS>
__global__ void __launch_bounds__(LANES > 256 ? LANES : 256) layernorm_rows(
    T* __restrict__ out, const T* __restrict__ x, const T* __restrict__ scale, const T* __restrict__ bias, I rows,
    I packs, WideOf<T> epsilon) {
    using W = WideOf<T>;
    const I row = static_cast<I>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
    if (row >= rows) return;  // as above
    const T* from = x + static_cast<long long>(row) * packs * V;
    T* to = out + static_cast<long long>(row) * packs * V;
    Moments<W> all = {W(0), W(0), W(0)};
    for (I i = threadIdx.x % LANES; i < packs; i += LANES) {
        const Pack<T, V> pack = read<V>(from + static_cast<long long>(i) * V, false);
        W sum = W(0), squares = W(0);
#pragma unroll
        for (int k = 0; k < V; k++) sum += widen(pack.lane[k]);
        const W mean = sum / W(V);
#pragma unroll
        for (int k = 0; k < V; k++) squares += (widen(pack.lane[k]) - mean) * (widen(pack.lane[k]) - mean);
        all = JoinMoments<W>::join(all, {W(V), mean, squares});
    }
    all = join_lanes<JoinMoments<W>, LANES>(all);
    const W factor = W(1) / sqrt(all.squares / all.count + epsilon);
    for (I i = threadIdx.x % LANES; i < packs; i += LANES) {
        const long long at = static_cast<long long>(i) * V;
        Pack<T, V> pack = read<V>(from + at, false);
        const Pack<T, V> times = SCALE ? read<V>(scale + at, false) : pack;
        const Pack<T, V> plus = BIAS ? read<V>(bias + at, false) : pack;
#pragma unroll
        for (int k = 0; k < V; k++) {
            W value = (widen(pack.lane[k]) - all.mean) * factor;
            if (SCALE) value *= widen(times.lane[k]);
            if (BIAS) value += widen(plus.lane[k]);
            pack.lane[k] = narrow<T>(value);
        }
        write<V>(to + at, pack);
    }
}
