// The kernels of pipeline.py. Photos are rows of pixels of three bytes.

__device__ int brightness(const unsigned char* pixel) { return (77 * pixel[0] + 150 * pixel[1] + 29 * pixel[2]) >> 8; }

__device__ int mirrored(int i, int n) { return min(max(i < n ? i : 2 * n - 2 - i, 0), n - 1); }

extern "C" __global__ void cut(
    const unsigned char* photo, unsigned char* tiles, int height, int width, int tile, int across)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, number = blockIdx.z;
  if (x >= tile) return;
  int row = mirrored(number / across * tile + y, height), column = mirrored(number % across * tile + x, width);
  tiles[((size_t)number * tile + y) * tile + x] = brightness(photo + ((size_t)row * width + column) * 3);
}

// One block, a thread for each tone. What counts for more than the limit is spread over all tones.
extern "C" __global__ void tones(const unsigned char* pixels, unsigned char* table, float clip, int count)
{
  __shared__ int counts[256];
  __shared__ int spread;
  int tone = threadIdx.x;
  counts[tone] = 0;
  if (tone == 0) spread = 0;
  __syncthreads();
  for (int i = tone; i < count; i += 256) atomicAdd(&counts[pixels[i]], 1);
  __syncthreads();
  int over = max(0, counts[tone] - max(1, (int)(clip * count / 256)));
  counts[tone] -= over;
  atomicAdd(&spread, over);
  __syncthreads();
  int below = 0;
  for (int i = 0; i <= tone; i++) below += counts[i];
  float share = (below + spread * (tone + 1) / 256.0f) / count;
  table[tone] = (unsigned char)(min(share, 1.0f) * 255 + 0.5f);
}

extern "C" __global__ void join(
    const unsigned char* photo, const unsigned char* tables, const unsigned char* there, unsigned char* out,
    int height, int width, int tile, int down, int across)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
  if (x >= width) return;
  size_t place = ((size_t)y * width + x) * 3;
  int tone = brightness(photo + place);
  // between the middles of the tiles around it
  float u = (x + 0.5f) / tile - 0.5f, v = (y + 0.5f) / tile - 0.5f;
  int left = (int)floorf(u), top = (int)floorf(v);
  float wanted = 0;
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) {
      int number = min(max(top + i, 0), down - 1) * across + min(max(left + j, 0), across - 1);
      float weight = (i ? v - top : 1 - (v - top)) * (j ? u - left : 1 - (u - left));
      wanted += weight * (there[number] ? tables[number * 256 + tone] : tone);
    }
  int change = (int)floorf(wanted - tone + 0.5f);
  for (int colour = 0; colour < 3; colour++) out[place + colour] = min(max(photo[place + colour] + change, 0), 255);
}
