// One kernel for each feature of CUDA C++ that the CPU device has; tests/integration/test_cpu_*.py launch them.
#include <cuda_runtime.h>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cstdint>
#include <math.h>
#include <assert.h>
namespace cg = cooperative_groups;

#define ME (blockIdx.x * blockDim.x + threadIdx.x)

// A kernel may have the name of a C library function.
extern "C" __global__ void div(const int* a, const int* b, int* out) { out[ME] = a[ME] / b[ME]; }

__constant__ float weights[4] = {0.5f, 1.0f, 2.0f, 4.0f};
extern "C" __global__ void constants(float* out) { out[threadIdx.x] = weights[threadIdx.x % 4]; }

__device__ int calls = 0;
extern "C" __global__ void count_calls(int* out) { if (threadIdx.x == 0) *out = ++calls; }

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* w, float* f, double* d) {
    int t = threadIdx.x;
    atomicAdd(&i[0], t); atomicSub(&i[1], t); atomicMax(&i[2], t); atomicMin(&i[3], -t); atomicExch(&i[4], 77);
    atomicAnd(&i[5], ~(1 << t % 8)); atomicOr(&i[6], 1 << t % 8); atomicXor(&i[7], 1 << t % 8);
    int seen, old = i[8];
    do { seen = old; old = atomicCAS(&i[8], seen, seen + 2); } while (seen != old);
    atomicInc(&u[0], 9); atomicDec(&u[1], 9); atomicMax(&u[2], (unsigned)t); atomicAdd(&u[3], 1);
    atomicAdd(w, 1ull << 32); atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
}

extern "C" __global__ void block_votes(int* out) {
    int t = threadIdx.x;
    int count = __syncthreads_count(t % 3 == 0);
    int all = __syncthreads_and(t >= 0), not_all = __syncthreads_and(t > 0);
    int some = __syncthreads_or(t == 5), none = __syncthreads_or(t < 0);
    out[t] = count | all << 8 | not_all << 9 | some << 10 | none << 11;
}

extern "C" __global__ void shuffles(int* up, int* down, int* across, int* fixed, double* wide) {
    int t = threadIdx.x;
    up[t] = __shfl_up_sync(~0u, t, 3, 16);
    down[t] = __shfl_down_sync(~0u, t, 3, 16);
    across[t] = __shfl_xor_sync(~0u, t, 5, 8);
    fixed[t] = __shfl_sync(~0u, t, 2, 8);
    wide[t] = __shfl_sync(~0u, t * 1.5, 31);
}

extern "C" __global__ void votes(unsigned* ballot, int* any, int* all, unsigned* match, unsigned* sum) {
    int t = threadIdx.x;
    ballot[t] = __ballot_sync(~0u, t & 1);
    any[t] = __any_sync(~0u, t == 40);
    all[t] = __all_sync(~0u, t < 40);
    match[t] = __match_any_sync(~0u, t / 8);
    sum[t] = __reduce_add_sync(~0u, (unsigned)t);
}

// The two halves of a warp go different ways, each with its own mask, and a different number of times.
extern "C" __global__ void divergent_masks(int* out) {
    int t = threadIdx.x, value = t;
    if (t < 16) {
        for (int k = 1; k < 16; k *= 2) value += __shfl_xor_sync(0x0000ffffu, value, k);
    } else {
        for (int k = 1; k < 4; k *= 2) value += __shfl_xor_sync(0xffff0000u, value, k);
        __syncwarp(0xffff0000u);
    }
    __syncwarp();
    out[t] = value + __shfl_sync(~0u, t, 31);
}

// Warp-aggregated increments, each branch on its own.
extern "C" __global__ void active_lanes(int* counters, unsigned* masks) {
    int t = threadIdx.x;
    if (t % 3 == 0) {
        unsigned active = __activemask();
        masks[t] = active;
        if (__ffs(active) - 1 == t % 32) atomicAdd(&counters[0], __popc(active));
    } else {
        auto group = cg::coalesced_threads();
        masks[t] = group.size();
        if (group.thread_rank() == 0) atomicAdd(&counters[1], group.size());
    }
}

extern "C" __global__ void tiles(int* sums, int* ranks, int* block_sum) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    int t = block.thread_rank();
    sums[t] = cg::reduce(tile, t, cg::plus<int>());
    ranks[t] = tile.thread_rank() + 100 * tile.meta_group_rank() + 10000 * tile.shfl(t, 1);
    if (tile.thread_rank() == 0) atomicAdd(block_sum, sums[t]);
    block.sync();
}

