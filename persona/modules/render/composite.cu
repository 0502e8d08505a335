// Compositing of binned 2D Gaussians: see composite_cuda.py, which compiles this with
//   CHANNELS  values of a Gaussian, at most 26,
//   MOVING    of them, the first, whose images move the geometry,
//   GEOMETRY  1 if anything moves it,
//   SEGMENT   members of a tile's list that one warp composites.
//
// A warp composites one segment for the 8 x 8 pixels of its tile. Lane l owns the pixels l and
// l + 32 of the tile, which lie in one column, four rows apart. Members come to shared memory 32 at
// a time; those that do not reach the tile are never looked at.

constexpr int LANES = 32, WARPS = 4, SIDE = 8, PIXELS = SIDE * SIDE, APART = PIXELS / SIDE / 2;
constexpr int STRIDE = (CHANNELS + 3) / 4 * 4;
constexpr int SHAPE = GEOMETRY ? 6 : 0;
constexpr int GRADIENTS = CHANNELS + SHAPE;
constexpr int MOST_TILES = 1 << 18;
constexpr unsigned ALL = 0xffffffffu;
constexpr float DARK = 1e-4f, FAINT = 1.0f / 255.0f, SOLID = 0.999f;
static_assert(GRADIENTS <= LANES, "a warp adds up at most 32 gradients");

// A member as it is staged: mean, halves of the conic's diagonal, its other entry, the power at
// which it is fainter than 1/255, and the squared distance at which it surely is.
struct Member {
    float4 near;  // mean x, mean y, xx / 2, xy
    float4 far;   // yy / 2, opacity, largest power, squared reach
};

struct Stage {
    Member member[LANES];
    int row[LANES];
    float4 value[LANES * STRIDE / 4];
};

struct Segment {
    int index, tile, first, stop;
    int x, y;  // of the lane's first pixel
};

// The warp's segment; false for padding.
__device__ bool open_segment(
    Segment& segment, const int* tiles, const int* firsts, const int* stops, int count, int columns
) {
    segment.index = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (segment.index >= count) return false;
    segment.tile = tiles[segment.index];
    if (segment.tile < 0) return false;
    segment.first = firsts[segment.index];
    segment.stop = stops[segment.index];
    const int lane = threadIdx.x % LANES;
    segment.x = segment.tile % columns * SIDE + lane % SIDE;
    segment.y = segment.tile / columns * SIDE + lane / SIDE;
    return true;
}

// Brings 32 members; the bits of those that may reach the tile.
__device__ unsigned stage_members(
    Stage& stage, const Segment& segment, int start, const int* members, const Member* packed
) {
    const int lane = threadIdx.x % LANES, at = start + lane;
    bool reaches = false;
    __syncwarp();
    if (at < segment.stop) {
        const int row = members[at];
        const Member member = packed[row];
        const float left = segment.x - lane % SIDE + 0.5f, top = segment.y - lane / SIDE + 0.5f;
        const float x = member.near.x - fminf(fmaxf(member.near.x, left), left + SIDE - 1);
        const float y = member.near.y - fminf(fmaxf(member.near.y, top), top + SIDE - 1);
        reaches = x * x + y * y <= member.far.w;
        stage.member[lane] = member;
        stage.row[lane] = row;
    }
    const unsigned mask = __ballot_sync(ALL, reaches);
    __syncwarp();
    return mask;
}

// Brings the first `count` values of the staged members, a row at a time.
template <int COUNT>
__device__ void stage_values(Stage& stage, unsigned mask, const float* values) {
    const int lane = threadIdx.x % LANES;
#pragma unroll 8
    for (int k = 0; k < LANES; ++k)
        if (mask >> k & 1 && lane < COUNT)
            ((float*)stage.value)[k * STRIDE + lane] = values[(long long)stage.row[k] * CHANNELS + lane];
    __syncwarp();
}

// One of a staged member's values; four come in one read.
__device__ float entry(const float4* value, int i) {
    const float4 four = value[i / 4];
    return i % 4 == 0 ? four.x : i % 4 == 1 ? four.y : i % 4 == 2 ? four.z : four.w;
}

// A member at the lane's two pixels.
struct Look {
    float dx, dy[2], raw[2], alpha[2];
    bool any;  // whether it is drawn at a pixel of the warp that is not dark yet
};

