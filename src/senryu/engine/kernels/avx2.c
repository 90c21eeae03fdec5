// The kernels for processors with AVX2 and FMA; no bf16.
#include "avx2.h"
#include "kernels.h"
