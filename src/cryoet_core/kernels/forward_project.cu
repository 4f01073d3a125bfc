// One thread per voxel; each value is shared among four pixels of every image.
// Sums are 64-bit integers (value * scale, rounded): integer addition is associative, so the result does not depend
// on the order in which threads arrive. Coordinates as in back_project.cu.

__device__ void add(long long* image, long long h, long long w, long long v, long long u, double value)
{
    if (u < 0 || u >= w || v < 0 || v >= h) return;
    atomicAdd((unsigned long long*)(image + v * w + u), (unsigned long long)llrint(value));
}

extern "C" __global__ void forward_project(const float* volume, const long long* coefficients, long long* sums,
                                           double scale, long long n, long long h, long long w, long long nz,
                                           long long ny, long long nx)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= nz * ny * nx) return;
    const double value = volume[index] * scale;
    if (value == 0.0) return;
    const long long x = index % nx, y = (index / nx) % ny, z = index / (nx * ny);
    const double unit = 1.0 / 4294967296.0;
    for (long long i = 0; i < n; ++i) {
        const long long* c = coefficients + i * 8;
        const long long u = c[0] * x + c[1] * y + c[2] * z + c[3];
        const long long v = c[4] * x + c[5] * y + c[6] * z + c[7];
        const long long iu = u >> 32, iv = v >> 32;
        if (iu < -1 || iv < -1 || iu >= w || iv >= h) continue;
        const double fu = (double)(unsigned int)u * unit, fv = (double)(unsigned int)v * unit;
        long long* image = sums + i * h * w;
        add(image, h, w, iv, iu, (1.0 - fv) * (1.0 - fu) * value);
        add(image, h, w, iv, iu + 1, (1.0 - fv) * fu * value);
        add(image, h, w, iv + 1, iu, fv * (1.0 - fu) * value);
        add(image, h, w, iv + 1, iu + 1, fv * fu * value);
    }
}
