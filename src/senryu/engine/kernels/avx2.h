// Sixteen float32 at a time, in two registers: what the kernels ask of a processor with AVX2 and FMA. The functions are
// avx512.h's, each with the same bits. Knows instructions, and no tensor.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define INLINE static inline __attribute__((always_inline))
#define OF_THIS_PROCESSOR(name) senryu_avx2_##name
#define COLUMNS 16  // of a panel: the sums of 6 rows take 12 registers of 16
#define BYTE 2      // of a U8 as it is stored: products of bytes would overflow 16 bits, those of 16 bits do not 32

typedef struct {
    __m256 low, high;
} floats;

// All bits of a lane, or none.
typedef struct {
    __m256i low, high;
} lanes;

INLINE floats splat(float x) { return (floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

INLINE lanes first(long count) {
    __m256i all = _mm256_set1_epi32(count < 16 ? (int)count : 16);
    return (lanes){_mm256_cmpgt_epi32(all, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                   _mm256_cmpgt_epi32(all, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

INLINE lanes without(lanes these, lanes those) {
    return (lanes){_mm256_andnot_si256(those.low, these.low), _mm256_andnot_si256(those.high, these.high)};
}

INLINE lanes either(lanes these, lanes those) {
    return (lanes){_mm256_or_si256(these.low, those.low), _mm256_or_si256(these.high, those.high)};
}

// A bit for each lane.
INLINE int bits_of(lanes these) {
    return _mm256_movemask_ps(_mm256_castsi256_ps(these.low)) |
           _mm256_movemask_ps(_mm256_castsi256_ps(these.high)) << 8;
}

INLINE floats read(const void *from) {
    return (floats){_mm256_loadu_ps(from), _mm256_loadu_ps((const float *)from + 8)};
}

INLINE floats read_lanes(lanes these, const void *from) {
    return (floats){_mm256_maskload_ps(from, these.low), _mm256_maskload_ps((const float *)from + 8, these.high)};
}

INLINE void write(void *to, floats x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps((float *)to + 8, x.high);
}

INLINE void write_lanes(void *to, lanes these, floats x) {
    if (bits_of(these) == 0xffff) {  // NOTE: some processors take twenty times as long for a store with a mask
        write(to, x);
        return;
    }
    _mm256_maskstore_ps(to, these.low, x.low);
    _mm256_maskstore_ps((float *)to + 8, these.high, x.high);
}

// The word at `from` in every lane.
INLINE floats spread(const int32_t *from) {
    __m256 word = _mm256_castsi256_ps(_mm256_set1_epi32(*from));
    return (floats){word, word};
}

INLINE floats add(floats a, floats b) { return (floats){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }

INLINE floats subtract(floats a, floats b) {
    return (floats){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

INLINE floats multiply(floats a, floats b) {
    return (floats){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

INLINE floats divide(floats a, floats b) {
    return (floats){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

// a · b + c, and a · b − c, rounded once.
INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

INLINE floats multiply_subtract(floats a, floats b, floats c) {
    return (floats){_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}

// NOTE: of a number and a NaN, both give the second operand: where a NaN must come through, it stands there.
INLINE floats greater(floats a, floats b) {
    return (floats){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

INLINE floats smaller(floats a, floats b) {
    return (floats){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

INLINE floats nearest_integer(floats x) {
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (floats){_mm256_round_ps(x.low, NEAREST), _mm256_round_ps(x.high, NEAREST)};
}

INLINE __m256 power_of_2(__m256i power) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(power, _mm256_set1_epi32(127)), 23));
}

// NOTE: in two steps: 2^128 is no float32, nor are all of its inverses; only the second can round.
INLINE __m256 half_times_power_of_2(__m256 x, __m256 power) {
    __m256i whole = _mm256_cvtps_epi32(power), part = _mm256_srai_epi32(whole, 1);
    x = _mm256_mul_ps(x, power_of_2(part));
    return _mm256_mul_ps(x, power_of_2(_mm256_sub_epi32(whole, part)));
}

// x · 2^power, for an integer of −126 to 128.
INLINE floats times_power_of_2(floats x, floats power) {
    return (floats){half_times_power_of_2(x.low, power.low), half_times_power_of_2(x.high, power.high)};
}

INLINE lanes is_less(floats a, floats b) {
    return (lanes){_mm256_castps_si256(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
                   _mm256_castps_si256(_mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

INLINE lanes is_nan(floats x) {
    return (lanes){_mm256_castps_si256(_mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q)),
                   _mm256_castps_si256(_mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q))};
}

INLINE floats choose(lanes these, floats x, floats otherwise) {
    return (floats){_mm256_blendv_ps(otherwise.low, x.low, _mm256_castsi256_ps(these.low)),
                    _mm256_blendv_ps(otherwise.high, x.high, _mm256_castsi256_ps(these.high))};
}

INLINE floats only(lanes these, floats x) {
    return (floats){_mm256_and_ps(x.low, _mm256_castsi256_ps(these.low)),
                    _mm256_and_ps(x.high, _mm256_castsi256_ps(these.high))};
}

INLINE __m256 lower_half(floats x) { return x.low; }
INLINE __m256 upper_half(floats x) { return x.high; }

INLINE __m256 widened(__m128i bf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
}

INLINE floats read_bf16(lanes these, const void *from) {
    uint16_t some[16] = {0};
    int bits = bits_of(these);
    if (bits != 0xffff) {
        for (int lane = 0; lane < 16; lane++)
            if (bits >> lane & 1) some[lane] = ((const uint16_t *)from)[lane];
        from = some;
    }
    return (floats){widened(_mm_loadu_si128(from)), widened(_mm_loadu_si128((const __m128i *)from + 1))};
}

// Sixteen sums in float64.
typedef struct {
    __m256d four[4];
} doubles;

INLINE doubles no_sums(void) {
    __m256d zero = _mm256_setzero_pd();
    return (doubles){{zero, zero, zero, zero}};
}

INLINE doubles multiply_add_doubles(double weight, floats x, doubles sums) {
    const __m128 quarters[] = {_mm256_castps256_ps128(x.low), _mm256_extractf128_ps(x.low, 1),
                               _mm256_castps256_ps128(x.high), _mm256_extractf128_ps(x.high, 1)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        sums.four[i] = _mm256_fmadd_pd(_mm256_set1_pd(weight), _mm256_cvtps_pd(quarters[i]), sums.four[i]);
    return sums;
}

INLINE __m256 half_of_quotients(__m256d low, __m256d high, double divisor) {
    __m256d d = _mm256_set1_pd(divisor);
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_div_pd(high, d)), _mm256_cvtpd_ps(_mm256_div_pd(low, d)));
}

INLINE floats quotients(doubles sums, double divisor) {
    return (floats){half_of_quotients(sums.four[0], sums.four[1], divisor),
                    half_of_quotients(sums.four[2], sums.four[3], divisor)};
}

// Turn 8 rows of 8 words into 8 columns.
INLINE void transpose_8(__m256 *rows) {
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

// Turn 16 rows of 16 words into 16 columns.
INLINE void transpose(floats *of) {
    __m256 quarters[4][8];  // upper left, lower left, upper right, lower right
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        quarters[0][i] = of[i].low, quarters[1][i] = of[i + 8].low;
        quarters[2][i] = of[i].high, quarters[3][i] = of[i + 8].high;
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) transpose_8(quarters[q]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        of[i] = (floats){quarters[0][i], quarters[1][i]};
        of[i + 8] = (floats){quarters[2][i], quarters[3][i]};
    }
}

// ---- bytes ---------------------------------------------------------------------------------------------------

INLINE __m256 half_of_products(__m256 a, __m256 b, __m256 sum) {
    __m256i products = _mm256_madd_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), products));
}

// To each lane of `sum`, an integer, two products of an unsigned and a signed byte.
INLINE floats multiply_add_bytes(floats a, floats b, floats sum) {
    return (floats){half_of_products(a.low, b.low, sum.low), half_of_products(a.high, b.high, sum.high)};
}

INLINE floats from_integers(floats sums) {
    return (floats){_mm256_cvtepi32_ps(_mm256_castps_si256(sums.low)),
                    _mm256_cvtepi32_ps(_mm256_castps_si256(sums.high))};
}

// round(x · scale + shift) within 0 … 255; what is no number becomes 0.
INLINE void write_u8(void *to, floats x, floats scale, floats shift) {
    floats moved = smaller(greater(multiply_add(x, scale, shift), splat(0.0f)), splat(255.0f));
    __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(moved.low), _mm256_cvtps_epi32(moved.high));
    _mm256_storeu_si256(to, _mm256_permute4x64_epi64(packed, 0xd8));
}

// A panel's row at once; scales and shifts by column.
INLINE void write_u8s(void *to, const floats *x, int vectors, const float *scale, const float *shift) {
    for (int v = 0; v < vectors; v++) write_u8((uint16_t *)to + v * 16, x[v], read(scale + v * 16), read(shift + v * 16));
}

INLINE void write_u8_lanes(void *to, lanes these, floats x, floats scale, floats shift) {
    uint16_t all[16];
    write_u8(all, x, scale, shift);
    for (int lane = 0, bits = bits_of(these); lane < 16 && bits >> lane & 1; lane++) ((uint16_t *)to)[lane] = all[lane];
}
