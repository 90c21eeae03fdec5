// Products of a few rows with a panel of columns, all sums in registers; written once for every format.
// Knows packed operands; nothing of layers. An output's terms are added in one order, whatever rows stand beside it:
// that is what makes bits reproducible.
#pragma once
#include "vectors.h"

enum { ROWS = 6, VECTORS = COLUMNS / 16 };

// How many numbers of each format stand in the four bytes that one instruction multiplies and adds up.
static const int per_word[] = {1, 2, 4 / BYTE};

INLINE floats multiply_add_words(int format, floats a, floats b, floats sum) {
    if (format == U8) return multiply_add_bytes(a, b, sum);
#ifdef HAS_BF16
    if (format == BF16) return multiply_add_bf16(a, b, sum);
#endif
    return multiply_add(a, b, sum);
}

// `a`: rows of words, `stride` apart; `b`: for each word of a row, `vectors` · 16 columns; `out` [rows, COLUMNS].
INLINE void tile(int format, int rows, int vectors, const int32_t *a, long stride, const floats *b, long words,
                 float *out) {
    floats sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[r][v] = splat(0.0f);
    for (long word = 0; word < words; word++) {
        floats columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) columns[v] = read(b + word * vectors + v);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            floats x = spread(a + r * stride + word);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[r][v] = multiply_add_words(format, x, columns[v], sums[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) write(out + r * COLUMNS + v * 16, sums[r][v]);
}

typedef void (*tile_function)(const int32_t *, long, const floats *, long, float *);

#define TILE(format, rows, vectors)                                                                              \
    static void tile_##format##_##rows##_##vectors(const int32_t *a, long stride, const floats *b, long words,   \
                                                   float *out) {                                                 \
        tile(format, rows, vectors, a, stride, b, words, out);                                                   \
    }
#define NAME(format, rows, vectors) tile_##format##_##rows##_##vectors

#if COLUMNS == 64
#define TILES_OF(format, rows) \
    TILE(format, rows, 1) TILE(format, rows, 2) TILE(format, rows, 3) TILE(format, rows, 4)
#define NAMES_OF(format, rows) \
    {NAME(format, rows, 1), NAME(format, rows, 2), NAME(format, rows, 3), NAME(format, rows, 4)}
#else
#define TILES_OF(format, rows) TILE(format, rows, 1)
#define NAMES_OF(format, rows) {NAME(format, rows, 1)}
#endif

#define TILES(format)                                                              \
    TILES_OF(format, 1) TILES_OF(format, 2) TILES_OF(format, 3) TILES_OF(format, 4) \
    TILES_OF(format, 5) TILES_OF(format, 6)
#define NAMES(format)                                                     \
    {NAMES_OF(format, 1), NAMES_OF(format, 2), NAMES_OF(format, 3),       \
     NAMES_OF(format, 4), NAMES_OF(format, 5), NAMES_OF(format, 6)}

TILES(F32) TILES(U8)
#ifdef HAS_BF16
TILES(BF16)
#endif
static const tile_function tiles[][ROWS][VECTORS] = {
    [F32] = NAMES(F32),
    [U8] = NAMES(U8),
#ifdef HAS_BF16
    [BF16] = NAMES(BF16),
#endif
};
