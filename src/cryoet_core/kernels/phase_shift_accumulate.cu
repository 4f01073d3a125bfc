// One thread per frequency; the spectra are summed in the order of the frames.
// spectra (n, h, half), phases_x (n, half), phases_y (n, h) with the weight, out (h, half).

extern "C" __global__ void phase_shift_accumulate(const float2* spectra, const float2* phases_x,
                                                  const float2* phases_y, float2* out, long long n, long long h,
                                                  long long half)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= h * half) return;
    const long long x = index % half, y = index / half;
    float2 sum = out[index];
    for (long long i = 0; i < n; ++i) {
        const float2 a = phases_x[i * half + x], b = phases_y[i * h + y], s = spectra[i * h * half + index];
        const float c = a.x * b.x - a.y * b.y, d = a.x * b.y + a.y * b.x;
        sum.x += s.x * c - s.y * d;
        sum.y += s.x * d + s.y * c;
    }
    out[index] = sum;
}