__device__ Look look(const Member& member, const Segment& segment, const float through[2]) {
    Look look;
    look.dx = member.near.x - (segment.x + 0.5f);
    look.dy[0] = member.near.y - (segment.y + 0.5f);
    look.dy[1] = look.dy[0] - APART;
    const float across = member.near.z * look.dx * look.dx, slope = member.near.w * look.dx;
    float power[2];
    bool drawn[2];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        power[p] = across + look.dy[p] * (slope + member.far.x * look.dy[p]);
        drawn[p] = power[p] >= 0 && power[p] <= member.far.z && through[p] > DARK;
    }
    look.any = __any_sync(ALL, drawn[0] || drawn[1]);
    if (look.any) {
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            look.raw[p] = drawn[p] ? member.far.y * __expf(-power[p]) : 0.0f;
            look.alpha[p] = fminf(look.raw[p], SOLID);
        }
    }
    return look;
}

// Whether a pixel of the warp is still lit.
__device__ bool lit(const float through[2]) {
    return __any_sync(ALL, through[0] > DARK || through[1] > DARK);
}

__device__ bool inside(const Segment& segment, int p, int height, int width) {
    return segment.x < width && segment.y + APART * p < height;
}

extern "C" __global__ void pack(
    const float* __restrict__ means, const float* __restrict__ conics, const float* __restrict__ opacities, Member* packed, int count
) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= count) return;
    const float a = conics[row * 3], b = conics[row * 3 + 1], c = conics[row * 3 + 2];
    const float opacity = opacities[row], largest = logf(opacity / FAINT);
    // The flattest direction of the quadratic form tells how far the Gaussian reaches.
    const float half = 0.5f * (a - c), least = 0.5f * (a + c) - sqrtf(half * half + b * b);
    const float reach = largest < 0 ? -1.0f : least > 0 ? 2.002f * largest / least : 1e30f;
    packed[row].near = make_float4(means[row * 2], means[row * 2 + 1], 0.5f * a, b);
    packed[row].far = make_float4(0.5f * c, opacity, largest, reach);
}

// One block of 1,024 threads: cuts each tile's list into segments; -1 marks the spare ones. Tiles
// are taken in rounds of one a thread, whose segments follow those of the rounds before.
extern "C" __global__ void cut(
    const int* __restrict__ starts, int tiles, int slots, int* tile_of, int* first, int* stop,
    int* tile_first, int* tile_count, int capacity
) {
    __shared__ int before[MOST_TILES / LANES + 1];  // segments before each 32 tiles, then of all
    const int lane = threadIdx.x % LANES, groups = (tiles + LANES - 1) / LANES;
    auto count = [&](int tile) {
        if (tile >= tiles) return 0;
        const int end = tile + 1 < tiles ? starts[tile + 1] : slots;
        return (end - starts[tile] + SEGMENT - 1) / SEGMENT;
    };
    auto sum_upto = [&](int own) {  // over the lanes up to this one
        for (int step = 1; step < LANES; step *= 2) {
            const int other = __shfl_up_sync(ALL, own, step);
            if (lane >= step) own += other;
        }
        return own;
    };
    const int warps = blockDim.x / LANES, warp = threadIdx.x / LANES;
#pragma unroll 4
    for (int group = warp; group < groups; group += warps) {
        const int upto = sum_upto(count(group * LANES + lane));
        if (lane == LANES - 1) before[group] = upto;
    }
    __syncthreads();
    if (warp == 0) {
        int carry = 0;
        for (int start = 0; start < groups; start += LANES) {
            const int own = start + lane < groups ? before[start + lane] : 0;
            const int upto = sum_upto(own);
            if (start + lane < groups) before[start + lane] = carry + upto - own;
            carry += __shfl_sync(ALL, upto, LANES - 1);
        }
        if (lane == 0) before[groups] = carry;
    }
    __syncthreads();
    for (int group = warp; group < groups; group += warps) {
        const int tile = group * LANES + lane, pieces = count(tile);
        int at = before[group] + sum_upto(pieces) - pieces;
        if (tile >= tiles) continue;
        const int begin = starts[tile], end = tile + 1 < tiles ? starts[tile + 1] : slots;
        tile_first[tile] = at;
        tile_count[tile] = pieces;
        for (int k = 0; k < pieces; ++k, ++at) {
            tile_of[at] = tile;
            first[at] = begin + k * SEGMENT;
            stop[at] = min(first[at] + SEGMENT, end);
        }
    }
    for (int k = before[groups] + threadIdx.x; k < capacity; k += blockDim.x) tile_of[k] = -1;
}

