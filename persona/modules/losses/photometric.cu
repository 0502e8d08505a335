// L1 and 1 - SSIM of two images, weighted per pixel and summed, and its gradient by the first:
// see photometric_cuda.py, which compiles this with TAPS, the list of the window's weights.
//
// A block takes 32 x 16 pixels of one channel. Blurs are separable: rows, then columns, through
// shared memory. At the border the window is reflected, so the adjoint folds back what left.

constexpr int WIDE = 32, HIGH = 16, REACH = 5, THREADS = 256;
constexpr int COLUMNS = WIDE + 2 * REACH, ROWS = HIGH + 2 * REACH;
constexpr float C1 = 0.01f * 0.01f, C2 = 0.03f * 0.03f;
__constant__ float taps[2 * REACH + 1] = {TAPS};

struct Place {
    int left, top, channel, height, width;
    size_t plane;  // where the channel begins
};

__device__ Place place_of_block(int height, int width) {
    return {(int)blockIdx.x * WIDE, (int)blockIdx.y * HIGH, (int)blockIdx.z, height, width,
            (size_t)blockIdx.z * height * width};
}

__device__ int reflect(int i, int n) {
    i = i < 0 ? -i : i;
    return i >= n ? 2 * (n - 1) - i : i;
}

// Loads the block's pixels and a frame of REACH around them, reflected or zero outside the image.
template <bool REFLECTED>
__device__ void load(float (*shared)[COLUMNS], const float* image, const Place& at) {
    for (int k = threadIdx.x; k < ROWS * COLUMNS; k += THREADS) {
        const int row = k / COLUMNS, column = k % COLUMNS;
        int y = at.top + row - REACH, x = at.left + column - REACH;
        // Beyond the frame of an image that ends inside the block nothing is used.
        const bool inside = y >= 0 && y < at.height && x >= 0 && x < at.width;
        if (REFLECTED) {
            y = min(max(reflect(y, at.height), 0), at.height - 1);
            x = min(max(reflect(x, at.width), 0), at.width - 1);
        }
        const bool used = REFLECTED || inside;
        shared[row][column] = used ? image[at.plane + (size_t)y * at.width + x] : 0.0f;
    }
}

