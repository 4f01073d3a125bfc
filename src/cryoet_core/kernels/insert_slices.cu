// One thread per pixel of a slice. sums is (n, n, half, 4) int64: real, imaginary, weight, unused; values are
// multiplied by a power of two and rounded, so the result does not depend on the order of the threads.

__device__ void add(long long* cell, double re, double im, double w)
{
    atomicAdd((unsigned long long*)cell, (unsigned long long)llrint(re));
    atomicAdd((unsigned long long*)(cell + 1), (unsigned long long)llrint(im));
    atomicAdd((unsigned long long*)(cell + 2), (unsigned long long)llrint(w));
}

// Shares one sample, with its Friedel mate, among the voxels around it.
__device__ void splat(long long* sums, double x, double y, double z, double re, double im, double w, long long n)
{
    const long long half = n / 2 + 1, centre = n / 2;
    if (re == 0.0 && im == 0.0 && w == 0.0) return;
    if (x < 0.0) {
        x = -x;
        y = -y;
        z = -z;
        im = -im;
    }
    const long long ix = (long long)x, ly = (long long)floor(y), lz = (long long)floor(z);
    const double fx = x - ix, fy = y - ly, fz = z - lz;
    if (ix >= half) return;
    for (int corner = 0; corner < 4; ++corner) {
        const int dy = corner & 1, dz = corner >> 1;
        const long long b = ly + dy + centre, c = lz + dz + centre;
        const double t = (dy ? fy : 1.0 - fy) * (dz ? fz : 1.0 - fz);
        const double t1 = t * fx, t0 = t - t1;
        if (b >= 0 && b < n && c >= 0 && c < n) {
            long long* cell = sums + ((c * n + b) * half + ix) * 4;
            add(cell, t0 * re, t0 * im, t0 * w);
            if (ix + 1 < half) add(cell + 4, t1 * re, t1 * im, t1 * w);
        }
        if (ix == 0) {  // the mate of this sample reaches the plane kx = 0 too
            const long long bm = 2 * centre - b, cm = 2 * centre - c;
            if (bm >= 0 && bm < n && cm >= 0 && cm < n)
                add(sums + (cm * n + bm) * half * 4, t0 * re, -t0 * im, t0 * w);
        }
    }
}

extern "C" __global__ void insert_slices(const float2* slices, const float* weights, const double* rows,
                                         long long* sums, double limit, double data_scale, double weight_scale,
                                         long long m, long long size, long long n)
{
    const long long width = size / 2 + 1;
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * size * width) return;
    const long long p = index % width, j = (index / width) % size;
    const long long q = j < (size + 1) / 2 ? j : j - size;
    if ((double)(p * p + q * q) > limit) return;
    const double share = (p == 0 || 2 * p == size) ? 0.5 : 1.0;
    const double re = slices[index].x * data_scale * share, w = weights[index] * weight_scale * share;
    const double im = slices[index].y * data_scale * share;
    const double* r = rows + (index / (width * size)) * 6;
    splat(sums, p * r[0] + q * r[3], p * r[1] + q * r[4], p * r[2] + q * r[5], re, im, w, n);
}

// One thread per value of a turned list; matrices (m, 9), points (size, 3).
extern "C" __global__ void insert_turned(const float2* values, const float* weights, const double* matrices,
                                         const double* points, long long* sums, double data_scale,
                                         double weight_scale, long long m, long long size, long long n)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * size) return;
    const double* a = matrices + (index / size) * 9;
    const double* k = points + (index % size) * 3;
    splat(sums, a[0] * k[0] + a[1] * k[1] + a[2] * k[2], a[3] * k[0] + a[4] * k[1] + a[5] * k[2],
          a[6] * k[0] + a[7] * k[1] + a[8] * k[2], values[index].x * data_scale, values[index].y * data_scale,
          weights[index] * weight_scale, n);
}
