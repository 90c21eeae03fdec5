// Sixteen float32 at a time: elementary functions, and loading and storing in each format. Knows an activation's name, and no tensor.
#pragma once
#include <immintrin.h>
#include "plan.h"

// NOTE: code for the two extensions is written out only where a plan's format asks for it, and Python hands over
// such a plan only where the processor has them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma")
#endif

#define INLINE static inline __attribute__((always_inline))

static inline long up(long count, long unit) { return (count + unit - 1) / unit * unit; }
static inline long least(long a, long b) { return a < b ? a : b; }
static inline long most(long a, long b) { return a > b ? a : b; }

#define INFINITE __builtin_inff()

INLINE __m512 splat(float x) { return _mm512_set1_ps(x); }

INLINE __mmask16 first(long count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

// NOTE: of a number and a NaN, max and min give the second operand: where a NaN must come through, it stands there.

// 2^(x · log2 e), relative error 2e-7; below −87 as at −87, infinity above 89.
INLINE __m512 exponential(__m512 x) {
    x = _mm512_min_ps(splat(89.0f), _mm512_max_ps(splat(-87.0f), x));
    const __m512 log2e = splat(1.44269504f);
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_fmsub_ps(x, log2e, whole);
    __m512 sum = splat(1.534581097e-04f);
    sum = _mm512_fmadd_ps(sum, rest, splat(1.339993090e-03f));
    sum = _mm512_fmadd_ps(sum, rest, splat(9.618489072e-03f));
    sum = _mm512_fmadd_ps(sum, rest, splat(5.550328642e-02f));
    sum = _mm512_fmadd_ps(sum, rest, splat(2.402264625e-01f));
    sum = _mm512_fmadd_ps(sum, rest, splat(6.931471825e-01f));
    sum = _mm512_fmadd_ps(sum, rest, splat(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

// x · Φ(x) of vectors side by side, Φ as ½ + x · a minimax polynomial in x² up to 5.3, absolute error of Φ 2e-7.
// NOTE: each term waits for the one before it, so a few vectors are taken together.
INLINE void gelus(__m512 *x, int vectors) {
    static const float terms[] = {
        1.668356126e-03f,  -1.433471800e-03f, 1.925130491e-03f,  -5.462929141e-03f, 9.600142948e-03f,
        -1.339627709e-02f, 1.867415383e-02f,  -2.524299175e-02f, 3.211838380e-02f,  -3.959507123e-02f,
        4.926192760e-02f,  -6.651831418e-02f, 1.333925873e-01f,
    };
    __m512 near[4], z[4], sum[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        x[v] = _mm512_max_ps(splat(-5.3f), x[v]);  // below, Φ is less than its own error
        near[v] = _mm512_min_ps(splat(5.3f), x[v]);
        z[v] = _mm512_fmsub_ps(_mm512_mul_ps(near[v], near[v]), splat(2.0f / (5.3f * 5.3f)), splat(1.0f));
        sum[v] = splat(-6.520268507e-04f);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 13; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[v] = _mm512_fmadd_ps(sum[v], z[v], splat(terms[i]));
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) x[v] = _mm512_mul_ps(x[v], _mm512_fmadd_ps(near[v], sum[v], splat(0.5f)));
}

INLINE __m512 gelu(__m512 x) {
    gelus(&x, 1);
    return x;
}

INLINE __m512 sigmoid(__m512 x) {
    return _mm512_div_ps(splat(1.0f), _mm512_add_ps(splat(1.0f), exponential(_mm512_sub_ps(splat(0.0f), x))));
}

// 2 · σ(2x) − 1 loses digits near 0; x − x³/3 + 2x⁵/15 has them there.
INLINE __m512 hyperbolic_tangent(__m512 x) {
    __m512 far = _mm512_fmsub_ps(splat(2.0f), sigmoid(_mm512_mul_ps(splat(2.0f), x)), splat(1.0f));
    __m512 square = _mm512_mul_ps(x, x);
    __m512 series = _mm512_fmadd_ps(square, splat(2.0f / 15.0f), splat(-1.0f / 3.0f));
    __m512 near = _mm512_fmadd_ps(_mm512_mul_ps(series, square), x, x);
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(square, splat(0.01f), _CMP_LT_OQ), far, near);
}

INLINE __m512 gelu_tanh(__m512 x) {
    __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    __m512 inner = _mm512_mul_ps(splat(2.0f * 0.7978845608f), _mm512_fmadd_ps(splat(0.044715f), cube, x));
    return _mm512_mul_ps(x, sigmoid(inner));
}

INLINE __m512 activate(int kind, __m512 x) {
    switch (kind) {
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU: return _mm512_max_ps(splat(0.0f), x);
        case SILU: return _mm512_mul_ps(x, sigmoid(x));
        case TANH: return hyperbolic_tangent(x);
    }
    return x;
}

INLINE __m256i to_bf16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

INLINE __m512 from_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// round(x · scale + shift) within 0 … 255; what is no number becomes 0.
INLINE __m128i to_u8(__m512 x, __m512 scale, __m512 shift) {
    __m512 moved = _mm512_max_ps(_mm512_fmadd_ps(x, scale, shift), splat(0.0f));
    return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_min_ps(moved, splat(255.0f))));
}