// Several declarations of dynamic shared memory are one; this one stands outside of the kernel.
extern __shared__ __align__(16) unsigned char raw[];
__device__ void fill(int t) {
    extern __shared__ int as_int[];
    as_int[t] = t * t;
}
extern "C" __global__ void aliased(int* out) {
    fill(threadIdx.x);
    __syncthreads();
    extern __shared__ float as_float[];
    out[threadIdx.x] = __float_as_int(as_float[blockDim.x - 1 - threadIdx.x]) + reinterpret_cast<int*>(raw)[0];
}

template <class T> __device__ T block_sum(T value) {
    __shared__ T all[64];
    all[threadIdx.x] = value;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < blockDim.x; i++) sum += all[i];
    return sum;
}
template <class T> __global__ void sums(const T* x, T* out) {
    T sum = block_sum(x[ME]);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

namespace inner {
template <int n>
__global__ void __launch_bounds__(64) power(double* x) {
    for (int i = 1; i < n; i++) x[ME + 8] *= x[ME];
}
}

extern "C" __global__ void vectors(const float4* a, float2* b, uchar4* c, double2* d) {
    int t = threadIdx.x;
    float4 v = a[t];
    b[t] = make_float2(v.x + v.z, v.y * v.w);
    c[t] = make_uchar4(t, t + 1, 255, 0);
    d[t] = make_double2(v.x, -1.0);
}

extern "C" __global__ void halves(const half* x, half* out, half2* pairs, __nv_bfloat16* b) {
    int t = threadIdx.x;
    out[t] = __hfma(x[t], x[t], __float2half(0.25f)) - x[t] / half(3.0f) + (__hgt(x[t], x[0]) ? half(1) : half(0));
    half2 pair = __halves2half2(x[t], __hneg(x[t]));
    pairs[t] = __hadd2(__hmul2(pair, pair), __float2half2_rn(1.0f));
    b[t] = __float2bfloat16(__half2float(x[t])) * __nv_bfloat16(2.0f);
}

extern "C" __global__ void bits(const unsigned* x, unsigned* out) {
    unsigned t = threadIdx.x, v = x[t];
    out[8 * t] = __popc(v); out[8 * t + 1] = __clz(v); out[8 * t + 2] = __ffs(v); out[8 * t + 3] = __brev(v);
    out[8 * t + 4] = __umulhi(v, v); out[8 * t + 5] = __byte_perm(v, ~v, 0x7531);
    out[8 * t + 6] = __funnelshift_l(v, ~v, 5); out[8 * t + 7] = __float_as_uint(__uint_as_float(v));
}

extern "C" __global__ void mathematics(const float* __restrict__ x, float* __restrict__ out) {
    int t = threadIdx.x;
    float v = __ldg(x + t), s, c;
    sincosf(v, &s, &c);
    out[8 * t] = rsqrtf(v); out[8 * t + 1] = __expf(v) + __logf(v); out[8 * t + 2] = s * s + c * c;
    out[8 * t + 3] = fmaxf(v, 1.0f) + fminf(v, 1.0f) + max(v, 2.0f); out[8 * t + 4] = __fdividef(v, 3.0f);
    out[8 * t + 5] = __saturatef(v); out[8 * t + 6] = __fmaf_rn(v, v, 1.0f); out[8 * t + 7] = powf(v, 0.5f) + fabsf(-v);
}

extern "C" __global__ void conversions(const float* x, int* out, unsigned* outu) {
    int t = threadIdx.x;
    out[t] = __float2int_rn(x[t]); outu[t] = __float2uint_rz(x[t]);
}

// Unsigned, as in CUDA: below zero is a very large number.
extern "C" __global__ void unsigned_index(int* out) { out[ME] = threadIdx.x - 1 < 3 ? 1 : threadIdx.x > -1 ? 2 : 3; }

extern "C" __global__ void last_block(int* done, int* out) {
    __shared__ bool last;
    __threadfence();
    if (threadIdx.x == 0) last = atomicAdd(done, 1) == gridDim.x - 1;
    __syncthreads();
    if (last && threadIdx.x == 0) *out = *done;
}

extern "C" __global__ void big_frame(int* out) {
    volatile char local[48 * 1024];
    local[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = local[threadIdx.x];
}

#if __CUDA_ARCH__ >= 800
__device__ void copy_asynchronously() { asm volatile("cp.async.wait_all;"); }
#endif
extern "C" __global__ void checked(int* x) { assert(x[threadIdx.x] != 13); x[threadIdx.x] = 1; }
extern "C" __global__ void checked_together(int* x) {
    __syncthreads();
    if (x[threadIdx.x] == 13) __trap();
    __syncthreads();
    x[threadIdx.x] = 1;
}
extern "C" __global__ void diverges(int* out) {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp();
    out[threadIdx.x] = 1;
}
