// One thread per pixel (i, u, y), neighbouring threads along y: it gathers the voxels of each z plane whose image
// point lies within one pixel, so there are no atomic operations and the order of the sum is fixed.
// volume is (nz, nx, ny); out is (n, w, h). Coordinates are fixed point with 32 fraction bits: u = c0 x + c1 z + c2.

extern "C" __global__ void forward_project_aligned(const float* volume, const long long* coefficients, float* out,
                                                   long long n, long long w, long long h, long long nz,
                                                   long long ny, long long nx, long long y_offset)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n * w * h) return;
    const long long v = index % h, u = (index / h) % w, i = index / (h * w);
    const long long y = v - y_offset;
    if (y < 0 || y >= ny) return;
    const long long one = 4294967296LL;
    const long long step = coefficients[3 * i];
    const double inverse = step == 0 ? 0.0 : 1.0 / (double)step;
    float sum = 0.0f;
    for (long long z = 0; z < nz; ++z) {
        const long long start = coefficients[3 * i + 1] * z + coefficients[3 * i + 2] - u * one;
        long long first = 0, end = nx;
        if (step != 0) {  // start + step x within (-1, 1) pixel; a margin of one voxel for rounding
            const double a = -(double)(start + one) * inverse, b = (double)(one - start) * inverse;
            const double low = a < b ? a : b, high = a < b ? b : a;
            if (high < -1.0 || low > (double)nx) continue;
            first = low > 1.0 ? (long long)low - 1 : 0;
            end = high < (double)nx - 2.0 ? (long long)high + 2 : nx;
        }
        for (long long x = first; x < end; ++x) {
            const long long d = start + step * x;
            const long long distance = d < 0 ? -d : d;
            if (distance < one)
                sum += (1.0f - (float)distance * (1.0f / 4294967296.0f)) * volume[(z * nx + x) * ny + y];
        }
    }
    out[index] += sum;
}
