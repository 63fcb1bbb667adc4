// Kernels of the kind that requests in the KaaS format use: parameters by value first, then buffers.

extern "C" __global__ void prod(unsigned long long n, const unsigned *a, const unsigned *b, unsigned *out) {
  unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] * b[i];
}

// Tree sum of twice as many numbers as there are threads. It scribbles over its input.
extern "C" __global__ void sum(unsigned *x, unsigned *out) {
  for (unsigned half = blockDim.x; half > 0; half /= 2) {
    if (threadIdx.x < half) x[threadIdx.x] += x[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = *x;
}

extern "C" __global__ void powers(int n, const float *x, float *square, float *cube) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  square[i] = x[i] * x[i];
  cube[i] = x[i] * x[i] * x[i];
}

// a and b are square, their side a multiple of the tile's.
extern "C" __global__ void matmul(int n, const float *a, const float *b, float *out) {
  const int TILE = 16;
  __shared__ float left[TILE][TILE], right[TILE][TILE];
  int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
  float total = 0;
  for (int k = 0; k < n; k += TILE) {
    left[threadIdx.y][threadIdx.x] = a[row * n + k + threadIdx.x];
    right[threadIdx.y][threadIdx.x] = b[(k + threadIdx.y) * n + column];
    __syncthreads();
    for (int i = 0; i < TILE; i++) total += left[threadIdx.y][i] * right[i][threadIdx.x];
    __syncthreads();
  }
  out[row * n + column] = total;
}

// One step of Jacobi's method for a x = b, with a copy of x in dynamic shared memory.
extern "C" __global__ void jacobi(int n, const double *a, const double *b, const double *x, double *better) {
  extern __shared__ double old[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) old[i] = x[i];
  __syncthreads();
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n) return;
  double rest = b[row];
  for (int i = 0; i < n; i++)
    if (i != row) rest -= a[row * n + i] * old[i];
  better[row] = rest / a[row * n + row];
}

extern "C" __global__ void scale(int n, float factor, double shift, float *x) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = factor * x[i] + (float)shift;
}
