// One thread per voxel, neighbouring threads along y: rows (n, w, h) are read in one piece per warp.
// hats (n, 3): distance from the centre of the image's depth window, 0 = no window.
// Coordinates are fixed point with 32 fraction bits: u = c0 x + c1 z + c2. out is (nz, ny, nx).

extern "C" __global__ void back_project_aligned(const float* rows, const long long* coefficients,
                                                const float* weights, const float* hats, float* out,
                                                long long n, long long w,
                                                long long h, long long nz, long long ny, long long nx,
                                                long long first_row)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= nz * ny * nx) return;
    const long long y = index % ny, x = (index / ny) % nx, z = index / (nx * ny);
    const long long v = y + first_row;
    if (v < 0 || v >= h) return;
    float sum = 0.0f;
    for (long long i = 0; i < n; ++i) {
        const float* p = hats + 3 * i;
        const float hat = 1.0f - fabsf(p[0] * (float)x + p[1] * (float)z + p[2]);
        if (hat <= 0.0f) continue;
        const long long u = coefficients[3 * i] * x + coefficients[3 * i + 1] * z + coefficients[3 * i + 2];
        const long long iu = u >> 32;
        if (iu < -1 || iu >= w) continue;
        const float fu = (float)(unsigned int)u * (1.0f / 4294967296.0f);
        const float* image = rows + i * w * h + v;
        const float left = iu >= 0 ? image[iu * h] : 0.0f;
        const float right = iu + 1 < w ? image[(iu + 1) * h] : 0.0f;
        sum += weights[i] * hat * (left + fu * (right - left));
    }
    out[(z * ny + y) * nx + x] += sum;
}
