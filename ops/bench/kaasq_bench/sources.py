"""The kernels that are measured. Text alone: peers that start anew for each request load nothing that they need not."""

from __future__ import annotations

NOOP = 'extern "C" __global__ void noop() {}'
PASS_ON = 'extern "C" __global__ void pass_on(float* x) {}'

SAXPY = r"""
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i] + y[i]; }
"""

HALVE = r"""
extern "C" __global__ void halve(float* x, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] = 0.5f * x[i] + 1.0f; }
"""

HALVE_INTO = r"""
extern "C" __global__ void halve_into(const float* x, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = 0.5f * x[i] + 1.0f; }
"""

# One thread a row; the matrix lies column by column, so that the threads of a warp read side by side.
JACOBI = r"""
extern "C" __global__ void sweep(const float* a, const float* b, const float* x, float* next, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float rest = b[i];
  for (int j = 0; j < n; j++) if (j != i) rest -= a[j * n + i] * x[j];
  next[i] = rest / a[i * n + i];
}
"""

TOUCH = 'extern "C" __global__ void touch(const float* x, float* out) { out[0] = x[0]; }'
FILL = 'extern "C" __global__ void fill(float* out) { out[0] = 1.0f; }'

SPIN = r"""
extern "C" __global__ void spin(float* out, int rounds)
{
  float x = threadIdx.x;
  for (int i = 0; i < rounds; i++) x = x * 0.999f + 0.5f;
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}
"""
