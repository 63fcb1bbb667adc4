// Compiled into the cubins beside this file (README.md says how); tests/unit/test_cubin_parameters.py knows the layouts.
struct Params { float a; double b; int c[3]; };
struct Wide { float values[1100]; };

extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + y[i];
}

extern "C" __global__ void __launch_bounds__(128) mixed(const float* x, float* y, Params p, short h, unsigned char q,
                                                        long long n) {
    __shared__ float s[64];
    s[threadIdx.x & 63] = x[0];
    __syncthreads();
    y[n] = p.a * x[n] + h + q + s[1] + p.c[2] + p.b;
}

template <class T>
__global__ void scale(T* x, T by, int n) {
    if (threadIdx.x < n) x[threadIdx.x] *= by;
}
template __global__ void scale<float>(float*, float, int);
template __global__ void scale<double>(double*, double, int);

__device__ __noinline__ int helper(int* a, int b) { return a[b] * b; }

// More than 4 KiB of parameters: the compiler writes another kind of table.
extern "C" __global__ void wide(Wide w, int* out, int i) { *out = w.values[i] + helper(out, i); }

extern "C" __global__ void nothing() {}
