// Softmax attention of the tokens of one text, head by head, six queries at a time against all keys that they see.
// Knows one text; no padding, no mask in memory: what is not seen is not computed, or counts as nothing.
#pragma once
#include "rows.h"
#include "tiles.h"

typedef struct {
    const char *queries, *keys, *values;  // first row of the text, this head's first channel
    long query_stride, key_stride, value_stride;
    int tokens, head, format;
    int is_causal, window;
    float factor;
    const float *bias;  // of this head, [2 · reach + 1], or NULL
    int reach;
} head_of_text;

// What one head needs beside its operands. Shares are in the operands' format.
typedef struct {
    char *keys, *values, *shares;
    float *scores;
} attention_scratch;

static long words_of(int format, long numbers) { return up(numbers, per_word[format]) / per_word[format]; }
static long bytes_of(int format, long numbers) { return numbers * (4 / per_word[format]); }

static long attention_bytes(int format, long tokens, long head) {
    long keys = up(tokens, COLUMNS), channels = up(head, 16);
    return 4 * keys * words_of(format, head) + 4 * channels * words_of(format, keys) + ROWS * keys * (4 + 4) + 256;
}

static attention_scratch attention_layout(char *at, int format, long tokens, long head) {
    long keys = up(tokens, COLUMNS), channels = up(head, 16);
    attention_scratch s;
    s.keys = at;
    s.values = s.keys + 4 * keys * words_of(format, head);
    s.scores = (float *)(s.values + 4 * channels * words_of(format, keys));
    s.shares = (char *)(s.scores + ROWS * keys);
    return s;
}

// Turn 16 rows of 16 words into 16 columns.
INLINE void transpose(__m512i *rows) {
    __m512i a[16], b[16];
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
        rows[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        rows[i + 4] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        rows[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
}

// Keys as columns: panels of 64 keys (the last as wide as needed), in them word by word of the head.
static void pack_keys(const head_of_text *h, char *out) {
    long words = words_of(h->format, h->head);
    for (long key = 0; key < h->tokens; key += 16) {
        long panel = key / COLUMNS * COLUMNS;
        long vectors = least(VECTORS, (up(h->tokens, 16) - panel) / 16);
        __m512i *columns = (__m512i *)(out + panel * words * 4) + (key - panel) / 16;
        for (long word = 0; word < words; word += 16) {
            __mmask16 mask = first(words - word);
            __m512i rows[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                rows[i] = key + i < h->tokens
                              ? _mm512_maskz_loadu_epi32(mask, h->keys + (key + i) * h->key_stride + word * 4)
                              : _mm512_setzero_si512();
            transpose(rows);
            for (int i = 0; i < 16 && word + i < words; i++)
                _mm512_storeu_si512(columns + (word + i) * vectors, rows[i]);
        }
    }
}

// 16 channels of as many consecutive tokens as one word holds, side by side by channel.
INLINE __m512i value_words(const head_of_text *h, long token, long channel) {
    __mmask16 mask = first(h->head - channel);
    const char *at = h->values + token * h->value_stride + bytes_of(h->format, channel);
    if (h->format == F32)
        return token < h->tokens ? _mm512_maskz_loadu_epi32(mask, at) : _mm512_setzero_si512();
    __m256i even = token < h->tokens ? _mm256_maskz_loadu_epi16(mask, at) : _mm256_setzero_si256();
    __m256i odd = token + 1 < h->tokens ? _mm256_maskz_loadu_epi16(mask, at + h->value_stride) : _mm256_setzero_si256();
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// Values as they are summed up: panels of 64 channels, in them word by word of the tokens.
static void pack_values(const head_of_text *h, char *out) {
    long tokens = up(h->tokens, 16), words = words_of(h->format, tokens);
    for (long channel = 0; channel < h->head; channel += 16) {
        long panel = channel / COLUMNS * COLUMNS;
        long vectors = least(VECTORS, (up(h->head, 16) - panel) / 16);
        __m512i *columns = (__m512i *)(out + panel * words * 4) + (channel - panel) / 16;
        for (long word = 0; word < words; word++)
            _mm512_storeu_si512(columns + word * vectors, value_words(h, word * per_word[h->format], channel));
    }
}

// The keys that a query sees, from `begin` to before `end`.
typedef struct {
    long begin, end;
} span;

INLINE span seen_by(const head_of_text *h, long query) {
    span s = {0, h->tokens};
    if (h->window >= 0) s = (span){most(0, query - h->window), least(h->tokens, query + h->window + 1)};
    if (h->is_causal) s.end = query + 1;
    return s;
}

INLINE __m512 score(const head_of_text *h, const float *scores, long query, long key, __mmask16 mask) {
    __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scores + key), splat(h->factor));
    if (h->bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, h->bias + h->reach + key - query));
    return x;
}

INLINE void store_share(int format, char *shares, long key, __m512 x) {
    if (format == F32)
        _mm512_storeu_ps(shares + 4 * key, x);
    else
        _mm256_storeu_si256((__m256i *)(shares + 2 * key), to_bf16(x));
}

INLINE __mmask16 of_span(span s, long key) {
    __mmask16 mask = first(s.end - key > 0 ? s.end - key : 0);
    return s.begin > key ? mask & ~first(s.begin - key) : mask;
}

// Turn the scores from `all.begin` to `all.end`, multiples of 16, into shares; returns what they add up to.
static float shares_of(const head_of_text *h, float *scores, long query, span all, char *shares) {
    span s = seen_by(h, query);
    __m512 top = splat(-INFINITE);
    for (long key = all.begin; key < all.end; key += 16) {
        __mmask16 mask = of_span(s, key);
        __m512 x = score(h, scores, query, key, mask);
        _mm512_storeu_ps(scores + key, x);
        top = _mm512_mask_max_ps(top, mask, top, x);
    }
    __m512 greatest = splat(_mm512_reduce_max_ps(top)), total = _mm512_setzero_ps();
    for (long key = all.begin; key < all.end; key += 16) {
        __m512 x = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + key), greatest));
        x = _mm512_maskz_mov_ps(of_span(s, key), x);
        total = _mm512_add_ps(total, x);
        store_share(h->format, shares, key, x);
    }
    return _mm512_reduce_add_ps(total);
}

