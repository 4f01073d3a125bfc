// One thread per voxel, slices in their order: no two threads write one cell, so the sums do not depend on scheduling.
// sums is (n, n, half, 4) double: real, imaginary, weight, unused.

extern "C" __global__ void gather_slices(const float2* slices, const float* weights, const double* matrices,
                                         const double* radii, double* sums, long long m, long long size, long long n)
{
    const long long width = size / 2 + 1, half = n / 2 + 1;
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n * n * half) return;
    const double x = (double)(index % half), y = (double)((index / half) % n - n / 2), z = (double)(index / half / n - n / 2);
    const double radius2 = x * x + y * y + z * z;
    double re = 0.0, im = 0.0, w = 0.0;
    for (long long i = 0; i < m; ++i) {
        const double* a = matrices + 9 * i;
        const double g = 1.0 - fabs(a[6] * x + a[7] * y + a[8] * z);
        if (radius2 > radii[i] * radii[i] + 1e-6 || g <= 0.0) continue;
        double u = a[0] * x + a[1] * y + a[2] * z, v = a[3] * x + a[4] * y + a[5] * z, sign = 1.0;
        if (u < 0.0) {
            u = -u;
            v = -v;
            sign = -1.0;
        }
        const long long low_u = (long long)u, low_v = (long long)floor(v);
        const double fu = u - low_u, fv = v - low_v;
        for (int corner = 0; corner < 4; ++corner) {
            const int du = corner & 1, dv = corner >> 1;
            const double share = g * (dv ? fv : 1.0 - fv) * (du ? fu : 1.0 - fu);
            const long long row = ((low_v + dv) % size + size) % size;
            if (share == 0.0) continue;
            const long long column = low_u + du < width ? low_u + du : width - 2;  // beyond the last column: as RELION
            const long long pixel = (i * size + row) * width + column;
            re += share * slices[pixel].x;
            im += sign * share * slices[pixel].y;
            w += share * weights[pixel];
        }
    }
    double* cell = sums + 4 * index;
    cell[0] += re;
    cell[1] += im;
    cell[2] += w;
}
