// What stands before and behind the model. Scans have 32 x 32 pixels; a thread for each 4 x 4 block, or each scan.

extern "C" __global__ void prepare(const unsigned char* scans, float* x, int count)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count * 64) return;
  const unsigned char* scan = scans + (size_t)(i / 64) * 1024;
  int top = i % 64 / 8 * 4, left = i % 8 * 4;
  int paper = 0;  // the brightest around: paper, however it is lit
  for (int y = max(0, top - 6); y < min(32, top + 10); y++)
    for (int x = max(0, left - 6); x < min(32, left + 10); x++) paper = max(paper, (int)scan[y * 32 + x]);
  int ink = 0;
  for (int y = top; y < top + 4; y++)
    for (int x = left; x < left + 4; x++) ink += scan[y * 32 + x] < paper * 0.65f;
  x[i] = ink / 16.0f;
}

extern "C" __global__ void read(const float* logits, int* digits, float* sure, int count)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float* those = logits + i * 10;
  int best = 0;
  for (int k = 1; k < 10; k++) if (those[k] > those[best]) best = k;
  float sum = 0;
  for (int k = 0; k < 10; k++) sum += expf(those[k] - those[best]);
  digits[i] = best;
  sure[i] = 1 / sum;
}

extern "C" __global__ void tally(const int* digits, const float* sure, int* counts, int* unsure, float least, int count)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  atomicAdd(&counts[digits[i]], 1);
  if (sure[i] < least) atomicAdd(unsure, 1);
}
