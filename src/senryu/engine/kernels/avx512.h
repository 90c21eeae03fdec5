// Sixteen float32 at a time, in one register: what the kernels ask of a processor with AVX-512. avx2.h has the same
// functions, with the same bits. Knows instructions, and no tensor.
#pragma once
#include <immintrin.h>
#include <stdint.h>

// NOTE: code for the two extensions is written out only where a plan's format asks for it, and Python hands over
// such a plan only where the processor has them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma")
#endif

#define INLINE static inline __attribute__((always_inline))
#define OF_THIS_PROCESSOR(name) senryu_avx512_##name
#define COLUMNS 64  // of a panel: the sums of 6 rows take 24 registers of 32
#define HAS_BF16    // pairs of bf16 are multiplied too
#define BYTE 1      // of a U8 as it is stored: four of them are multiplied together

typedef __m512 floats;
typedef __mmask16 lanes;

INLINE floats splat(float x) { return _mm512_set1_ps(x); }

INLINE lanes first(long count) { return count >= 16 ? 0xffff : (lanes)((1u << count) - 1); }
INLINE lanes without(lanes these, lanes those) { return these & ~those; }
INLINE lanes either(lanes these, lanes those) { return these | those; }

INLINE floats read(const void *from) { return _mm512_loadu_ps(from); }
INLINE floats read_lanes(lanes these, const void *from) { return _mm512_maskz_loadu_ps(these, from); }
INLINE void write(void *to, floats x) { _mm512_storeu_ps(to, x); }
INLINE void write_lanes(void *to, lanes these, floats x) { _mm512_mask_storeu_ps(to, these, x); }

// The word at `from` in every lane.
INLINE floats spread(const int32_t *from) { return _mm512_castsi512_ps(_mm512_set1_epi32(*from)); }

INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats subtract(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats multiply(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats divide(floats a, floats b) { return _mm512_div_ps(a, b); }

// a · b + c, and a · b − c, rounded once.
INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats multiply_subtract(floats a, floats b, floats c) { return _mm512_fmsub_ps(a, b, c); }

// NOTE: of a number and a NaN, both give the second operand: where a NaN must come through, it stands there.
INLINE floats greater(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats smaller(floats a, floats b) { return _mm512_min_ps(a, b); }

INLINE floats nearest_integer(floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// x · 2^power, for an integer of −126 to 128.
INLINE floats times_power_of_2(floats x, floats power) { return _mm512_scalef_ps(x, power); }

INLINE lanes is_less(floats a, floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE lanes is_nan(floats x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
INLINE floats choose(lanes these, floats x, floats otherwise) { return _mm512_mask_mov_ps(otherwise, these, x); }
INLINE floats only(lanes these, floats x) { return _mm512_maskz_mov_ps(these, x); }

INLINE __m256 lower_half(floats x) { return _mm512_castps512_ps256(x); }
INLINE __m256 upper_half(floats x) { return _mm512_extractf32x8_ps(x, 1); }

INLINE floats read_bf16(lanes these, const void *from) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(these, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

// Sixteen sums in float64.
typedef struct {
    __m512d low, high;
} doubles;

INLINE doubles no_sums(void) { return (doubles){_mm512_setzero_pd(), _mm512_setzero_pd()}; }

INLINE doubles multiply_add_doubles(double weight, floats x, doubles sums) {
    __m512d w = _mm512_set1_pd(weight);
    sums.low = _mm512_fmadd_pd(w, _mm512_cvtps_pd(lower_half(x)), sums.low);
    sums.high = _mm512_fmadd_pd(w, _mm512_cvtps_pd(upper_half(x)), sums.high);
    return sums;
}

INLINE floats quotients(doubles sums, double divisor) {
    __m512d d = _mm512_set1_pd(divisor);
    __m256 low = _mm512_cvtpd_ps(_mm512_div_pd(sums.low, d)), high = _mm512_cvtpd_ps(_mm512_div_pd(sums.high, d));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// Turn 16 rows of 16 words into 16 columns.
INLINE void transpose(floats *of) {
    __m512i rows[16], a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = _mm512_castps_si512(of[i]);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
        a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        of[i] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a[i], a[i + 4], 0x88));
        of[i + 4] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88));
        of[i + 8] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd));
        of[i + 12] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd));
    }
}

// ---- bf16 ----------------------------------------------------------------------------------------------------

// To each lane of `sum` two products of bf16.
INLINE floats multiply_add_bf16(floats a, floats b, floats sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

INLINE __m256i to_bf16(floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE void write_bf16(void *to, floats x) { _mm256_storeu_si256(to, to_bf16(x)); }
INLINE void write_bf16_lanes(void *to, lanes these, floats x) { _mm256_mask_storeu_epi16(to, these, to_bf16(x)); }
INLINE void write_bf16_pair(void *to, floats x, floats y) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}

// Lanes of two rows of bf16 side by side, the one at `even` first.
INLINE floats pairs_of_bf16(lanes evens, const void *even, lanes odds, const void *odd) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(evens, even));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(odds, odd));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// ---- bytes ---------------------------------------------------------------------------------------------------

// To each lane of `sum`, an integer, four products of an unsigned and a signed byte.
INLINE floats multiply_add_bytes(floats a, floats b, floats sum) {
    return _mm512_castsi512_ps(
        _mm512_dpbusd_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(a), _mm512_castps_si512(b)));
}

INLINE floats from_integers(floats sums) { return _mm512_cvtepi32_ps(_mm512_castps_si512(sums)); }

// round(x · scale + shift) within 0 … 255; what is no number becomes 0.
INLINE __m128i to_u8(floats x, floats scale, floats shift) {
    floats moved = greater(multiply_add(x, scale, shift), splat(0.0f));
    return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(smaller(moved, splat(255.0f))));
}
INLINE void write_u8(void *to, floats x, floats scale, floats shift) {
    _mm_storeu_si128((__m128i *)to, to_u8(x, scale, shift));
}

// A panel's row at once; scales and shifts by column.
INLINE void write_u8s(void *to, const floats *x, int vectors, const float *scale, const float *shift) {
    if (vectors != 4) {
        for (int v = 0; v < vectors; v++) write_u8((char *)to + v * 16, x[v], read(scale + v * 16), read(shift + v * 16));
        return;
    }
    __m512i whole[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        floats moved = multiply_add(x[v], read(scale + v * 16), read(shift + v * 16));
        whole[v] = _mm512_cvtps_epi32(smaller(splat(255.0f), moved));  // what is below, and no number, saturates at 0
    }
    __m512i low = _mm512_packs_epi32(whole[0], whole[1]), high = _mm512_packs_epi32(whole[2], whole[3]);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}

INLINE void write_u8_lanes(void *to, lanes these, floats x, floats scale, floats shift) {
    _mm_mask_storeu_epi8(to, these, to_u8(x, scale, shift));
}
