// Just enough of CUDA C++ to run a kernel on the CPU, one thread after another.
#include <cmath>
#include <utility>

#define __global__
#define __device__ static inline

struct dim3 { unsigned int x, y, z; };
struct float2 { float x, y; };
static dim3 blockIdx, threadIdx, blockDim, gridDim;

template <class T> static inline T atomicAdd(T* address, T value)
{
    T old = *address;
    *address = old + value;
    return old;
}

// Runs kernel(*args...) for n_blocks x n_threads; args are pointers to the arguments, as in cuLaunchKernel.
template <class... A, std::size_t... I>
static void run_kernel(void (*kernel)(A...), unsigned int n_blocks, unsigned int n_threads, void** args,
                       std::index_sequence<I...>)
{
    gridDim = {n_blocks, 1, 1};
    blockDim = {n_threads, 1, 1};
    for (unsigned int b = 0; b < n_blocks; ++b)
        for (unsigned int t = 0; t < n_threads; ++t) {
            blockIdx = {b, 0, 0};
            threadIdx = {t, 0, 0};
            kernel(*static_cast<A*>(args[I])...);
        }
}

template <class... A>
static void run_all(void (*kernel)(A...), unsigned int n_blocks, unsigned int n_threads, void** args)
{
    run_kernel(kernel, n_blocks, n_threads, args, std::index_sequence_for<A...>());
}
