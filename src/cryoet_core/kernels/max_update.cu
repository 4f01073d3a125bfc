// One thread per voxel. norm is read only when mapped is not zero (it may then be any valid pointer).

extern "C" __global__ void max_update(const float* scores, const float* norm, float* best, int* best_index,
                                      float scale, int mapped, int number, long long size)
{
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= size) return;
    const float value = scores[index] * (mapped ? norm[index] : scale);
    if (value > best[index]) {
        best[index] = value;
        best_index[index] = number;
    }
}
