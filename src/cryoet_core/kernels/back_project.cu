// One thread per voxel; every image is sampled at a point known to 2^-32 px.
// Coordinates are 64-bit fixed point (32 fraction bits): float32 would lose 1e-4 px at index 2000 and float64 is
// slow on many devices. hats (n, 4): distance from the centre of the image's depth window, 0 = no window. out is (nz, ny, nx) C order, images (n, h, w), coefficients (n, 2, 4).

__device__ float pixel(const float* image, long long h, long long w, long long v, long long u)
{
    return (u >= 0 && u < w && v >= 0 && v < h) ? image[v * w + u] : 0.0f;
}

extern "C" __global__ void back_project(const float* images, const long long* coefficients, const float* weights,
                                        const float* hats, float* out, long long n, long long h, long long w, long long nz,
                                        long long ny, long long nx, long long first_y)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= nz * ny * nx) return;
    const long long x = index % nx, y = (index / nx) % ny + first_y, z = index / (nx * ny);
    const float unit = 1.0f / 4294967296.0f;
    float sum = 0.0f;
    for (long long i = 0; i < n; ++i) {
        const float* p = hats + i * 4;
        const float hat = 1.0f - fabsf(p[0] * (float)x + p[1] * (float)y + p[2] * (float)z + p[3]);
        if (hat <= 0.0f) continue;
        const long long* c = coefficients + i * 8;
        const long long u = c[0] * x + c[1] * y + c[2] * z + c[3];
        const long long v = c[4] * x + c[5] * y + c[6] * z + c[7];
        const long long iu = u >> 32, iv = v >> 32;
        if (iu < -1 || iv < -1 || iu >= w || iv >= h) continue;
        const float fu = (float)(unsigned int)u * unit, fv = (float)(unsigned int)v * unit;
        const float* image = images + i * h * w;
        const float a = pixel(image, h, w, iv, iu), b = pixel(image, h, w, iv, iu + 1);
        const float c0 = pixel(image, h, w, iv + 1, iu), d = pixel(image, h, w, iv + 1, iu + 1);
        const float top = a + fu * (b - a), low = c0 + fu * (d - c0);
        sum += weights[i] * hat * (top + fv * (low - top));
    }
    out[index] += sum;
}