// Sums a number over the block; thread 0 gets it.
__device__ float block_sum(float value) {
    __shared__ float sums[THREADS / 32];
    for (int step = 16; step; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0.0f;
    if (threadIdx.x == 0)
        for (int k = 0; k < THREADS / 32; ++k) value += sums[k];
    return value;
}

// Sums of each block, and how the error of a pixel changes by the blurred x, x x and x y there.
extern "C" __global__ void __launch_bounds__(THREADS) forward(
    const float* __restrict__ x_image, const float* __restrict__ y_image,
    const float* __restrict__ weights, float* __restrict__ slopes, float* __restrict__ sums,
    const float* __restrict__ shares, int weighted, int height, int width
) {
    __shared__ float x[ROWS][COLUMNS], y[ROWS][COLUMNS], blurred[5][ROWS][WIDE];
    const Place at = place_of_block(height, width);
    const float l1 = shares[0], ssim = shares[1];
    load<true>(x, x_image, at);
    load<true>(y, y_image, at);
    __syncthreads();
    for (int k = threadIdx.x; k < ROWS * WIDE; k += THREADS) {
        const int row = k / WIDE, column = k % WIDE;
        float sum[5] = {};
#pragma unroll
        for (int t = 0; t <= 2 * REACH; ++t) {
            const float a = x[row][column + t], b = y[row][column + t];
            const float wa = taps[t] * a, wb = taps[t] * b;
            sum[0] += wa;
            sum[1] += wb;
            sum[2] += wa * a;
            sum[3] += wb * b;
            sum[4] += wa * b;
        }
#pragma unroll
        for (int m = 0; m < 5; ++m) blurred[m][row][column] = sum[m];
    }
    __syncthreads();
    const size_t plane = (size_t)height * width, all = gridDim.z * plane;
    float total = 0.0f;
    for (int k = threadIdx.x; k < HIGH * WIDE; k += THREADS) {
        const int row = k / WIDE, column = k % WIDE;
        if (at.top + row >= height || at.left + column >= width) continue;
        float mean[5] = {};
#pragma unroll
        for (int t = 0; t <= 2 * REACH; ++t)
#pragma unroll
            for (int m = 0; m < 5; ++m) mean[m] += taps[t] * blurred[m][row + t][column];
        const float a1 = 2 * mean[0] * mean[1] + C1, b1 = mean[0] * mean[0] + mean[1] * mean[1] + C1;
        const float a2 = 2 * (mean[4] - mean[0] * mean[1]) + C2;
        const float b2 = mean[2] - mean[0] * mean[0] + mean[3] - mean[1] * mean[1] + C2;
        const float scale = 1.0f / (b1 * b2), value = a1 * a2 * scale;
        const size_t pixel = (size_t)(at.top + row) * width + at.left + column;
        const float weight = weighted ? weights[pixel] : 1.0f, share = -ssim * weight;
        const float by_mean = 2 * mean[1] * (a2 - a1) * scale + 2 * mean[0] * value * (1 / b2 - 1 / b1);
        slopes[at.plane + pixel] = share * by_mean;
        slopes[all + at.plane + pixel] = -share * value / b2;
        slopes[2 * all + at.plane + pixel] = share * 2 * a1 * scale;
        const float difference = fabsf(x[row + REACH][column + REACH] - y[row + REACH][column + REACH]);
        total += weight * (l1 * difference + ssim * (1 - value));
    }
    total = block_sum(total);
    if (threadIdx.x == 0)
        sums[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

// Weight that the blur at place i of a line gives to place j, reflections included.
__device__ float coupling(int i, int j, int n) {
    auto tap = [](int distance) { return distance <= REACH ? taps[REACH + distance] : 0.0f; };
    float result = tap(abs(i - j));
    if (j >= 1) result += tap(i + j);
    if (j <= n - 2) result += tap(2 * (n - 1) - i - j);
    return result;
}

// Gradient by x: the slopes' adjoint blurs, and the sign of the difference.
extern "C" __global__ void __launch_bounds__(THREADS) backward(
    const float* __restrict__ x_image, const float* __restrict__ y_image,
    const float* __restrict__ weights, const float* __restrict__ slopes,
    const float* __restrict__ grad, float* __restrict__ result,
    const float* __restrict__ shares, int weighted, int height, int width
) {
    __shared__ float slope[3][ROWS][COLUMNS], blurred[3][ROWS][WIDE];
    const Place at = place_of_block(height, width);
    const size_t all = (size_t)gridDim.z * height * width;
#pragma unroll
    for (int m = 0; m < 3; ++m) load<false>(slope[m], slopes + m * all, at);
    __syncthreads();
    const bool across = at.left <= REACH || at.left + WIDE >= width - REACH;
    for (int k = threadIdx.x; k < ROWS * WIDE; k += THREADS) {
        const int row = k / WIDE, column = k % WIDE, j = at.left + column;
        float sum[3] = {};
#pragma unroll
        for (int t = 0; t <= 2 * REACH; ++t) {
            const float tap = across ? coupling(j + t - REACH, j, width) : taps[t];
#pragma unroll
            for (int m = 0; m < 3; ++m) sum[m] += tap * slope[m][row][column + t];
        }
#pragma unroll
        for (int m = 0; m < 3; ++m) blurred[m][row][column] = sum[m];
    }
    __syncthreads();
    const bool along = at.top <= REACH || at.top + HIGH >= height - REACH;
    const float scale = grad[0] * shares[2], l1 = shares[0];
    for (int k = threadIdx.x; k < HIGH * WIDE; k += THREADS) {
        const int row = k / WIDE, column = k % WIDE, j = at.top + row;
        if (j >= height || at.left + column >= width) continue;
        float sum[3] = {};
#pragma unroll
        for (int t = 0; t <= 2 * REACH; ++t) {
            const float tap = along ? coupling(j + t - REACH, j, height) : taps[t];
#pragma unroll
            for (int m = 0; m < 3; ++m) sum[m] += tap * blurred[m][row + t][column];
        }
        const size_t pixel = (size_t)j * width + at.left + column;
        const float x = x_image[at.plane + pixel], y = y_image[at.plane + pixel];
        const float weight = l1 * (weighted ? weights[pixel] : 1.0f);
        const float sign = x > y ? weight : x < y ? -weight : 0.0f;
        result[at.plane + pixel] = scale * (sum[0] + 2 * x * sum[1] + y * sum[2] + sign);
    }
}
