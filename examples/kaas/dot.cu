extern "C" __global__ void multiply(int n, const unsigned *a, const unsigned *b, unsigned *products) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) products[i] = a[i] * b[i];
}

// Twice as many numbers as there are threads.
extern "C" __global__ void total(unsigned *x, unsigned *out) {
  for (unsigned half = blockDim.x; half > 0; half /= 2) {
    if (threadIdx.x < half) x[threadIdx.x] += x[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = *x;
}
