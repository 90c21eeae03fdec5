// Steps that take each row by itself: norms, sums, products, tables. Knows rows and formats; no neighbouring row.
#pragma once
#include "plan.h"
#include "vectors.h"

// Where a step's result goes, in every format that is wanted of it; rows are counted from `base`'s first.
typedef struct {
    char *out[3];
    long stride[3];
    const float *u8_scale, *u8_shift;
} store;

// Channels from `column` to before `limit`, at most 16, of one row.
INLINE void store_vector(const store *to, long row, long column, long limit, __m512 x) {
    __mmask16 mask = first(limit - column);
    if (to->out[F32]) _mm512_mask_storeu_ps(to->out[F32] + row * to->stride[F32] + 4 * column, mask, x);
    if (to->out[BF16]) _mm256_mask_storeu_epi16(to->out[BF16] + row * to->stride[BF16] + 2 * column, mask, to_bf16(x));
    if (to->out[U8]) {
        __m512 scale = _mm512_maskz_loadu_ps(mask, to->u8_scale + column);
        __m512 shift = _mm512_maskz_loadu_ps(mask, to->u8_shift + column);
        _mm_mask_storeu_epi8(to->out[U8] + row * to->stride[U8] + column, mask, to_u8(x, scale, shift));
    }
}

typedef struct {
    const char *base;
    long stride;
} rows_of;

INLINE const float *row_at(rows_of x, long row) { return (const float *)(x.base + row * x.stride); }

INLINE __m512 load(const float *row, long column, long width) {
    return _mm512_maskz_loadu_ps(first(width - column), row + column);
}

static void gather(const step *s, const int32_t *ids, const store *to, long begin, long end) {
    long width = s->outputs;
    for (long row = begin; row < end; row++) {
        long at = (long)ids[row] * width;
        for (long c = 0; c < width; c += 16) {
            __m512 x = s->is_flagged
                           ? from_bf16(_mm256_maskz_loadu_epi16(first(width - c), (const int16_t *)s->weight + at + c))
                           : load((const float *)s->weight + at, c, width);
            store_vector(to, row, c, width, x);
        }
    }
}

INLINE __m512 combined(const step *s, const float *a, const float *b, long c) {
    __m512 x = load(a, c, s->outputs);
    switch (s->operation) {
        case ADD: return _mm512_add_ps(x, load(b, c, s->outputs));
        case ADD_ROW: return _mm512_add_ps(x, load(s->bias, c, s->outputs));
        case MULTIPLY: return _mm512_mul_ps(x, load(b, c, s->outputs));
        case SCALE: return _mm512_mul_ps(x, splat(s->factor));
        case ACTIVATION: return activate(s->activation, x);
    }
    return x;
}

static void combine(const step *s, rows_of a, rows_of b, const store *to, long begin, long end) {
    for (long row = begin; row < end; row++) {
        const float *left = row_at(a, row), *right = b.base ? row_at(b, row) : 0;
        for (long c = 0; c < s->outputs; c += 16) store_vector(to, row, c, s->outputs, combined(s, left, right, c));
    }
}

static float sum_of(const float *row, long width) {
    __m512 sum = _mm512_setzero_ps();
    for (long c = 0; c < width; c += 16) sum = _mm512_add_ps(sum, load(row, c, width));
    return _mm512_reduce_add_ps(sum);
}

// The sum of (x − middle)².
static float squares_of(const float *row, long width, float middle) {
    __m512 sum = _mm512_setzero_ps();
    for (long c = 0; c < width; c += 16) {
        __m512 x = _mm512_maskz_sub_ps(first(width - c), load(row, c, width), splat(middle));
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

INLINE float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

static void layer_norm(const step *s, rows_of in, const store *to, long begin, long end) {
    long width = s->outputs;
    for (long row = begin; row < end; row++) {
        const float *x = row_at(in, row);
        float mean = sum_of(x, width) / (float)width;
        float inverse = 1.0f / root(squares_of(x, width, mean) / (float)width + s->epsilon);
        for (long c = 0; c < width; c += 16) {
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(load(x, c, width), splat(mean)), splat(inverse));
            y = _mm512_mul_ps(y, load(s->scale, c, width));
            store_vector(to, row, c, width, s->bias ? _mm512_add_ps(y, load(s->bias, c, width)) : y);
        }
    }
}

static void rms_norm(const step *s, rows_of in, const store *to, long begin, long end) {
    long head = s->outputs / s->heads;
    for (long row = begin; row < end; row++)
        for (long h = 0; h < s->heads; h++) {
            const float *x = row_at(in, row) + h * head;
            float inverse = 1.0f / root(squares_of(x, head, 0.0f) / (float)head + s->epsilon);
            for (long c = 0; c < head; c += 16) {
                __m512 y = _mm512_mul_ps(_mm512_mul_ps(load(x, c, head), splat(inverse)), load(s->scale, c, head));
                store_vector(to, row, h * head + c, (h + 1) * head, y);
            }
        }
}

static void rotary(const step *s, rows_of in, const int32_t *positions, const store *to, long begin, long end) {
    long head = s->outputs / s->heads, half = head / 2;
    for (long row = begin; row < end; row++)
        for (long h = 0; h < s->heads; h++) {
            const float *low = row_at(in, row) + h * head, *high = low + half;
            const float *cosines = (const float *)s->weight + positions[row] * half;
            const float *sines = s->scale + positions[row] * half;
            for (long c = 0; c < half; c += 16) {
                __m512 cosine = load(cosines, c, half), sine = load(sines, c, half);
                __m512 x = load(low, c, half), y = load(high, c, half);
                __m512 turned = _mm512_fmsub_ps(x, cosine, _mm512_mul_ps(y, sine));
                store_vector(to, row, h * head + c, h * head + half, turned);
                turned = _mm512_fmadd_ps(y, cosine, _mm512_mul_ps(x, sine));
                store_vector(to, row, h * head + half + c, (h + 1) * head, turned);
            }
        }
}

static void normalize(const step *s, rows_of in, const store *to, long begin, long end) {
    for (long row = begin; row < end; row++) {
        const float *x = row_at(in, row);
        float length = root(squares_of(x, s->outputs, 0.0f));
        __m512 inverse = splat(1.0f / (length > 1e-12f ? length : 1e-12f));
        for (long c = 0; c < s->outputs; c += 16)
            store_vector(to, row, c, s->outputs, _mm512_mul_ps(load(x, c, s->outputs), inverse));
    }
}
