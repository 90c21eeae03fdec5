// Elementary functions of sixteen float32 at a time. Knows an activation's name, and no tensor.
// The processor's own functions, avx512.h's or avx2.h's, come before it.
#pragma once
#include "plan.h"

static inline long up(long count, long unit) { return (count + unit - 1) / unit * unit; }
static inline long least(long a, long b) { return a < b ? a : b; }
static inline long most(long a, long b) { return a > b ? a : b; }

#define INFINITE __builtin_inff()

// NOTE: what two lanes give is added before what four give, in halves, whatever the processor has for it.
INLINE float sum_of_lanes(floats x) {
    __m256 half = _mm256_add_ps(upper_half(x), lower_half(x));
    __m128 quarter = _mm_add_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
    __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE float greatest_lane(floats x) {
    __m256 half = _mm256_max_ps(upper_half(x), lower_half(x));
    __m128 quarter = _mm_max_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
    __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// 2^(x · log2 e), relative error 2e-7; below −87 as at −87, infinity above 89.
INLINE floats exponential(floats x) {
    x = smaller(splat(89.0f), greater(splat(-87.0f), x));
    const floats log2e = splat(1.44269504f);
    floats whole = nearest_integer(multiply(x, log2e));
    floats rest = multiply_subtract(x, log2e, whole);
    floats sum = splat(1.534581097e-04f);
    sum = multiply_add(sum, rest, splat(1.339993090e-03f));
    sum = multiply_add(sum, rest, splat(9.618489072e-03f));
    sum = multiply_add(sum, rest, splat(5.550328642e-02f));
    sum = multiply_add(sum, rest, splat(2.402264625e-01f));
    sum = multiply_add(sum, rest, splat(6.931471825e-01f));
    sum = multiply_add(sum, rest, splat(1.0f));
    return times_power_of_2(sum, whole);
}

// x · Φ(x) of vectors side by side, Φ as ½ + x · a minimax polynomial in x² up to `far`; below −far, Φ is less than its
// own error. NOTE: each term waits for the one before it, so a few vectors are taken together.
INLINE void gelus_by(const float *terms, int count, float far, floats *x, int vectors) {
    floats near[4], z[4], sum[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        x[v] = greater(splat(-far), x[v]);
        near[v] = smaller(splat(far), x[v]);
        z[v] = multiply_subtract(multiply(near[v], near[v]), splat(2.0f / (far * far)), splat(1.0f));
        sum[v] = splat(terms[0]);
    }
#pragma GCC unroll 16
    for (int i = 1; i < count; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[v] = multiply_add(sum[v], z[v], splat(terms[i]));
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) x[v] = multiply(x[v], multiply_add(near[v], sum[v], splat(0.5f)));
}

// Absolute error of Φ 2e-7.
INLINE void gelus(floats *x, int vectors) {
    static const float terms[] = {
        -6.520268507e-04f, 1.668356126e-03f,  -1.433471800e-03f, 1.925130491e-03f,  -5.462929141e-03f,
        9.600142948e-03f,  -1.339627709e-02f, 1.867415383e-02f,  -2.524299175e-02f, 3.211838380e-02f,
        -3.959507123e-02f, 4.926192760e-02f,  -6.651831418e-02f, 1.333925873e-01f,
    };
    gelus_by(terms, 14, 5.3f, x, vectors);
}

// Absolute error of Φ 3e-5, a hundredth of what rounding to eight bits takes.
INLINE void rough_gelus(floats *x, int vectors) {
    static const float terms[] = {
        -3.315142123e-03f, 8.699792437e-03f, -1.256031077e-02f, 2.108503133e-02f,
        -3.671143949e-02f, 5.618940294e-02f, -8.434347063e-02f, 1.759429127e-01f,
    };
    gelus_by(terms, 8, 4.0f, x, vectors);
}

INLINE floats gelu(floats x) {
    gelus(&x, 1);
    return x;
}

INLINE floats rough_gelu(floats x) {
    rough_gelus(&x, 1);
    return x;
}

INLINE floats sigmoid(floats x) {
    return divide(splat(1.0f), add(splat(1.0f), exponential(subtract(splat(0.0f), x))));
}

// 2 · σ(2x) − 1 loses digits near 0; x − x³/3 + 2x⁵/15 has them there.
INLINE floats hyperbolic_tangent(floats x) {
    floats far = multiply_subtract(splat(2.0f), sigmoid(multiply(splat(2.0f), x)), splat(1.0f));
    floats square = multiply(x, x);
    floats series = multiply_add(square, splat(2.0f / 15.0f), splat(-1.0f / 3.0f));
    floats near = multiply_add(multiply(series, square), x, x);
    return choose(is_less(square, splat(0.01f)), near, far);
}

INLINE floats gelu_tanh(floats x) {
    floats cube = multiply(multiply(x, x), x);
    floats inner = multiply(splat(2.0f * 0.7978845608f), multiply_add(splat(0.044715f), cube, x));
    return multiply(x, sigmoid(inner));
}

INLINE floats activate(int kind, floats x) {
    switch (kind) {
        case GELU: return gelu(x);
        case ROUGH_GELU: return rough_gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU: return greater(splat(0.0f), x);
        case SILU: return multiply(x, sigmoid(x));
        case TANH: return hyperbolic_tangent(x);
    }
    return x;
}