// Transmittance (segment, pixel) of each segment alone; no more than DARK where it is dark.
extern "C" __global__ void __launch_bounds__(LANES * WARPS) transmit(
    const int* __restrict__ members, const Member* __restrict__ packed, const int* __restrict__ tiles, const int* __restrict__ firsts,
    const int* __restrict__ stops, float* alone, int count, int columns
) {
    __shared__ Stage stages[WARPS];
    Stage& stage = stages[threadIdx.x / LANES];
    Segment segment;
    if (!open_segment(segment, tiles, firsts, stops, count, columns)) return;
    float through[2] = {1.0f, 1.0f};
    for (int start = segment.first; start < segment.stop && lit(through); start += LANES) {
        unsigned mask = stage_members(stage, segment, start, members, packed);
        for (; mask; mask &= mask - 1) {
            const Look seen = look(stage.member[__ffs(mask) - 1], segment, through);
            if (!seen.any) continue;
            for (int p = 0; p < 2; ++p) through[p] *= 1.0f - seen.alpha[p];
        }
    }
    const int lane = threadIdx.x % LANES;
    alone[segment.index * PIXELS + lane] = through[0];
    alone[segment.index * PIXELS + lane + LANES] = through[1];
}

// Product (or, with `sums`, sum) of what lies before each segment of a tile. A thread per pixel.
extern "C" __global__ void link(
    const float* __restrict__ alone, float* __restrict__ before, const int* __restrict__ tile_first, const int* __restrict__ tile_count, int sums
) {
    const int count = tile_count[blockIdx.x];
    const int first = tile_first[blockIdx.x] * PIXELS + threadIdx.x;
    float carry = sums ? 0.0f : 1.0f;
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
        const float own = alone[first + k * PIXELS];
        before[first + k * PIXELS] = carry;
        carry = sums ? carry + own : carry * own;
    }
}

// Adds each segment's share of the images (channel, row, column) and of the alpha.
extern "C" __global__ void __launch_bounds__(LANES * WARPS) colors(
    const int* __restrict__ members, const Member* __restrict__ packed, const float* __restrict__ values, const int* __restrict__ tiles,
    const int* __restrict__ firsts, const int* __restrict__ stops, const float* __restrict__ before, float* image, float* alpha,
    int count, int columns, int height, int width
) {
    __shared__ Stage stages[WARPS];
    Stage& stage = stages[threadIdx.x / LANES];
    Segment segment;
    if (!open_segment(segment, tiles, firsts, stops, count, columns)) return;
    const int lane = threadIdx.x % LANES;
    const float* own = before + segment.index * PIXELS + lane;
    float through[2] = {own[0], own[LANES]}, total[2] = {}, color[2][CHANNELS] = {};
    if (!lit(through)) return;
    for (int start = segment.first; start < segment.stop && lit(through); start += LANES) {
        unsigned mask = stage_members(stage, segment, start, members, packed);
        stage_values<CHANNELS>(stage, mask, values);
        for (; mask; mask &= mask - 1) {
            const int k = __ffs(mask) - 1;
            const Look seen = look(stage.member[k], segment, through);
            if (!seen.any) continue;
            const float4* value = stage.value + k * (STRIDE / 4);
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                const float next = through[p] * (1.0f - seen.alpha[p]);
                const float weight = next > DARK ? seen.alpha[p] * through[p] : 0.0f;
                through[p] = next;
                total[p] += weight;
#pragma unroll
                for (int i = 0; i < CHANNELS; ++i) color[p][i] += weight * entry(value, i);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        if (!inside(segment, p, height, width)) continue;
        const int pixel = (segment.y + APART * p) * width + segment.x;
        atomicAdd(alpha + pixel, total[p]);
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i)
            atomicAdd(image + (long long)i * height * width + pixel, color[p][i]);
    }
}

#if GEOMETRY

// What a change of the alpha and of the moving images is worth at the lane's pixels.
struct Worth {
    float alpha[2], image[2][MOVING > 0 ? MOVING : 1];
};

