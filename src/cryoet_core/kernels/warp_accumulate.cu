// One thread per pixel; 36 taps of the B-spline of degree 5, indices periodic.
// coefficients, out (h, w); table (2, gy, gx) of displacements (x, y), its corners on the corner pixels.

__device__ void taps(float t, float* w)
{
    const float s = 1.0f - t, t2 = t * t, s2 = s * s, scale = 1.0f / 120.0f;
    w[0] = scale * s2 * s2 * s;
    w[1] = scale * (26.0f + t * (-50.0f + t * (20.0f + t * (20.0f + t * (-20.0f + 5.0f * t)))));
    w[2] = scale * (66.0f + t2 * (-60.0f + t2 * (30.0f - 10.0f * t)));
    w[3] = scale * (66.0f + s2 * (-60.0f + s2 * (30.0f - 10.0f * s)));
    w[4] = scale * (26.0f + s * (-50.0f + s * (20.0f + s * (20.0f + s * (-20.0f + 5.0f * s)))));
    w[5] = scale * t2 * t2 * t;
}

__device__ long long wrapped(long long i, long long n)
{
    const long long r = i % n;
    return r < 0 ? r + n : r;
}

extern "C" __global__ void warp_accumulate(const float* coefficients, const float* table, float* out, long long h,
                                           long long w, long long gy, long long gx)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= h * w) return;
    const long long x = index % w, y = index / w;
    const float step_y = h > 1 && gy > 1 ? (float)((double)(gy - 1) / (double)(h - 1)) : 0.0f;
    const float step_x = w > 1 && gx > 1 ? (float)((double)(gx - 1) / (double)(w - 1)) : 0.0f;
    const float v = (float)y * step_y, u = (float)x * step_x;
    long long j = (long long)v, i = (long long)u;
    if (j > gy - 2) j = gy > 1 ? gy - 2 : 0;
    if (i > gx - 2) i = gx > 1 ? gx - 2 : 0;
    const long long below = j + 1 < gy ? j + 1 : gy - 1, right = i + 1 < gx ? i + 1 : gx - 1;
    const float part_y = v - (float)j, part_x = u - (float)i;
    float shift[2];
    for (int axis = 0; axis < 2; ++axis) {
        const float* top = table + (axis * gy + j) * gx;
        const float* bottom = table + (axis * gy + below) * gx;
        const float a = top[i] + part_y * (bottom[i] - top[i]);
        const float b = top[right] + part_y * (bottom[right] - top[right]);
        shift[axis] = a + part_x * (b - a);
    }
    const float floor_x = floorf(shift[0]), floor_y = floorf(shift[1]);
    float wx[6], wy[6];
    taps(shift[0] - floor_x, wx);
    taps(shift[1] - floor_y, wy);
    const long long first_x = x + (long long)floor_x - 2, first_y = y + (long long)floor_y - 2;
    float total = 0.0f;
    for (int b = 0; b < 6; ++b) {
        const float* row = coefficients + wrapped(first_y + b, h) * w;
        float sum = 0.0f;
        for (int a = 0; a < 6; ++a) sum += wx[a] * row[wrapped(first_x + a, w)];
        total += wy[b] * sum;
    }
    out[index] += total;
}
