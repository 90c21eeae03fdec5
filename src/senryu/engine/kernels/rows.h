// Steps that take each row by itself: norms, sums, products, tables. Knows rows and formats; no neighbouring row.
#pragma once
#include "plan.h"
#include "tiles.h"

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

// A row of a whole panel, `x` from `column`.
INLINE void store_panel(const store *to, long row, long column, const __m512 *x) {
    if (to->out[F32]) {
        float *out = (float *)(to->out[F32] + row * to->stride[F32]) + column;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(out + v * 16, x[v]);
    }
    if (to->out[BF16]) {
        char *out = to->out[BF16] + row * to->stride[BF16] + 2 * column;
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v += 2)
            _mm512_storeu_si512(out + v * 32, (__m512i)_mm512_cvtne2ps_pbh(x[v + 1], x[v]));
    }
    if (to->out[U8]) {
        char *out = to->out[U8] + row * to->stride[U8] + column;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            __m512 scale = _mm512_loadu_ps(to->u8_scale + column + v * 16);
            __m512 shift = _mm512_loadu_ps(to->u8_shift + column + v * 16);
            _mm_storeu_si128((__m128i *)(out + v * 16), to_u8(x[v], scale, shift));
        }
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

enum { SIDE_BY_SIDE = 4 };

INLINE float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

// Rows of whole panels. NOTE: a row's sums wait for each other, so a few rows are taken side by side.
INLINE void norm_panels(const step *s, rows_of in, const store *to, long row, int rows) {
    long width = s->outputs;
    __m512 sums[SIDE_BY_SIDE], means[SIDE_BY_SIDE], inverses[SIDE_BY_SIDE];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
    for (long c = 0; c < width; c += 16)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sums[r] = _mm512_add_ps(sums[r], _mm512_loadu_ps(row_at(in, row + r) + c));
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        means[r] = splat(_mm512_reduce_add_ps(sums[r]) / (float)width);
        sums[r] = _mm512_setzero_ps();
    }
    for (long c = 0; c < width; c += 16)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            __m512 x = _mm512_sub_ps(_mm512_loadu_ps(row_at(in, row + r) + c), means[r]);
            sums[r] = _mm512_fmadd_ps(x, x, sums[r]);
        }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        inverses[r] = splat(1.0f / root(_mm512_reduce_add_ps(sums[r]) / (float)width + s->epsilon));
    for (long c = 0; c < width; c += COLUMNS)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const float *x = row_at(in, row + r) + c;
            __m512 y[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                y[v] = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + v * 16), means[r]), inverses[r]);
                y[v] = _mm512_mul_ps(y[v], _mm512_loadu_ps(s->scale + c + v * 16));
                if (s->bias) y[v] = _mm512_add_ps(y[v], _mm512_loadu_ps(s->bias + c + v * 16));
            }
            store_panel(to, row + r, c, y);
        }
}

static void layer_norm(const step *s, rows_of in, const store *to, long begin, long end) {
    long width = s->outputs, row = begin;
    if (width % COLUMNS == 0) {
        for (; row + SIDE_BY_SIDE <= end; row += SIDE_BY_SIDE) norm_panels(s, in, to, row, SIDE_BY_SIDE);
        for (; row < end; row++) norm_panels(s, in, to, row, 1);
    }
    for (; row < end; row++) {
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
