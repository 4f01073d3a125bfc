// One thread per pixel of the result, which gathers 4 x 4 spline coefficients.
// Coordinates are fixed point with 32 fraction bits: v = m0 r + m1 c + m2, u = m3 r + m4 c + m5.

__device__ void spline_weights(float f, float* w)
{
    const float g = 1.0f - f;
    w[0] = g * g * g * (1.0f / 6.0f);
    w[1] = 2.0f / 3.0f - f * f * (1.0f - 0.5f * f);
    w[2] = 2.0f / 3.0f - g * g * (1.0f - 0.5f * g);
    w[3] = f * f * f * (1.0f / 6.0f);
}

extern "C" __global__ void sample_spline(const float* coefficients, const long long* lines, float* out, long long h,
                                         long long w, long long rows, long long columns)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * columns) return;
    const long long c = index % columns, r = index / columns;
    const long long v = lines[0] * r + lines[1] * c + lines[2], u = lines[3] * r + lines[4] * c + lines[5];
    const long long iv = v >> 32, iu = u >> 32;
    if (iv < -2 || iu < -2 || iv > h || iu > w) return;
    const float unit = 1.0f / 4294967296.0f;
    float a[4], b[4];
    spline_weights((float)(unsigned int)u * unit, a);
    spline_weights((float)(unsigned int)v * unit, b);
    float sum = 0.0f;
    for (int j = 0; j < 4; ++j) {
        const long long y = iv + j - 1;
        if (y < 0 || y >= h) continue;
        float line = 0.0f;
        for (int k = 0; k < 4; ++k) {
            const long long x = iu + k - 1;
            if (x >= 0 && x < w) line += a[k] * coefficients[y * w + x];
        }
        sum += b[j] * line;
    }
    out[index] += sum;
}
