// One thread per point. Complex numbers are float2; transforms are (n, n, half) with kz and
// ky zero at n / 2 and kx >= 0.

__device__ float2 sample(const float2* transform, long long n, long long half, float kx, float ky, float kz)
{
    float2 value;
    value.x = 0.0f;
    value.y = 0.0f;
    const float flip = kx < 0.0f ? -1.0f : 1.0f;
    const float x = flip * kx, y = flip * ky + (float)(n / 2), z = flip * kz + (float)(n / 2);
    if (!(y > -1.0f && z > -1.0f && y < (float)n && z < (float)n && x < (float)half)) return value;
    const long long ix = (long long)x, iy = (long long)floorf(y), iz = (long long)floorf(z);
    const float fx = x - (float)ix, fy = y - (float)iy, fz = z - (float)iz;
    for (int corner = 0; corner < 8; ++corner) {
        const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
        const long long a = ix + dx, b = iy + dy, c = iz + dz;
        if (a >= half || b < 0 || b >= n || c < 0 || c >= n) continue;
        const float weight = (dx ? fx : 1.0f - fx) * (dy ? fy : 1.0f - fy) * (dz ? fz : 1.0f - fz);
        const float2 grid = transform[(c * n + b) * half + a];
        value.x += weight * grid.x;
        value.y += weight * grid.y;
    }
    value.y *= flip;
    return value;
}

extern "C" __global__ void extract_points(const float2* transform, const float* coords, float2* out, float pad,
                                          long long n, long long m)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m) return;
    const float* k = coords + 3 * index;
    out[index] = sample(transform, n, n / 2 + 1, pad * k[0], pad * k[1], pad * k[2]);
}

// One thread per value; matrices (m, 9) take points (count, 3) to voxels of the transform.
extern "C" __global__ void sample_turned(const float2* transform, const float* matrices, const float* points, float2* out,
                                         long long n, long long m, long long count)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * count) return;
    const float* a = matrices + (index / count) * 9;
    const float* k = points + (index % count) * 3;
    out[index] = sample(transform, n, n / 2 + 1, a[0] * k[0] + a[1] * k[1] + a[2] * k[2],
                        a[3] * k[0] + a[4] * k[1] + a[5] * k[2], a[6] * k[0] + a[7] * k[1] + a[8] * k[2]);
}
