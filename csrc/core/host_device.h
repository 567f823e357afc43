// LAMELLA_HOST_DEVICE: for functions that kernels of a GPU call too.
#pragma once

#if defined(__CUDACC__)
#define LAMELLA_HOST_DEVICE __host__ __device__
#else
#define LAMELLA_HOST_DEVICE
#endif
