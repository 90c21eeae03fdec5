// The tokens of each text to one vector, summed up in float64. Knows what sentence-transformers' Pooling does.
#pragma once
#include "run.h"

// The tokens of a text that are pooled, and what each counts: place · `slope` + `level`.
typedef struct {
    long begin, end;
    double level, slope, divisor;
} share_of_text;

static share_of_text share_of(const step *s, const batch *b, int text) {
    long length = b->lengths[text], begin = s->is_flagged ? least(b->prompts[text], length) : 0;
    double count = (double)(length - begin);
    share_of_text share = {begin, length, 1.0, 0.0, count};
    switch (s->index) {
        case CLS: begin = begin < length ? begin : 0; return (share_of_text){begin, begin + 1, 1.0, 0.0, 1.0};
        case LAST_TOKEN: share.begin = most(begin, length - 1), share.divisor = 1.0; break;
        case MEAN_SQRT_LEN: share.divisor = root((float)count); break;
        case WEIGHTED_MEAN:
            share.slope = 1.0;
            share.divisor = ((double)length * (double)(length + 1) - (double)begin * (double)(begin + 1)) / 2.0;
    }
    return share;
}

static __m512 greatest_of(rows_of in, long first_row, share_of_text share, long c, long width) {
    __m512 top = splat(-INFINITE);
    __mmask16 is_nan = 0;
    for (long token = share.begin; token < share.end; token++) {
        __m512 x = load(row_at(in, first_row + token), c, width);
        is_nan |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        top = _mm512_max_ps(top, x);
    }
    return _mm512_mask_mov_ps(top, is_nan, splat(__builtin_nanf("")));
}

static __m512 mean_of(rows_of in, long first_row, share_of_text share, long c, long width) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd(), divisor = _mm512_set1_pd(share.divisor);
    for (long token = share.begin; token < share.end; token++) {
        __m512 x = load(row_at(in, first_row + token), c, width);
        __m512d weight = _mm512_set1_pd(share.level + share.slope * (double)token);
        low = _mm512_fmadd_pd(weight, _mm512_cvtps_pd(_mm512_castps512_ps256(x)), low);
        high = _mm512_fmadd_pd(weight, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)), high);
    }
    __m256 halves[] = {_mm512_cvtpd_ps(_mm512_div_pd(low, divisor)), _mm512_cvtpd_ps(_mm512_div_pd(high, divisor))};
    return _mm512_insertf32x8(_mm512_castps256_ps512(halves[0]), halves[1], 1);
}

static void pool(const run *r, const step *s) {
    rows_of in = rows_in(r, s->in);
    store to = results_of(r, s);
    long first_row = 0;
    for (int text = 0; text < r->batch->texts; first_row += r->batch->lengths[text++]) {
        share_of_text share = share_of(s, r->batch, text);
        for (long c = 0; c < s->outputs; c += 16) {
            __m512 x = _mm512_setzero_ps();
            if (share.begin < share.end)
                x = s->index == MAX ? greatest_of(in, first_row, share, c, s->outputs)
                                    : mean_of(in, first_row, share, c, s->outputs);
            store_vector(&to, text, c, s->outputs, x);
        }
    }
}
