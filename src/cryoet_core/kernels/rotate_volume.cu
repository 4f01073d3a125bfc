// One thread per voxel of one rotated copy; trilinear, zero outside the source and beyond the radius.
// volume is (sz, sy, sx), rotations (m, 9) row-major, out (m, nz, ny, nx); each is centred on its own index n / 2.

extern "C" __global__ void rotate_volume(const float* volume, const float* rotations, float* out, double limit,
                                         long long m, long long nz, long long ny, long long nx,
                                         long long sz, long long sy, long long sx)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * nz * ny * nx) return;
    const long long x = index % nx - nx / 2, y = (index / nx) % ny - ny / 2, z = (index / (nx * ny)) % nz - nz / 2;
    out[index] = 0.0f;
    if ((double)(x * x + y * y + z * z) > limit) return;
    const float* r = rotations + (index / (nx * ny * nz)) * 9;
    const float px = r[0] * x + r[3] * y + r[6] * z, py = r[1] * x + r[4] * y + r[7] * z;
    const float pz = r[2] * x + r[5] * y + r[8] * z;
    const float lx = floorf(px), ly = floorf(py), lz = floorf(pz);
    const float fx = px - lx, fy = py - ly, fz = pz - lz;
    const long long ix = (long long)lx + sx / 2, iy = (long long)ly + sy / 2, iz = (long long)lz + sz / 2;
    float value = 0.0f;
    for (int corner = 0; corner < 8; ++corner) {
        const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
        const long long a = ix + dx, b = iy + dy, c = iz + dz;
        if (a < 0 || a >= sx || b < 0 || b >= sy || c < 0 || c >= sz) continue;
        const float weight = (dx ? fx : 1.0f - fx) * (dy ? fy : 1.0f - fy) * (dz ? fz : 1.0f - fz);
        value += weight * volume[(c * sy + b) * sx + a];
    }
    out[index] = value;
}
