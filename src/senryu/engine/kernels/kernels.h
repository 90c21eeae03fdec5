// Runs a plan over a batch of texts laid end to end: steps that take rows by themselves block by block, so that a
// block stays in the cache, attention text by text. One call runs on one thread, allocates nothing and keeps nothing.
//
// Knows plan.h; nothing of models, files or Python. avx512.c and avx2.c each make a library's half of it, for their
// own processors and under their own names.
#pragma once
#define EXPORT __attribute__((visibility("default")))
#include "attention.h"
#include "crew.h"
#include "linear.h"
#include "pooling.h"

// The heads that share the keys from `first_keys` to before `last_keys`.
static void attention(const run *r, const step *s, long first_keys, long last_keys, char *scratch_at) {
    const batch *b = r->batch;
    int format = s->in_format;
    rows_of queries = rows_in(r, s->in), keys = rows_in(r, s->second), values = rows_in(r, s->third);
    store to = results_of(r, s);
    long head = s->inputs / s->heads, shared = s->heads / s->key_heads, first_row = 0;
    for (int text = 0; text < b->texts; first_row += b->lengths[text++]) {
        attention_scratch scratch = attention_layout(scratch_at, format, b->lengths[text], head);
        for (long number = first_keys * shared; number < last_keys * shared; number++) {
            long key_head = number / shared;
            head_of_text h = {
                .queries = queries.base + first_row * queries.stride + bytes_of(format, number * head),
                .keys = keys.base + first_row * keys.stride + bytes_of(format, key_head * head),
                .values = values.base + first_row * values.stride + bytes_of(format, key_head * head),
                .query_stride = queries.stride,
                .key_stride = keys.stride,
                .value_stride = values.stride,
                .tokens = b->lengths[text],
                .head = head,
                .format = format,
                .is_causal = s->is_causal,
                .window = s->window,
                .factor = s->factor,
                .bias = s->bias ? s->bias + number * (2 * s->index + 1) : 0,
                .reach = s->index,
            };
            if (number % shared == 0) {
                pack_keys(&h, scratch.keys);
                pack_values(&h, scratch.values);
            }
            for (long query = 0; query < h.tokens; query += ROWS)
                attend(&h, &scratch, query, least(ROWS, h.tokens - query), &to, first_row + query, number * head);
        }
    }
}

static const int32_t *ids_of(const run *r, const step *s) {
    switch (s->index) {
        case POSITIONS: return r->positions;
        case PADDED_POSITIONS: return r->padded;
    }
    return r->batch->input_ids;
}

static void run_rows(const run *r, const step *s, long begin, long end) {
    store to = results_of(r, s);
    rows_of in = rows_in(r, s->in);
    switch (s->operation) {
        case GATHER: gather(s, ids_of(r, s), &to, begin, end); break;
        case LINEAR: linear(r, s, &to, begin, end, 0, s->outputs); break;
        case LAYER_NORM: layer_norm(s, in, &to, begin, end); break;
        case RMS_NORM: rms_norm(s, in, &to, begin, end); break;
        case ROTARY: rotary(s, in, r->positions, &to, begin, end); break;
        case NORMALIZE: normalize(s, in, &to, begin, end); break;
        default: combine(s, in, rows_in(r, s->second), &to, begin, end);
    }
}

static int takes_all(const step *s) { return s->operation == ATTENTION || s->operation == POOL; }

enum { ROWS_OF_A_SHARE = 16 };

// How many shares a step has: of a linear layer panels, of attention heads that share their keys, else rows.
static long shares_of_step(const run *r, const step *s, long rows) {
    switch (s->operation) {
        case LINEAR: return least(MOST_SHARES, up(s->outputs, COLUMNS) / COLUMNS);
        case ATTENTION: return least(r->scratches, s->key_heads);
        default: return least(MOST_SHARES, up(rows, ROWS_OF_A_SHARE) / ROWS_OF_A_SHARE);
    }
}

// Where a share begins of so many units; the next one begins where it ends.
static long begin_of(long share, long shares, long units) { return units * share / shares; }

