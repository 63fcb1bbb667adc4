// Windows over images (N, C, H, W). windows.py packs the geometry.
struct Windows {
    int height, width;                     // of an image
    int kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int fitting_y, fitting_x;              // windows down and across
    int end_y, end_x;                      // where the pads end, for a mean that counts them
};

// columns[image][row][window], of the windows from `first` on, `rows` = channels * kernel_y * kernel_x.
// A block has neighbouring windows; blockIdx.y walks over rows and images.
template <class T>
__global__ void __launch_bounds__(256) im2col(
    Windows g, T* columns, const T* x, long long rows, long long all_rows, long long first, long long count,
    long long image_step) {
    const long long window = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
    if (window >= count) return;
    const int window_y = static_cast<int>((first + window) / g.fitting_x) * g.stride_y - g.pad_y;
    const int window_x = static_cast<int>((first + window) % g.fitting_x) * g.stride_x - g.pad_x;
    const int taps = g.kernel_y * g.kernel_x;
    for (long long row = blockIdx.y; row < all_rows; row += gridDim.y) {
        const long long image = row / rows, channel = row % rows / taps;
        const int tap = static_cast<int>(row % rows % taps);
        const int iy = window_y + tap / g.kernel_x * g.dilation_y, ix = window_x + tap % g.kernel_x * g.dilation_x;
        const bool inside = iy >= 0 && iy < g.height && ix >= 0 && ix < g.width;
        const long long at = image * image_step + (channel * g.height + iy) * g.width + ix;
        columns[row * count + window] = inside ? x[at] : T();
    }
}

// A thread for each output, for filters so shallow that a matrix product would be mostly overhead.
template <class T, class I>
__global__ void __launch_bounds__(256) conv2d_direct(
    Windows g, T* out, const T* x, const T* w, const T* bias, I count, int filters, int depth, int filters_per_group) {
    using W = WideOf<T>;
    const I index = thread_index<I>();
    if (index >= count) return;
    const int ox = static_cast<int>(index % g.fitting_x), oy = static_cast<int>(index / g.fitting_x % g.fitting_y);
    const I plane = index / g.fitting_x / g.fitting_y;
    const int filter = static_cast<int>(plane % filters);
    const long long image = static_cast<long long>(plane / filters);
    const long long groups = filters / filters_per_group, group = filter / filters_per_group;
    const T* from = x + (image * groups + group) * depth * g.height * g.width;
    const T* weight = w + static_cast<long long>(filter) * depth * g.kernel_y * g.kernel_x;
    W sum = W(0);
    for (int channel = 0; channel < depth; channel++)
        for (int ky = 0; ky < g.kernel_y; ky++)
            for (int kx = 0; kx < g.kernel_x; kx++, weight++) {
                const int iy = oy * g.stride_y - g.pad_y + ky * g.dilation_y;
                const int ix = ox * g.stride_x - g.pad_x + kx * g.dilation_x;
                const long long at = (static_cast<long long>(channel) * g.height + iy) * g.width + ix;
                if (iy >= 0 && iy < g.height && ix >= 0 && ix < g.width) sum += widen(from[at]) * widen(*weight);
            }
    out[index] = narrow<T>(bias ? sum + widen(bias[filter]) : sum);
}

template <class T, class I, bool MEAN, bool COUNT_PADS>
__global__ void __launch_bounds__(256) pool2d(Windows g, T* out, const T* x, I count) {
    using W = WideOf<T>;
    const I index = thread_index<I>();
    if (index >= count) return;
    const int ox = static_cast<int>(index % g.fitting_x), oy = static_cast<int>(index / g.fitting_x % g.fitting_y);
    const T* image = x + static_cast<long long>(index / g.fitting_x / g.fitting_y) * g.height * g.width;
    W found = MEAN ? W(0) : lowest<W>();
    int counted = 0;
    for (int ky = 0; ky < g.kernel_y; ky++)
        for (int kx = 0; kx < g.kernel_x; kx++) {
            const int iy = oy * g.stride_y - g.pad_y + ky * g.dilation_y;
            const int ix = ox * g.stride_x - g.pad_x + kx * g.dilation_x;
            const bool inside = iy >= 0 && iy < g.height && ix >= 0 && ix < g.width;
            counted += COUNT_PADS ? iy < g.end_y && ix < g.end_x : inside;
            if (!inside) continue;
            const W value = widen(image[static_cast<long long>(iy) * g.width + ix]);
            if (MEAN) found += value;
            else found = larger(found, value);
        }
    out[index] = narrow<T>(MEAN ? found / static_cast<W>(counted) : found);
}
