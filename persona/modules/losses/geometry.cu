// Silhouette, depth, normal and segmentation error of a view, and their gradients: see
// geometry_cuda.py. Images are planes (channel, pixel). `shares` holds the weight of the bracket,
// of the depth in it, and a third and the whole of one over the number of pixels.

constexpr int THREADS = 256;
constexpr float EPS = 1e-4f, UNKNOWN = 1e-3f, LEAST = 1e-12f;
constexpr float HUGE_DEPTH = 3.0e38f;

// Of the whole image, left by `finish` for the backward pass.
struct Stats {
    float low, range, mean, inverse;  // of the rendered depth; of the log errors; 1 / (count root)
    float truth_low, truth_range;
};

struct Images {
    const float *alpha, *depth, *normal, *seg, *mask, *truth_depth, *truth_normal, *truth_seg;
};

// Calls f(pixel) for the pixels of this thread.
template <typename F>
__device__ void each_pixel(int pixels, F f) {
    for (int at = blockIdx.x * THREADS + threadIdx.x; at < pixels; at += gridDim.x * THREADS) f(at);
}

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
};
struct Least {
    __device__ static float of(float a, float b) { return fminf(a, b); }
};

// Combines COUNT numbers over the block; every thread gets them.
template <typename How, int COUNT>
__device__ void block_combine(float (&values)[COUNT]) {
    __shared__ float shared[COUNT][THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        for (int step = 16; step; step /= 2)
            values[i] = How::of(values[i], __shfl_xor_sync(0xffffffffu, values[i], step));
        if (lane == 0) shared[i][warp] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        values[i] = shared[i][0];
        for (int w = 1; w < THREADS / 32; ++w) values[i] = How::of(values[i], shared[i][w]);
    }
}

// Combines what each block left in rows of COUNT.
template <typename How, int COUNT>
__device__ void combine_rows(float (&values)[COUNT], const float* rows, int count, float empty) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        values[i] = empty;
        for (int row = threadIdx.x; row < count; row += THREADS)
            values[i] = How::of(values[i], rows[row * COUNT + i]);
    }
    block_combine<How>(values);
}

// Least and, negated, greatest depth of each block where both are known: render, then truth.
extern "C" __global__ void __launch_bounds__(THREADS) extremes(
    const float* __restrict__ depth, const float* __restrict__ truth, float* rows, int pixels
) {
    float found[4] = {HUGE_DEPTH, HUGE_DEPTH, HUGE_DEPTH, HUGE_DEPTH};
    each_pixel(pixels, [&](int at) {
        const float a = depth[at], b = truth[at];
        if (!(a > 0 && b > 0)) return;
        found[0] = fminf(found[0], a);
        found[1] = fminf(found[1], -a);
        found[2] = fminf(found[2], b);
        found[3] = fminf(found[3], -b);
    });
    block_combine<Least>(found);
    if (threadIdx.x < 4) rows[blockIdx.x * 4 + threadIdx.x] = found[threadIdx.x];
}

__device__ float log_unit(float depth, float low, float range) {
    return logf(fmaxf((depth - low) / range, 0.0f) + EPS);
}

struct Normal {
    bool valid;
    float encoded[3], truth[3];
};

__device__ Normal normal_at(const Images& images, int at, int pixels) {
    Normal normal;
    float sum = 0, truth_sum = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        // Background is -1, which (n + 1) / 2 maps to the zero that marks the unknown.
        normal.encoded[c] = 0.5f * (images.normal[c * pixels + at] + images.alpha[at]);
        normal.truth[c] = images.truth_normal[c * pixels + at];
        sum += normal.encoded[c];
        truth_sum += normal.truth[c];
    }
    normal.valid = sum > UNKNOWN && truth_sum > 0;
    return normal;
}