__device__ Worth worth(
    const Segment& segment, const float* __restrict__ image_grad, const float* __restrict__ alpha_grad, int height, int width
) {
    Worth worth = {};
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        if (!inside(segment, p, height, width)) continue;
        const int pixel = (segment.y + APART * p) * width + segment.x;
        worth.alpha[p] = alpha_grad[pixel];
#pragma unroll
        for (int i = 0; i < MOVING; ++i)
            worth.image[p][i] = image_grad[(long long)i * height * width + pixel];
    }
    return worth;
}

// Of one more unit of a member's weight.
__device__ float pull(const Worth& worth, int p, const float4* value) {
    float result = worth.alpha[p];
#pragma unroll
    for (int i = 0; i < MOVING; ++i) result += worth.image[p][i] * entry(value, i);
    return result;
}

// Sum over a segment of weight times pull, per pixel, where a later segment needs it.
extern "C" __global__ void __launch_bounds__(LANES * WARPS) pulls(
    const int* __restrict__ members, const Member* __restrict__ packed, const float* __restrict__ values, const int* __restrict__ tiles,
    const int* __restrict__ firsts, const int* __restrict__ stops, const float* __restrict__ before, const float* __restrict__ image_grad,
    const float* __restrict__ alpha_grad, float* alone, int count, int columns, int height, int width
) {
    __shared__ Stage stages[WARPS];
    Stage& stage = stages[threadIdx.x / LANES];
    Segment segment;
    if (!open_segment(segment, tiles, firsts, stops, count, columns)) return;
    const int lane = threadIdx.x % LANES, next = segment.index + 1;
    if (next >= count || tiles[next] != segment.tile) return;
    const float* own = before + segment.index * PIXELS + lane;
    const float after[2] = {own[PIXELS], own[PIXELS + LANES]};
    if (!lit(after)) return;
    float through[2] = {own[0], own[LANES]}, total[2] = {};
    const Worth gain = worth(segment, image_grad, alpha_grad, height, width);
    for (int start = segment.first; start < segment.stop && lit(through); start += LANES) {
        unsigned mask = stage_members(stage, segment, start, members, packed);
        stage_values<MOVING>(stage, mask, values);
        for (; mask; mask &= mask - 1) {
            const int k = __ffs(mask) - 1;
            const Look seen = look(stage.member[k], segment, through);
            if (!seen.any) continue;
            const float4* value = stage.value + k * (STRIDE / 4);
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                const float next = through[p] * (1.0f - seen.alpha[p]);
                const float weight = next > DARK ? seen.alpha[p] * through[p] : 0.0f;
                through[p] = next;
                total[p] += weight * pull(gain, p, value);
            }
        }
    }
    alone[segment.index * PIXELS + lane] = total[0];
    alone[segment.index * PIXELS + lane + LANES] = total[1];
}

#endif

constexpr int FOLD = GRADIENTS <= 1 ? 1 : GRADIENTS <= 2 ? 2 : GRADIENTS <= 4 ? 4
                   : GRADIENTS <= 8 ? 8 : GRADIENTS <= 16 ? 16 : 32;

// Sums N numbers over the lanes: lanes halve the numbers among them at each exchange. Lane l gets
// the sum of number l * FOLD / LANES.
template <int N, int WIDTH>
__device__ float fold(float* numbers, int lane) {
    if constexpr (N > 1) {
        const bool upper = lane & WIDTH;
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const float keep = upper ? numbers[i + N / 2] : numbers[i];
            const float send = upper ? numbers[i] : numbers[i + N / 2];
            numbers[i] = keep + __shfl_xor_sync(ALL, send, WIDTH);
        }
        return fold<N / 2, WIDTH / 2>(numbers, lane);
    } else if constexpr (WIDTH > 0) {
        numbers[0] += __shfl_xor_sync(ALL, numbers[0], WIDTH);
        return fold<1, WIDTH / 2>(numbers, lane);
    } else {
        return numbers[0];
    }
}

