// Draws the edges of a photograph as light: the kernels of kaasq's demo, in the order in which they run.
//
// Images are row-major. Two-dimensional kernels run one thread per pixel; blockIdx.z picks the plane where there are
// several. A pixel outside the image is the nearest one inside (clamp), so every size from 1 x 1 on works.
//
// Each sum is written in one fixed order, and the module is compiled with -fmad=false: a multiply and an add are then
// rounded separately, as NumPy rounds them, and every device computes the same bits. None of this costs time: the
// kernels wait for memory, not for arithmetic.

// The class of a pixel on its way to becoming an edge.
#define NOTHING 0
#define WEAK    1
#define EDGE    2

// Where the gradient points, to the nearest 45 degrees (up and down being the same).
#define ACROSS  0   // left to right: the edge is vertical
#define FALLING 1   // top left to bottom right
#define DOWN    2   // top to bottom: the edge is horizontal
#define RISING  3   // bottom left to top right

#define BINS 256

static __device__ __forceinline__ int inside(int at, int size)
{
    return at < 0 ? 0 : at >= size ? size - 1 : at;
}

static __device__ __forceinline__ float pixel(const float* image, int x, int y, int width, int height)
{
    return image[(size_t)inside(y, height) * width + inside(x, width)];
}

// The brightness of each pixel, 0 to 255: Rec. 601 weights in 16-bit fixed point. The sum has 24 bits, which a float
// holds exactly, so this step never rounds.
extern "C" __global__ void luma(const unsigned char* __restrict__ photo, float* __restrict__ grey, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t i = (size_t)y * width + x;
    const int sum = 19595 * photo[3 * i] + 38470 * photo[3 * i + 1] + 7471 * photo[3 * i + 2];
    grey[i] = (float)sum * (1.0f / 65536.0f);
}

// Counts brightnesses, rounded to whole levels. Each block counts its share in shared memory, where atomics are cheap
// and collide only within the block, and adds its counts to the result once. `counts` starts as zeros.
extern "C" __global__ void histogram(const float* __restrict__ grey, unsigned int* counts, long long pixels)
{
    __shared__ unsigned int share[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) share[bin] = 0;
    __syncthreads();

    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += stride)
        atomicAdd(&share[(int)(grey[i] + 0.5f)], 1u);
    __syncthreads();

    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x)
        if (share[bin] != 0) atomicAdd(&counts[bin], share[bin]);
}

// Half of a separable blur: each pixel becomes the weighted sum of the 2 * radius + 1 pixels beside it.
extern "C" __global__ void blur_rows(const float* __restrict__ image, const float* __restrict__ weights, int radius,
                                     float* __restrict__ blurred, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t row = ((size_t)blockIdx.z * height + y) * width;
    float sum = 0.0f;
    for (int k = -radius; k <= radius; ++k) sum += weights[k + radius] * image[row + inside(x + k, width)];
    blurred[row + x] = sum;
}

// The other half: the same along the columns.
extern "C" __global__ void blur_columns(const float* __restrict__ image, const float* __restrict__ weights, int radius,
                                        float* __restrict__ blurred, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t plane = (size_t)blockIdx.z * height;
    float sum = 0.0f;
    for (int k = -radius; k <= radius; ++k)
        sum += weights[k + radius] * image[(plane + inside(y + k, height)) * width + x];
    blurred[(plane + y) * width + x] = sum;
}

// How fast the brightness changes (levels per pixel) and in which direction, by Sobel's two 3 x 3 filters. The
// direction needs no arc tangent: comparing the two slopes with tan(22.5 degrees) says which 45 degrees it is.
extern "C" __global__ void sobel(const float* __restrict__ image, float* __restrict__ slope,
                                 unsigned char* __restrict__ direction, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const float nw = pixel(image, x - 1, y - 1, width, height);
    const float n  = pixel(image, x,     y - 1, width, height);
    const float ne = pixel(image, x + 1, y - 1, width, height);
    const float w  = pixel(image, x - 1, y,     width, height);
    const float e  = pixel(image, x + 1, y,     width, height);
    const float sw = pixel(image, x - 1, y + 1, width, height);
    const float s  = pixel(image, x,     y + 1, width, height);
    const float se = pixel(image, x + 1, y + 1, width, height);
    const float dx = ((ne + 2.0f * e + se) - (nw + 2.0f * w + sw)) * 0.125f;
    const float dy = ((sw + 2.0f * s + se) - (nw + 2.0f * n + ne)) * 0.125f;

    const size_t i = (size_t)y * width + x;
    slope[i] = sqrtf(dx * dx + dy * dy);
    const float ax = fabsf(dx), ay = fabsf(dy);
    direction[i] = ay <= 0.41421356f * ax ? ACROSS
                 : ax <= 0.41421356f * ay ? DOWN
                 : (dx > 0.0f) == (dy > 0.0f) ? FALLING : RISING;
}

