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

// Keys as columns: panels of keys (the last as wide as needed), in them word by word of the head.
static void pack_keys(const head_of_text *h, char *out) {
    long words = words_of(h->format, h->head);
    for (long key = 0; key < h->tokens; key += 16) {
        long panel = key / COLUMNS * COLUMNS;
        long vectors = least(VECTORS, (up(h->tokens, 16) - panel) / 16);
        floats *columns = (floats *)(out + panel * words * 4) + (key - panel) / 16;
        for (long word = 0; word < words; word += 16) {
            lanes mask = first(words - word);
            floats rows[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                rows[i] = key + i < h->tokens ? read_lanes(mask, h->keys + (key + i) * h->key_stride + word * 4)
                                              : splat(0.0f);
            transpose(rows);
            for (int i = 0; i < 16 && word + i < words; i++) write(columns + (word + i) * vectors, rows[i]);
        }
    }
}

// 16 channels of as many consecutive tokens as one word holds, side by side by channel.
INLINE floats value_words(const head_of_text *h, long token, long channel) {
    lanes mask = first(h->head - channel);
    const char *at = h->values + token * h->value_stride + bytes_of(h->format, channel);
#ifdef HAS_BF16
    if (h->format == BF16)
        return pairs_of_bf16(token < h->tokens ? mask : first(0), at, token + 1 < h->tokens ? mask : first(0),
                             at + h->value_stride);
#endif
    return token < h->tokens ? read_lanes(mask, at) : splat(0.0f);
}

// Values as they are summed up: panels of channels, in them word by word of the tokens.
static void pack_values(const head_of_text *h, char *out) {
    long tokens = up(h->tokens, 16), words = words_of(h->format, tokens);
    for (long channel = 0; channel < h->head; channel += 16) {
        long panel = channel / COLUMNS * COLUMNS;
        long vectors = least(VECTORS, (up(h->head, 16) - panel) / 16);
        floats *columns = (floats *)(out + panel * words * 4) + (channel - panel) / 16;
        for (long word = 0; word < words; word++)
            write(columns + word * vectors, value_words(h, word * per_word[h->format], channel));
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

INLINE floats score(const head_of_text *h, const float *scores, long query, long key, lanes mask) {
    floats x = multiply(read_lanes(mask, scores + key), splat(h->factor));
    if (h->bias) x = add(x, read_lanes(mask, h->bias + h->reach + key - query));
    return x;
}

INLINE void store_share(int format, char *shares, long key, floats x) {
    if (format == F32) write(shares + 4 * key, x);
#ifdef HAS_BF16
    if (format == BF16) write_bf16(shares + 2 * key, x);
#endif
}

INLINE lanes of_span(span s, long key) {
    lanes mask = first(s.end - key > 0 ? s.end - key : 0);
    return s.begin > key ? without(mask, first(s.begin - key)) : mask;
}

// Turn the scores from `all.begin` to `all.end`, multiples of 16, into shares; returns what they add up to.
static float shares_of(const head_of_text *h, float *scores, long query, span all, char *shares) {
    span s = seen_by(h, query);
    floats top = splat(-INFINITE);
    for (long key = all.begin; key < all.end; key += 16) {
        lanes mask = of_span(s, key);
        floats x = score(h, scores, query, key, mask);
        write(scores + key, x);
        top = choose(mask, greater(top, x), top);
    }
    floats greatest = splat(greatest_lane(top)), total = splat(0.0f);
    for (long key = all.begin; key < all.end; key += 16) {
        floats x = exponential(subtract(read(scores + key), greatest));
        x = only(of_span(s, key), x);
        total = add(total, x);
        store_share(h->format, shares, key, x);
    }
    return sum_of_lanes(total);
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
                                                (const floats *)(s->keys + panel * head_words * 4), head_words, block);
        for (int r = 0; r < rows; r++)
            for (long v = 0; v < vectors; v++)
                write(s->scores + r * keys + panel + v * 16, read(block + r * COLUMNS + v * 16));
    }
    long share_bytes = bytes_of(h->format, keys);
    for (int r = 0; r < rows; r++)
        totals[r] = shares_of(h, s->scores + r * keys, query + r, all, s->shares + r * share_bytes);
    long words = words_of(h->format, up(h->tokens, 16)), skipped = words_of(h->format, all.begin);
    for (long panel = 0; panel < h->head; panel += COLUMNS) {
        long vectors = least(VECTORS, (up(h->head, 16) - panel) / 16);
        const floats *values = (const floats *)(s->values + panel * words * 4) + skipped * vectors;
        tiles[h->format][rows - 1][vectors - 1]((const int32_t *)s->shares + skipped, share_bytes / 4, values,
                                                words_of(h->format, all.end - all.begin), block);
        for (int r = 0; r < rows; r++)
            for (long v = 0; v < vectors; v++)
                store_vector(to, row + r, channel + panel + v * 16, channel + h->head,
                             divide(read(block + r * COLUMNS + v * 16), splat(totals[r])));
    }
}
