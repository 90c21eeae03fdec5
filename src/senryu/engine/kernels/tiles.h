// Products of a few rows with a panel of 16 to 64 columns, all sums in registers; written once for every format.
// Knows packed operands; nothing of layers. An output's terms are added in one order, whatever rows stand beside it:
// that is what makes bits reproducible.
#pragma once
#include "vectors.h"

enum { ROWS = 6, COLUMNS = 64, VECTORS = COLUMNS / 16 };

// How many numbers of each format stand in the four bytes that one instruction multiplies and adds up.
static const int per_word[] = {1, 2, 4};

INLINE __m512 multiply_add(int format, __m512 sum, __m512i a, __m512i b) {
    if (format == F32) return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    if (format == BF16) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    return _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), a, b));
}

// `a`: rows of words, `stride` apart; `b`: for each word of a row, `vectors` · 16 columns; `out` [rows, 64].
INLINE void tile(int format, int rows, int vectors, const int32_t *a, long stride, const __m512i *b, long words,
                 float *out) {
    __m512 sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();
    for (long word = 0; word < words; word++) {
        __m512i columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) columns[v] = _mm512_loadu_si512(b + word * vectors + v);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m512i x = _mm512_set1_epi32(a[r * stride + word]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[r][v] = multiply_add(format, sums[r][v], x, columns[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(out + r * COLUMNS + v * 16, sums[r][v]);
}

typedef void (*tile_function)(const int32_t *, long, const __m512i *, long, float *);

#define TILE(format, rows, vectors)                                                                               \
    static void tile_##format##_##rows##_##vectors(const int32_t *a, long stride, const __m512i *b, long words,   \
                                                   float *out) {                                                  \
        tile(format, rows, vectors, a, stride, b, words, out);                                                    \
    }
#define TILES_OF(format, rows) \
    TILE(format, rows, 1) TILE(format, rows, 2) TILE(format, rows, 3) TILE(format, rows, 4)
#define TILES(format)                                                              \
    TILES_OF(format, 1) TILES_OF(format, 2) TILES_OF(format, 3) TILES_OF(format, 4) \
    TILES_OF(format, 5) TILES_OF(format, 6)
TILES(F32) TILES(BF16) TILES(U8)

#define NAMES_OF(format, rows) \
    {tile_##format##_##rows##_1, tile_##format##_##rows##_2, tile_##format##_##rows##_3, tile_##format##_##rows##_4}
#define NAMES(format)                                                     \
    {NAMES_OF(format, 1), NAMES_OF(format, 2), NAMES_OF(format, 3),       \
     NAMES_OF(format, 4), NAMES_OF(format, 5), NAMES_OF(format, 6)}
static const tile_function tiles[3][ROWS][VECTORS] = {NAMES(F32), NAMES(BF16), NAMES(U8)};
