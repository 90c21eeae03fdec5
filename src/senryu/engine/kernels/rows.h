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
INLINE void store_vector(const store *to, long row, long column, long limit, floats x) {
    lanes mask = first(limit - column);
    if (to->out[F32]) write_lanes(to->out[F32] + row * to->stride[F32] + 4 * column, mask, x);
#ifdef HAS_BF16
    if (to->out[BF16]) write_bf16_lanes(to->out[BF16] + row * to->stride[BF16] + 2 * column, mask, x);
#endif
    if (to->out[U8]) {
        floats scale = read_lanes(mask, to->u8_scale + column);
        floats shift = read_lanes(mask, to->u8_shift + column);
        write_u8_lanes(to->out[U8] + row * to->stride[U8] + BYTE * column, mask, x, scale, shift);
    }
}

// So many whole vectors of a row, `x` from `column`; an even number where there are more than one.
INLINE void store_vectors(const store *to, long row, long column, const floats *x, int vectors) {
    if (to->out[F32]) {
        float *out = (float *)(to->out[F32] + row * to->stride[F32]) + column;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) write(out + v * 16, x[v]);
    }
#ifdef HAS_BF16
    if (to->out[BF16]) {
        char *out = to->out[BF16] + row * to->stride[BF16] + 2 * column;
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v += 2) write_bf16_pair(out + v * 32, x[v], x[v + 1]);
    }
#endif
    if (to->out[U8])
        write_u8s(to->out[U8] + row * to->stride[U8] + BYTE * column, x, vectors, to->u8_scale + column,
                  to->u8_shift + column);
}

// What is computed for a step's activation, by what becomes of its result.
INLINE int activation_of(const step *s, const store *to) {
    int becomes_bytes_alone = to->out[U8] && !to->out[F32] && !to->out[BF16];
    return s->activation == GELU && becomes_bytes_alone ? ROUGH_GELU : s->activation;
}

typedef struct {
    const char *base;
    long stride;
} rows_of;

INLINE const float *row_at(rows_of x, long row) { return (const float *)(x.base + row * x.stride); }

INLINE floats load(const float *row, long column, long width) {
    return read_lanes(first(width - column), row + column);
}

static void gather(const step *s, const int32_t *ids, const store *to, long begin, long end) {
    long width = s->outputs;
    for (long row = begin; row < end; row++) {
        long at = (long)ids[row] * width;
        for (long c = 0; c < width; c += 16) {
            floats x = s->is_flagged ? read_bf16(first(width - c), (const int16_t *)s->weight + at + c)
                                     : load((const float *)s->weight + at, c, width);
            store_vector(to, row, c, width, x);
        }
    }
}

INLINE floats combined(const step *s, int activation, const float *a, const float *b, long c) {
    floats x = load(a, c, s->outputs);
    switch (s->operation) {
        case ADD: return add(x, load(b, c, s->outputs));
        case ADD_ROW: return add(x, load(s->bias, c, s->outputs));
        case MULTIPLY: return multiply(x, load(b, c, s->outputs));
        case SCALE: return multiply(x, splat(s->factor));
        case ACTIVATION: return activate(activation, x);
    }
    return x;
}

static void combine(const step *s, rows_of a, rows_of b, const store *to, long begin, long end) {
    int activation = activation_of(s, to);
    for (long row = begin; row < end; row++) {
        const float *left = row_at(a, row), *right = b.base ? row_at(b, row) : 0;
        for (long c = 0; c < s->outputs; c += 16)
            store_vector(to, row, c, s->outputs, combined(s, activation, left, right, c));
    }
}

static float sum_of(const float *row, long width) {
    floats sum = splat(0.0f);
    for (long c = 0; c < width; c += 16) sum = add(sum, load(row, c, width));
    return sum_of_lanes(sum);
}

// The sum of (x − middle)².
static float squares_of(const float *row, long width, float middle) {
    floats sum = splat(0.0f);
    for (long c = 0; c < width; c += 16) {
        floats x = only(first(width - c), subtract(load(row, c, width), splat(middle)));
        sum = multiply_add(x, x, sum);
    }
    return sum_of_lanes(sum);
}

enum { SIDE_BY_SIDE = 4 };

INLINE float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

// Rows of whole panels. NOTE: a row's sums wait for each other, so a few rows are taken side by side.
INLINE void norm_panels(const step *s, rows_of in, const store *to, long row, int rows) {
    long width = s->outputs;
    floats sums[SIDE_BY_SIDE], means[SIDE_BY_SIDE], inverses[SIDE_BY_SIDE];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[r] = splat(0.0f);
    for (long c = 0; c < width; c += 16)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sums[r] = add(sums[r], read(row_at(in, row + r) + c));
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        means[r] = splat(sum_of_lanes(sums[r]) / (float)width);
        sums[r] = splat(0.0f);
    }
    for (long c = 0; c < width; c += 16)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            floats x = subtract(read(row_at(in, row + r) + c), means[r]);
            sums[r] = multiply_add(x, x, sums[r]);
        }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        inverses[r] = splat(1.0f / root(sum_of_lanes(sums[r]) / (float)width + s->epsilon));
    for (long c = 0; c < width; c += COLUMNS)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const float *x = row_at(in, row + r) + c;
            floats y[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                y[v] = multiply(subtract(read(x + v * 16), means[r]), inverses[r]);
                y[v] = multiply(y[v], read(s->scale + c + v * 16));
                if (s->bias) y[v] = add(y[v], read(s->bias + c + v * 16));
            }
            store_vectors(to, row + r, c, y, VECTORS);
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
            floats y = multiply(subtract(load(x, c, width), splat(mean)), splat(inverse));
            y = multiply(y, load(s->scale, c, width));
            store_vector(to, row, c, width, s->bias ? add(y, load(s->bias, c, width)) : y);
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
                floats y = multiply(multiply(load(x, c, head), splat(inverse)), load(s->scale, c, head));
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
                floats cosine = load(cosines, c, half), sine = load(sines, c, half);
                floats x = load(low, c, half), y = load(high, c, half);
                floats turned = multiply_subtract(x, cosine, multiply(y, sine));
                store_vector(to, row, h * head + c, h * head + half, turned);
                turned = multiply_add(y, cosine, multiply(x, sine));
                store_vector(to, row, h * head + half + c, (h + 1) * head, turned);
            }
        }
}

static void normalize(const step *s, rows_of in, const store *to, long begin, long end) {
    for (long row = begin; row < end; row++) {
        const float *x = row_at(in, row);
        float length = root(squares_of(x, s->outputs, 0.0f));
        floats inverse = splat(1.0f / (length > 1e-12f ? length : 1e-12f));
        for (long c = 0; c < s->outputs; c += 16)
            store_vector(to, row, c, s->outputs, multiply(load(x, c, s->outputs), inverse));
    }
}
