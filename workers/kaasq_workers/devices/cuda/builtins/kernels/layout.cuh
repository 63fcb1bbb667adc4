// Moving elements about. T is an unsigned type (or Bytes16) of an element's size, or of several that move together.

template <class T, class I, int V>
__global__ void __launch_bounds__(256) fill(T* out, T value, I packs, I tail) {
    const I index = thread_index<I>();
    if (index < packs) {
        write<V>(out + static_cast<long long>(index) * V, same<V>(value));
    } else if (index - packs < tail) {
        out[static_cast<long long>(packs) * V + static_cast<long long>(index - packs)] = value;
    }
}

// Tiles of two axes through shared memory, so that both sides are read and written along their innermost axis: `across`
// is x's, `down` is out's. The walk has the axes that are left, its operands are out and x.
template <class T, class I, int R, int TILE>
__global__ void __launch_bounds__(256) transpose(
    Walk<I, R, 2> outer, T* out, const T* x, I down, I across, long long x_step, long long out_step, I tiles_down,
    I tiles_across) {
    __shared__ T tile[TILE][TILE + 1];  // one more: a column's elements lie in different banks
    const I block = blockIdx.x, row = block / tiles_across;
    long long at[2];
    outer.offsets(row / tiles_down, at);
    const I down_from = row % tiles_down * TILE, across_from = block % tiles_across * TILE;
    const int column = threadIdx.x % TILE, first = threadIdx.x / TILE;
#pragma unroll
    for (int k = 0; k < TILE; k += 256 / TILE) {
        const I i = down_from + first + k, j = across_from + column;
        if (i < down && j < across) tile[first + k][column] = x[at[1] + static_cast<long long>(i) * x_step + j];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE; k += 256 / TILE) {
        const I i = down_from + column, j = across_from + first + k;
        if (i < down && j < across) out[at[0] + static_cast<long long>(j) * out_step + i] = tile[column][first + k];
    }
}

// For every element of out: where it lies in x, if it is not padding.
template <class I, int R> struct Padding {
    long long before[R], inside[R], step[R];
    Divisor<I> size[R];
    I count;
};
template <class T, class I, int R>
__global__ void __launch_bounds__(256) pad(Padding<I, R> padding, T* out, const T* x, T value) {
    const I index = thread_index<I>();
    if (index >= padding.count) return;
    I rest = index;
    long long at = 0;
    bool inside = true;
#pragma unroll
    for (int axis = R - 1; axis >= 0; axis--) {
        const I outer = axis ? padding.size[axis].quotient(rest) : I(0);
        const long long here = static_cast<long long>(rest - outer * padding.size[axis].value) - padding.before[axis];
        inside = inside && here >= 0 && here < padding.inside[axis];
        at += here * padding.step[axis];
        rest = outer;
    }
    out[index] = inside ? x[at] : value;
}

// x is (outer, entries, units), out is (outer, indices, units).
template <class T, class Number, class I>
__global__ void __launch_bounds__(256) gather(
    T* out, const T* x, const Number* indices, long long entries, Divisor<I> index_count, Divisor<I> units, I count) {
    const I index = thread_index<I>();
    if (index >= count) return;
    const I row = units.quotient(index), unit = index - row * units.value;
    const I outer = index_count.quotient(row);
    long long entry = indices[row - outer * index_count.value];
    if (entry < 0) entry += entries;
    const bool inside = entry >= 0 && entry < entries;
    const long long at = (static_cast<long long>(outer) * entries + entry) * static_cast<long long>(units.value) + unit;
    out[index] = inside ? x[at] : T();
}