// Adds each segment's share of its members' gradients (row, GRADIENTS): values, then mean x and y,
// conic xx, xy, yy, opacity.
extern "C" __global__ void __launch_bounds__(LANES * WARPS) gradients(
    const int* __restrict__ members, const Member* __restrict__ packed, const float* __restrict__ values, const int* __restrict__ tiles,
    const int* __restrict__ firsts, const int* __restrict__ stops, const float* __restrict__ before, const float* __restrict__ pulled,
    const float* __restrict__ image, const float* __restrict__ alpha, const float* __restrict__ image_grad, const float* __restrict__ alpha_grad,
    float* result, int count, int columns, int height, int width
) {
    __shared__ Stage stages[WARPS];
    Stage& stage = stages[threadIdx.x / LANES];
    Segment segment;
    if (!open_segment(segment, tiles, firsts, stops, count, columns)) return;
    const int lane = threadIdx.x % LANES;
    const float* own = before + segment.index * PIXELS + lane;
    float through[2] = {own[0], own[LANES]};
    if (!lit(through)) return;
    float grad[2][CHANNELS] = {};
#if GEOMETRY
    float alpha_gain[2] = {}, later[2] = {};
#endif
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        if (!inside(segment, p, height, width)) continue;
        const int pixel = (segment.y + APART * p) * width + segment.x;
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i)
            grad[p][i] = image_grad[(long long)i * height * width + pixel];
#if GEOMETRY
        // What all members of the pixel pull, less those of the segments before.
        alpha_gain[p] = alpha_grad[pixel];
        later[p] = alpha[pixel] * alpha_gain[p];
#pragma unroll
        for (int i = 0; i < MOVING; ++i)
            later[p] += image[(long long)i * height * width + pixel] * grad[p][i];
        later[p] -= pulled[segment.index * PIXELS + lane + p * LANES];
#endif
    }
    for (int start = segment.first; start < segment.stop && lit(through); start += LANES) {
        unsigned mask = stage_members(stage, segment, start, members, packed);
        if (GEOMETRY) stage_values<MOVING>(stage, mask, values);
        for (; mask; mask &= mask - 1) {
            const int k = __ffs(mask) - 1;
            const Member& member = stage.member[k];
            const Look seen = look(member, segment, through);
            if (!seen.any) continue;
            float weight[2];
#if GEOMETRY
            const float4* value = stage.value + k * (STRIDE / 4);
            float by_power[2];
#endif
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                const float rest = 1.0f - seen.alpha[p], next = through[p] * rest;
                const bool shown = next > DARK;
                weight[p] = shown ? seen.alpha[p] * through[p] : 0.0f;
#if GEOMETRY
                float gain = alpha_gain[p];
#pragma unroll
                for (int i = 0; i < MOVING; ++i) gain += grad[p][i] * entry(value, i);
                later[p] -= weight[p] * gain;
                const float by_alpha = through[p] * gain - __fdividef(later[p], rest);
                // Neither what is not drawn nor what is cut off at 0.999 follows the shape.
                by_power[p] = shown && seen.raw[p] <= SOLID ? -seen.raw[p] * by_alpha : 0.0f;
#endif
                through[p] = next;
            }
            float numbers[FOLD] = {};
#pragma unroll
            for (int i = 0; i < CHANNELS; ++i)
                numbers[i] = weight[0] * grad[0][i] + weight[1] * grad[1][i];
#if GEOMETRY
            const float a = 2.0f * member.near.z, b = member.near.w, c = 2.0f * member.far.x;
            const float sum = by_power[0] + by_power[1];
            const float sum_y = by_power[0] * seen.dy[0] + by_power[1] * seen.dy[1];
            const float sum_x = sum * seen.dx;
            const float sum_yy =
                by_power[0] * seen.dy[0] * seen.dy[0] + by_power[1] * seen.dy[1] * seen.dy[1];
            numbers[CHANNELS] = a * sum_x + b * sum_y;
            numbers[CHANNELS + 1] = b * sum_x + c * sum_y;
            numbers[CHANNELS + 2] = 0.5f * sum_x * seen.dx;
            numbers[CHANNELS + 3] = sum_y * seen.dx;
            numbers[CHANNELS + 4] = 0.5f * sum_yy;
            numbers[CHANNELS + 5] = -__fdividef(sum, member.far.y);
#endif
            const float added = fold<FOLD, LANES / 2>(numbers, lane);
            constexpr int COPIES = LANES / FOLD;
            const int which = lane / COPIES;
            if (lane % COPIES == 0 && which < GRADIENTS)
                atomicAdd(result + (long long)stage.row[k] * GRADIENTS + which, added);
        }
    }
}