static void run_share(const run *r, const step *s, long begin, long end, long share, long shares) {
    if (s->operation == LINEAR) {
        store to = results_of(r, s);
        long panels = up(s->outputs, COLUMNS) / COLUMNS;
        long first_panel = begin_of(share, shares, panels), last_panel = begin_of(share + 1, shares, panels);
        linear(r, s, &to, begin, end, first_panel * COLUMNS, least(s->outputs, last_panel * COLUMNS));
    } else if (s->operation == ATTENTION) {
        attention(r, s, begin_of(share, shares, s->key_heads), begin_of(share + 1, shares, s->key_heads),
                  r->scratch + share * r->scratch_bytes);
    } else {
        long rows = up(up(end - begin, shares) / shares, ROWS_OF_A_SHARE), first_row = begin + share * rows;
        run_rows(r, s, least(end, first_row), least(end, first_row + rows));
    }
}

static void run_step(const run *r, const step *s, long begin, long end) {
    long shares = r->company ? shares_of_step(r, s, end - begin) : 1;
    if (shares > 1)
        run_together(r->company, r, s, begin, end, (uint32_t)shares);
    else
        run_share(r, s, begin, end, 0, 1);
}

// Run the steps up to the next that takes all rows, block by block; returns the number of that step.
static int run_blocks(run *r, int begin, long rows) {
    int end = begin;
    while (end < r->plan->step_count && !takes_all(&r->plan->steps[end])) end++;
    for (r->first = 0; r->first < rows; r->first += r->plan->block)
        for (int i = begin; i < end; i++)
            run_step(r, &r->plan->steps[i], r->first, least(r->first + r->plan->block, rows));
    r->first = 0;
    return end;
}

static void run_steps(run *r) {
    long rows = r->batch->tokens;
    for (int i = 0; i < r->plan->step_count;) {
        const step *s = &r->plan->steps[i];
        if (!takes_all(s)) {
            i = run_blocks(r, i, rows);
            continue;
        }
        if (s->operation == ATTENTION) {
            run_step(r, s, 0, rows);
        } else {
            pool(r, s);
            rows = r->batch->texts;
        }
        i++;
    }
}

static void fill_positions(const batch *b, int32_t padding_id, int32_t *positions, int32_t *padded) {
    long row = 0;
    for (int text = 0; text < b->texts; text++) {
        int32_t own = 0;
        for (int32_t place = 0; place < b->lengths[text]; place++, row++) {
            int is_padding = b->input_ids[row] == padding_id;
            own += !is_padding;
            positions[row] = place;
            padded[row] = padding_id + (is_padding ? 0 : own);
        }
    }
}

static long rows_held(const plan *p, const slot *s, long tokens) {
    return s->is_local ? least(p->block, tokens) : tokens;
}

// The longest text of a batch; 0 where something beyond the model's positions or its ids would be read.
static long longest_of(const batch *b, int32_t positions, int32_t id_count) {
    long tokens = 0, longest = 0, beyond = 0;
    for (int text = 0; text < b->texts; text++) {
        if (b->lengths[text] < 1 || b->lengths[text] > positions) return 0;
        longest = most(longest, b->lengths[text]);
        tokens += b->lengths[text];
    }
    if (tokens != b->tokens) return 0;
    for (int token = 0; token < b->tokens; token++) beyond |= (uint32_t)b->input_ids[token] >= (uint32_t)id_count;
    return beyond ? 0 : longest;
}

enum { MOST_SCRATCHES = 8, ROOM_OF_SCRATCHES = 1 << 20 };

// How many shares attention may have: each needs a scratch of its own, and memory.py counts on their room. Of a long
// text there is one.
static long scratches_of(long bytes) { return most(1, least(MOST_SCRATCHES, ROOM_OF_SCRATCHES / bytes)); }