// Sums of each block: mask, number of log errors, their sum and squares' sum, normal, segmentation.
extern "C" __global__ void __launch_bounds__(THREADS) sums(
    const float* alpha, const float* depth, const float* normal, const float* seg,
    const float* mask, const float* truth_depth, const float* truth_normal,
    const float* truth_seg, const float* extremes, float* rows, Stats* stats, int pixels
) {
    const Images images{alpha, depth, normal, seg, mask, truth_depth, truth_normal, truth_seg};
    float ends[4];
    combine_rows<Least>(ends, extremes, gridDim.x, HUGE_DEPTH);
    const float low = ends[0], range = fmaxf(-ends[1] - low, EPS);
    const float truth_low = ends[2], truth_range = fmaxf(-ends[3] - truth_low, EPS);
    float found[6] = {};
    each_pixel(pixels, [&](int at) {
        found[0] += fabsf(alpha[at] - mask[at]);
        if (depth[at] > 0 && truth_depth[at] > 0) {
            const float error = log_unit(truth_depth[at], truth_low, truth_range)
                              - log_unit(depth[at], low, range);
            found[1] += 1;
            found[2] += error;
            found[3] += error * error;
        }
        const Normal n = normal_at(images, at, pixels);
        if (n.valid) {
            float error = 1;
#pragma unroll
            for (int c = 0; c < 3; ++c)
                error += fabsf(n.encoded[c] - n.truth[c]) / 3
                       - (2 * n.encoded[c] - 1) * (2 * n.truth[c] - 1);
            found[4] += error;
        }
#pragma unroll
        for (int c = 0; c < 3; ++c)
            found[5] += fabsf(seg[c * pixels + at] - truth_seg[c * pixels + at]) * mask[at];
    });
    block_combine<Sum>(found);
    if (threadIdx.x < 6) rows[blockIdx.x * 6 + threadIdx.x] = found[threadIdx.x];
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        stats->low = low;
        stats->range = range;
        stats->truth_low = truth_low;
        stats->truth_range = truth_range;
    }
}

// The whole error. One block.
extern "C" __global__ void __launch_bounds__(THREADS) finish(
    const float* rows, const float* shares, Stats* stats, float* result, int blocks
) {
    float total[6];
    combine_rows<Sum>(total, rows, blocks, 0.0f);
    if (threadIdx.x) return;
    const float bracket = shares[0], depth = shares[1], third = shares[2], one = shares[3];
    const float count = fmaxf(total[1], 1.0f), mean = total[2] / count;
    const float variance = total[3] / count - 0.5f * mean * mean;
    const float root = sqrtf(fmaxf(variance, LEAST));
    stats->mean = mean;
    stats->inverse = variance >= LEAST ? 1 / (count * root) : 0.0f;
    result[0] = one * total[0]
              + bracket * (depth * root + one * total[4] + third * total[5]);
}

__device__ float sign(float value) { return value > 0 ? 1.0f : value < 0 ? -1.0f : 0.0f; }

extern "C" __global__ void __launch_bounds__(THREADS) backward(
    const float* alpha, const float* depth, const float* normal, const float* seg,
    const float* mask, const float* truth_depth, const float* truth_normal,
    const float* truth_seg, const Stats* stats, const float* shares, const float* grad,
    float* alpha_grad, float* depth_grad, float* normal_grad, float* seg_grad, int pixels
) {
    const Images images{alpha, depth, normal, seg, mask, truth_depth, truth_normal, truth_seg};
    const Stats all = *stats;
    const float scale = grad[0], bracket = scale * shares[0], by_depth = bracket * shares[1];
    const float third = bracket * shares[2], one = shares[3];
    each_pixel(pixels, [&](int at) {
        float by_alpha = scale * one * sign(alpha[at] - mask[at]), slope = 0;
        if (depth[at] > 0 && truth_depth[at] > 0) {
            const float unit = fmaxf((depth[at] - all.low) / all.range, 0.0f) + EPS;
            const float error = log_unit(truth_depth[at], all.truth_low, all.truth_range) - logf(unit);
            slope = -by_depth * (error - 0.5f * all.mean) * all.inverse / (unit * all.range);
        }
        depth_grad[at] = slope;
        const Normal n = normal_at(images, at, pixels);
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const float error = sign(n.encoded[c] - n.truth[c]) / 3 - 2 * (2 * n.truth[c] - 1);
            const float half = n.valid ? 0.5f * bracket * one * error : 0.0f;
            normal_grad[c * pixels + at] = half;
            by_alpha += half;
            seg_grad[c * pixels + at] =
                third * mask[at] * sign(seg[c * pixels + at] - truth_seg[c * pixels + at]);
        }
        alpha_grad[at] = by_alpha;
    });
}