// Compute up to six queries of one head, and store them from `row` and `channel` on.
static void attend(const head_of_text *h, const attention_scratch *s, long query, int rows, const store *to, long row,
                   long channel) {
    long keys = up(h->tokens, COLUMNS), head_words = words_of(h->format, h->head);
    span first_seen = seen_by(h, query), last_seen = seen_by(h, query + rows - 1);
    span all = {first_seen.begin / COLUMNS * COLUMNS, up(last_seen.end, 16)};
    const int32_t *queries = (const int32_t *)(h->queries + query * h->query_stride);
    float block[ROWS * COLUMNS], totals[ROWS];
    for (long panel = all.begin; panel < all.end; panel += COLUMNS) {
        long vectors = least(VECTORS, (up(h->tokens, 16) - panel) / 16);
        tiles[h->format][rows - 1][vectors - 1](queries, h->query_stride / 4,
                                                (const __m512i *)(s->keys + panel * head_words * 4), head_words, block);
        for (int r = 0; r < rows; r++)
            for (long v = 0; v < vectors; v++)
                _mm512_storeu_ps(s->scores + r * keys + panel + v * 16, _mm512_loadu_ps(block + r * COLUMNS + v * 16));
    }
    long share_bytes = bytes_of(h->format, keys);
    for (int r = 0; r < rows; r++)
        totals[r] = shares_of(h, s->scores + r * keys, query + r, all, s->shares + r * share_bytes);
    long words = words_of(h->format, up(h->tokens, 16)), skipped = words_of(h->format, all.begin);
    for (long panel = 0; panel < h->head; panel += COLUMNS) {
        long vectors = least(VECTORS, (up(h->head, 16) - panel) / 16);
        const __m512i *values = (const __m512i *)(s->values + panel * words * 4) + skipped * vectors;
        tiles[h->format][rows - 1][vectors - 1]((const int32_t *)s->shares + skipped, share_bytes / 4, values,
                                                words_of(h->format, all.end - all.begin), block);
        for (int r = 0; r < rows; r++)
            for (long v = 0; v < vectors; v++)
                store_vector(to, row + r, channel + panel + v * 16, channel + h->head,
                             _mm512_div_ps(_mm512_loadu_ps(block + r * COLUMNS + v * 16), splat(totals[r])));
    }
}
