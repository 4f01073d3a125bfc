// One thread per pose, view and segment of the list of frequencies; sums is (m, views, segments, 28) double, in the order of the contract.
// matrices (m, views, 9), tangents (m, views, 3, 9), points (count, 3), phases (m, views, 3): radians per cycle along x, y, z.

extern "C" __global__ void expand_poses(const float2* transform, const float* matrices, const float* tangents,
                                        const float* points, const float* phases, const long long* particle,
                                        const float2* data, const float* weight, double* sums, long long n,
                                        long long m, long long views, long long count, long long segments,
                                        long long length)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= m * views * segments) return;
    const long long segment = index % segments, image = index / segments, f = image % views, pose = image / views;
    const long long half = n / 2 + 1, row = (particle[pose] * views + f) * count;
    const float* a = matrices + image * 9;
    const float* shift = phases + image * 3;
    double total[28];
    for (int i = 0; i < 28; ++i) total[i] = 0.0;
    const long long end = (segment + 1) * length < count ? (segment + 1) * length : count;
    for (long long j = segment * length; j < end; ++j) {
        const float* k = points + j * 3;
        const float kx = a[0] * k[0] + a[1] * k[1] + a[2] * k[2], flip = kx < 0.0f ? -1.0f : 1.0f;
        const float x = flip * kx, y = flip * (a[3] * k[0] + a[4] * k[1] + a[5] * k[2]) + (float)(n / 2);
        const float z = flip * (a[6] * k[0] + a[7] * k[1] + a[8] * k[2]) + (float)(n / 2);
        const long long ix = (long long)x, iy = (long long)floorf(y), iz = (long long)floorf(z);
        const float fx = x - (float)ix, fy = y - (float)iy, fz = z - (float)iz;
        float re = 0.0f, im = 0.0f, gr[3] = {0.0f, 0.0f, 0.0f}, gi[3] = {0.0f, 0.0f, 0.0f};
        for (int corner = 0; corner < 8; ++corner) {
            const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
            const long long b = ix + dx, c = iy + dy, d = iz + dz;
            if (b >= half || c < 0 || c >= n || d < 0 || d >= n) continue;
            const float wx = dx ? fx : 1.0f - fx, wy = dy ? fy : 1.0f - fy, wz = dz ? fz : 1.0f - fz;
            const float sx = (dx ? wy : -wy) * wz, sy = (dy ? wx : -wx) * wz, sz = (dz ? wx : -wx) * wy;
            const float2 grid = transform[(d * n + c) * half + b];
            re += wx * wy * wz * grid.x;
            im += wx * wy * wz * grid.y;
            gr[0] += sx * grid.x;
            gr[1] += sy * grid.x;
            gr[2] += sz * grid.x;
            gi[0] += sx * grid.y;
            gi[1] += sy * grid.y;
            gi[2] += sz * grid.y;
        }
        im *= flip;  // conj F(-k) on the mirrored side: the sign of the imaginary value turns, and that of the real slopes
        float sr[3], si[3];
        for (int s = 0; s < 3; ++s) {
            const float* t = tangents + (image * 3 + s) * 9;
            const float tx = t[0] * k[0] + t[1] * k[1] + t[2] * k[2], ty = t[3] * k[0] + t[4] * k[1] + t[5] * k[2];
            const float tz = t[6] * k[0] + t[7] * k[1] + t[8] * k[2];
            sr[s] = flip * (gr[0] * tx + gr[1] * ty + gr[2] * tz);
            si[s] = gi[0] * tx + gi[1] * ty + gi[2] * tz;
        }
        const float angle = k[0] * shift[0] + k[1] * shift[1] + k[2] * shift[2], co = cosf(angle), sn = sinf(angle);
        const float2 raw = data[row + j];
        const float w = weight[row + j], dr = raw.x * co - raw.y * sn, di = raw.x * sn + raw.y * co;
        const float er = dr - w * re, ei = di - w * im, power = re * re + im * im, turn = er * im - ei * re;
        total[0] += dr * re + di * im - 0.5f * w * power;
        int h = 7, q = 22;
        for (int s = 0; s < 3; ++s) {
            total[1 + s] += er * sr[s] + ei * si[s];
            total[4 + s] += k[s] * turn;
            const float mixed = w * (sr[s] * im - si[s] * re);
            for (int c = 0; c < 3; ++c) total[13 + 3 * s + c] += k[c] * mixed;
            for (int c = s; c < 3; ++c) {
                total[h++] += w * (sr[s] * sr[c] + si[s] * si[c]);
                total[q++] += w * power * k[s] * k[c];
            }
        }
    }
    for (int i = 0; i < 28; ++i) sums[index * 28 + i] = total[i];
}
