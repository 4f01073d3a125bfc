// One thread per pixel of a slice (or per point). Complex numbers are float2; transforms are (n, n, half) with kz and
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

extern "C" __global__ void extract_slices(const float2* transform, const float* rows, float2* out, double limit,
                                          long long n, long long m, long long size)
{
    const long long width = size / 2 + 1;
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * size * width) return;
    const long long p = index % width, j = (index / width) % size;
    const long long q = j < (size + 1) / 2 ? j : j - size;
    const float* r = rows + (index / (width * size)) * 6;
    float2 value;
    value.x = 0.0f;
    value.y = 0.0f;
    if ((double)(p * p + q * q) <= limit) {
        const float kx = (float)p, ky = (float)q;
        value = sample(transform, n, n / 2 + 1, kx * r[0] + ky * r[3], kx * r[1] + ky * r[4], kx * r[2] + ky * r[5]);
    }
    out[index] = value;
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

// The same with the slopes along tangents (m, directions, 9); out is (m, 1 + directions, count).
extern "C" __global__ void sample_turned_slopes(const float2* transform, const float* matrices, const float* tangents,
                                                const float* points, float2* out, long long n, long long m,
                                                long long directions, long long count)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * count) return;
    const long long i = index / count, j = index % count, half = n / 2 + 1;
    const float* a = matrices + i * 9;
    const float* k = points + j * 3;
    const float kx = a[0] * k[0] + a[1] * k[1] + a[2] * k[2];
    const float flip = kx < 0.0f ? -1.0f : 1.0f;
    const float x = flip * kx, y = flip * (a[3] * k[0] + a[4] * k[1] + a[5] * k[2]) + (float)(n / 2);
    const float z = flip * (a[6] * k[0] + a[7] * k[1] + a[8] * k[2]) + (float)(n / 2);
    const long long ix = (long long)x, iy = (long long)floorf(y), iz = (long long)floorf(z);
    const float fx = x - (float)ix, fy = y - (float)iy, fz = z - (float)iz;
    float re = 0.0f, im = 0.0f, gx[2] = {0.0f, 0.0f}, gy[2] = {0.0f, 0.0f}, gz[2] = {0.0f, 0.0f};
    for (int corner = 0; corner < 8; ++corner) {
        const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
        const long long b = ix + dx, c = iy + dy, d = iz + dz;
        if (b >= half || c < 0 || c >= n || d < 0 || d >= n) continue;
        const float wx = dx ? fx : 1.0f - fx, wy = dy ? fy : 1.0f - fy, wz = dz ? fz : 1.0f - fz;
        const float ux = dx ? 1.0f : -1.0f, uy = dy ? 1.0f : -1.0f, uz = dz ? 1.0f : -1.0f;
        const float2 grid = transform[(d * n + c) * half + b];
        re += wx * wy * wz * grid.x;
        im += wx * wy * wz * grid.y;
        gx[0] += ux * wy * wz * grid.x;
        gx[1] += ux * wy * wz * grid.y;
        gy[0] += wx * uy * wz * grid.x;
        gy[1] += wx * uy * wz * grid.y;
        gz[0] += wx * wy * uz * grid.x;
        gz[1] += wx * wy * uz * grid.y;
    }
    float2 value;
    value.x = re;
    value.y = flip * im;
    out[(i * (1 + directions)) * count + j] = value;
    for (long long s = 0; s < directions; ++s) {  // with respect to k, not to -k: the sign of the real part turns
        const float* t = tangents + (i * directions + s) * 9;
        const float tx = t[0] * k[0] + t[1] * k[1] + t[2] * k[2], ty = t[3] * k[0] + t[4] * k[1] + t[5] * k[2];
        const float tz = t[6] * k[0] + t[7] * k[1] + t[8] * k[2];
        value.x = flip * (gx[0] * tx + gy[0] * ty + gz[0] * tz);
        value.y = gx[1] * tx + gy[1] * ty + gz[1] * tz;
        out[(i * (1 + directions) + 1 + s) * count + j] = value;
    }
}