// Bytes of an arena, which begins at a multiple of 64, for a batch; −1 for one that the model cannot read.
EXPORT int64_t OF_THIS_PROCESSOR(arena_bytes)(const plan *p, const batch *b, int32_t positions, int32_t id_count) {
    long tokens = b->tokens, longest = longest_of(b, positions, id_count);
    if (!longest) return -1;
    long bytes = up(8L * p->slot_count, 64) + 2 * up(4 * tokens, 64);
    for (int i = 0; i < p->slot_count; i++) bytes += p->slots[i].row_bytes * rows_held(p, &p->slots[i], tokens);
    long scratch = attention_bytes(p->attention, longest, p->head);
    return bytes + scratch * scratches_of(scratch);
}

// Run a plan; the last step's result, F32 [texts, outputs], is copied to `vectors`. `company`: whose threads may help.
static void run_plan(const plan *p, const batch *b, char *arena, float *vectors, gang *company) {
    run r = {.plan = p, .batch = b, .slots = (char **)arena, .company = company};
    char *at = arena + up(8L * p->slot_count, 64);
    int32_t *positions = (int32_t *)at, *padded = (int32_t *)(at + up(4L * b->tokens, 64));
    at += 2 * up(4L * b->tokens, 64);
    for (int i = 0; i < p->slot_count; i++) {
        r.slots[i] = at;
        at += p->slots[i].row_bytes * rows_held(p, &p->slots[i], b->tokens);
    }
    r.positions = positions, r.padded = padded, r.scratch = at;
    long longest = 0;
    for (int text = 0; text < b->texts; text++) longest = most(longest, b->lengths[text]);
    r.scratch_bytes = attention_bytes(p->attention, longest, p->head);
    r.scratches = scratches_of(r.scratch_bytes);
    fill_positions(b, p->padding_id, positions, padded);
    run_steps(&r);
    const step *last = &p->steps[p->step_count - 1];
    rows_of result = rows_in(&r, last->out[F32]);
    for (long text = 0; text < b->texts; text++)
        for (long c = 0; c < last->outputs; c += 16)
            write_lanes(vectors + text * last->outputs + c, first(last->outputs - c),
                        load(row_at(result, text), c, last->outputs));
}

EXPORT void OF_THIS_PROCESSOR(run)(const plan *p, const batch *b, char *arena, float *vectors) {
    run_plan(p, b, arena, vectors, 0);
}

// To the nearest bf16, ties to even.
static uint32_t rounded(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    if (x != x) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static int32_t word_of(int32_t format, const char *row, long word) {
    int32_t bits;
    if (format == BF16) {
        const float *pair = (const float *)row + 2 * word;
        return (int32_t)(rounded(pair[0]) | rounded(pair[1]) << 16);
    }
    if (format == U8 && BYTE == 2) {
        const int8_t *pair = (const int8_t *)row + 2 * word;
        return (int32_t)((uint32_t)pair[1] << 16 | (uint16_t)pair[0]);
    }
    __builtin_memcpy(&bits, row + 4 * word, 4);
    return bits;
}

// Lay a weight [outputs, inputs] out as panels of COLUMNS outputs, the last as wide as needed: float32 for F32 and BF16, int8 for U8.
EXPORT void OF_THIS_PROCESSOR(pack)(int32_t format, const char *weight, int64_t outputs, int64_t inputs, int32_t *to) {
    long words = inputs / per_word[format], row_bytes = inputs * (format == U8 ? 1 : 4);
    for (long row = 0; row < up(outputs, 16); row++) {
        long panel = row / COLUMNS * COLUMNS, width = least(COLUMNS, up(outputs - panel, 16));
        int32_t *column = to + panel * words + row - panel;
        for (long word = 0; word < words; word++)
            column[word * width] = row < outputs ? word_of(format, weight + row * row_bytes, word) : 0;
    }
}

EXPORT int32_t OF_THIS_PROCESSOR(plan_version)(void) { return 7; }
EXPORT int64_t OF_THIS_PROCESSOR(sizes)(int32_t which) {
    const int64_t sizes[] = {sizeof(slot), sizeof(step), sizeof(plan), sizeof(batch), sizeof(task), sizeof(desk)};
    return which >= 0 && which < (int32_t)(sizeof sizes / sizeof *sizes) ? sizes[which] : 0;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