// Thins the slopes to lines one pixel wide and sorts them by strength: a pixel stays only if no neighbour along its
// gradient is steeper. Of two equally steep neighbours the later stays, so that a plateau leaves one line, not none.
// The image's outermost pixels lack a neighbour to compare with: they are never edges.
extern "C" __global__ void thin(const float* __restrict__ slope, const unsigned char* __restrict__ direction,
                                unsigned char* __restrict__ found, float low, float high, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t i = (size_t)y * width + x;
    const int d = direction[i];
    const int dx = d == DOWN ? 0 : 1;
    const int dy = d == ACROSS ? 0 : d == RISING ? -1 : 1;
    const float here = slope[i];
    const bool rim = x == 0 || y == 0 || x == width - 1 || y == height - 1;
    const bool crest = !rim && here >= pixel(slope, x - dx, y - dy, width, height)
                            && here > pixel(slope, x + dx, y + dy, width, height);
    found[i] = !crest || here < low ? NOTHING : here < high ? WEAK : EDGE;
}

// One step of hysteresis: a weak pixel that touches an edge becomes one. The graph launches it a few times.
extern "C" __global__ void grow(const unsigned char* __restrict__ found, unsigned char* __restrict__ grown, int width,
                                int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t i = (size_t)y * width + x;
    unsigned char here = found[i];
    if (here == WEAK)
        for (int dy = -1; dy <= 1; ++dy)
            for (int dx = -1; dx <= 1; ++dx)
                if (found[(size_t)inside(y + dy, height) * width + inside(x + dx, width)] == EDGE) here = EDGE;
    grown[i] = here;
}

// Switches the light on: edges shine the brighter the steeper they are, upright ones in the first plane of `light`,
// level ones in the second, slanting ones in both. `edges` is the same in black and white, for whoever wants lines.
extern "C" __global__ void ignite(const unsigned char* __restrict__ found, const float* __restrict__ slope,
                                  const unsigned char* __restrict__ direction, float high, float* __restrict__ light,
                                  unsigned char* __restrict__ edges, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const size_t i = (size_t)y * width + x;
    const bool edge = found[i] == EDGE;
    const float steep = slope[i] / (3.5f * high);
    const float shine = edge ? 0.05f + 0.95f * (steep < 1.0f ? steep : 1.0f) : 0.0f;
    const float upright = direction[i] == ACROSS ? 1.0f : direction[i] == DOWN ? 0.0f : 0.5f;
    light[i] = shine * upright;
    light[(size_t)width * height + i] = shine * (1.0f - upright);
    edges[i] = edge ? 255 : 0;
}

static __device__ __forceinline__ float mix(float a, float b, float t)
{
    return a + (b - a) * t;
}

// Adds light to what is there as two projectors on one screen do: it never goes past white.
static __device__ __forceinline__ unsigned char screen(float base, float light)
{
    const float shown = 1.0f - (1.0f - base) * (1.0f - (light < 1.0f ? light : 1.0f));
    const float level = shown < 0.0f ? 0.0f : shown > 1.0f ? 1.0f : shown;
    return (unsigned char)(level * 255.0f + 0.5f);
}

// The finished picture: the photograph dimmed into two tones, with a little of its own colour left, the sharp lines,
// and their light spilling over (`halo`, the blurred light). `glow` scales all light, `colour` what is left of colour.
extern "C" __global__ void composite(const unsigned char* __restrict__ photo, const float* __restrict__ grey,
                                     const float* __restrict__ light, const float* __restrict__ halo, float glow,
                                     float colour, unsigned char* __restrict__ after, int width, int height)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const float shadow[3] = {0.030f, 0.035f, 0.110f}, bright[3] = {0.420f, 0.380f, 0.620f};
    const float upright[3] = {0.160f, 0.800f, 1.000f}, level[3] = {1.000f, 0.600f, 0.220f};
    const size_t i = (size_t)y * width + x, second = (size_t)width * height + i;

    const float tone = grey[i] * (1.0f / 255.0f);
    const float dim = 0.7f / 255.0f;
    const float up = glow * (0.95f * light[i] + 4.0f * halo[i]);
    const float flat = glow * (0.95f * light[second] + 4.0f * halo[second]);
    for (int c = 0; c < 3; ++c) {
        const float base = mix(mix(shadow[c], bright[c], tone), dim * photo[3 * i + c], colour);
        after[3 * i + c] = screen(base, up * upright[c] + flat * level[c]);
    }
}
