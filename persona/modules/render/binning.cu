// Pairs of Gaussian and tile: see binning_cuda.py, which compiles this.

// Tiles that the box of the Gaussian in this place of the order touches: left, top, columns, and
// the Gaussian's row; and how many.
extern "C" __global__ void boxes(
    const float* __restrict__ means, const int* __restrict__ radii,
    const long long* __restrict__ order, int4* box, int* count,
    int gaussians, int rows, int columns, int tile
) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= gaussians) return;
    const int row = order[place];
    const float x = means[2 * row] / tile, y = means[2 * row + 1] / tile;
    const float across = radii[2 * row] / (float)tile, down = radii[2 * row + 1] / (float)tile;
    // A centre that is not a number fails the comparison, as does a Gaussian that is not drawn.
    const bool drawn = across > 0 && down > 0 && fabsf(x + y) < 3.0e38f;
    const int left = fminf(fmaxf(floorf(x - across), 0.0f), columns);
    const int right = fminf(fmaxf(ceilf(x + across), 0.0f), columns);
    const int top = fminf(fmaxf(floorf(y - down), 0.0f), rows);
    const int bottom = fminf(fmaxf(ceilf(y + down), 0.0f), rows);
    box[place] = make_int4(left, top, right - left, row);
    count[place] = drawn ? (right - left) * (bottom - top) : 0;
}

// Tile and Gaussian of every pair, in the order of the Gaussians; tile -1 in free slots.
extern "C" __global__ void pairs(
    const int4* __restrict__ box, const int* __restrict__ count,
    const long long* __restrict__ ends,
    KEY* key, int* member, bool* overflowed, int gaussians, int columns, int slots
) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    // Of Gaussians that all grew large there are more pairs than an int counts.
    const long long total = ends[gaussians - 1];
    if (place < gaussians) {
        const int4 own = box[place];
        const int many = count[place];
        const long long first = ends[place] - many;
        for (int k = 0; k < many && first + k < slots; ++k) {
            key[first + k] = (own.y + k / own.z) * columns + own.x + k % own.z;
            member[first + k] = own.w;
        }
    }
    for (long long slot = total + place; slot < slots; slot += gridDim.x * blockDim.x) {
        key[slot] = -1;
        member[slot] = 0;
    }
    if (place == 0) *overflowed = total > slots;
}
