// CUDA's keywords, as a host compiler understands them, and printf, assert and __trap.
#pragma once

#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDA_ARCH__ 700  // what this device resembles: independent threads, no tensor cores, no async copies
#define KAASQ_CPU 1        // for kernels that want to know

#define __host__
#define __device__
#define __constant__
#define __managed__
#define __grid_constant__
// Inlined into the loop over the threads of a block: that is what lets the compiler vectorise across threads.
#define __global__ inline __attribute__((always_inline))
// A block runs on one OS thread from its start to its end.
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __inline_hint__ inline
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __restrict __restrict__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))

extern "C" int printf(const char*, ...) __attribute__((format(printf, 1, 2)));

[[noreturn]] inline void __trap() { kaasq_fail("__trap() was called"); }

#define KAASQ_TEXT_(x) #x
#define KAASQ_TEXT(x) KAASQ_TEXT_(x)
#include "assert.h"
