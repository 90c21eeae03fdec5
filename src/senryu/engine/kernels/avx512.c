// The kernels for processors with AVX-512.
#include "avx512.h"
#include "kernels.h"
