// Runs a plan over a batch of texts laid end to end: steps that take rows by themselves block by block, so that a
// block stays in the cache, attention text by text. One call runs on one thread, allocates nothing and keeps nothing.
//
// Knows the machine (x86-64 with AVX-512) and plan.h; nothing of models, files or Python.
#include "plan.h"
#include "rows.h"
#include "attention.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    const plan *plan;
    const batch *batch;
    char **slots;  // where each begins
    const int32_t *positions, *padded;
    char *scratch;
    long first;  // the first row of the block that runs, which a local slot holds at its beginning
} run;

static rows_of rows_in(const run *r, int32_t number) {
    if (number < 0) return (rows_of){0, 0};
    const slot *of = &r->plan->slots[number];
    return (rows_of){r->slots[number] - (of->is_local ? r->first * of->row_bytes : 0), of->row_bytes};
}

static store results_of(const run *r, const step *s) {
    store to = {.u8_scale = s->u8_scale, .u8_shift = s->u8_shift};
    for (int format = F32; format <= U8; format++) {
        rows_of rows = rows_in(r, s->out[format]);
        to.out[format] = (char *)rows.base;
        to.stride[format] = rows.stride;
    }
    return to;
}

// What is done with the sums of a tile before they are stored: (activation(sum · scale + bias) · third) + second.
typedef struct {
    const step *step;
    const store *to;
    rows_of added, factors;
} ending;

INLINE __m512 finished(const ending *e, int activation, __m512 sum, long column, __mmask16 mask, long row) {
    const step *s = e->step;
    if (s->in_format == U8) sum = _mm512_cvtepi32_ps(_mm512_castps_si512(sum));
    if (s->scale) sum = _mm512_mul_ps(sum, _mm512_loadu_ps(s->scale + column));
    if (s->bias) sum = _mm512_add_ps(sum, _mm512_loadu_ps(s->bias + column));
    sum = activate(activation, sum);
    if (e->factors.base) sum = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(mask, row_at(e->factors, row) + column));
    if (e->added.base) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, row_at(e->added, row) + column));
    return sum;
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

INLINE void end_tile(const ending *e, int activation, const float *block, long begin, long end, long column) {
    long width = e->step->outputs;
    if (column + COLUMNS <= width) {
        for (long row = begin; row < end; row++, block += COLUMNS) {
            __m512 x[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                x[v] = finished(e, activation, _mm512_load_ps(block + v * 16), column + v * 16, 0xffff, row);
            store_panel(e->to, row, column, x);
        }
        return;
    }
    for (long row = begin; row < end; row++, block += COLUMNS)
        for (long c = column; c < width; c += 16)
            store_vector(e->to, row, c, width,
                         finished(e, activation, _mm512_load_ps(block + c - column), c, first(width - c), row));
}

// NOTE: an activation chosen in the innermost loop would be chosen for every vector.
static void end_tile_by_activation(const ending *e, const float *block, long begin, long end, long column) {
    switch (e->step->activation) {
        case IDENTITY: end_tile(e, IDENTITY, block, begin, end, column); break;
        case GELU: end_tile(e, GELU, block, begin, end, column); break;
        default: end_tile(e, e->step->activation, block, begin, end, column);
    }
}

// NOTE: the last two tiles share what is left, because a tile of one row alone waits for its sums.
static long tile_end(long row, long end) {
    long left = end - row;
    return left > ROWS && left < 2 * ROWS ? row + (left + 1) / 2 : least(row + ROWS, end);
}

static void linear(const run *r, const step *s, const store *to, long begin, long end) {
    rows_of in = rows_in(r, s->in);
    ending e = {s, to, rows_in(r, s->second), rows_in(r, s->third)};
    long words = s->inputs / per_word[s->in_format];
    float block[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long panel = 0; panel < s->outputs; panel += COLUMNS) {
        const __m512i *weight = (const __m512i *)((const char *)s->weight + panel * words * 4);
        for (long row = begin, next; row < end; row = next) {
            next = tile_end(row, end);
            tiles[s->in_format][next - row - 1][VECTORS - 1]((const int32_t *)(in.base + row * in.stride),
                                                            in.stride / 4, weight, words, block);
            end_tile_by_activation(&e, block, row, next, panel);
        }
    }
}

static void attention(const run *r, const step *s) {
    const batch *b = r->batch;
    int format = s->in_format;
    rows_of queries = rows_in(r, s->in), keys = rows_in(r, s->second), values = rows_in(r, s->third);
    store to = results_of(r, s);
    long head = s->inputs / s->heads, shared = s->heads / s->key_heads, first_row = 0;
    for (int text = 0; text < b->texts; first_row += b->lengths[text++]) {
        attention_scratch scratch = attention_layout(r->scratch, format, b->lengths[text], head);
        for (long number = 0; number < s->heads; number++) {
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
    __m512 top = splat(-3.4e38f);
    for (long token = share.begin; token < share.end; token++)
        top = _mm512_max_ps(top, load(row_at(in, first_row + token), c, width));
    return top;
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
        case LINEAR: linear(r, s, &to, begin, end); break;
        case LAYER_NORM: layer_norm(s, in, &to, begin, end); break;
        case RMS_NORM: rms_norm(s, in, &to, begin, end); break;
        case ROTARY: rotary(s, in, r->positions, &to, begin, end); break;
        case NORMALIZE: normalize(s, in, &to, begin, end); break;
        default: combine(s, in, rows_in(r, s->second), &to, begin, end);
    }
}

static int takes_all(const step *s) { return s->operation == ATTENTION || s->operation == POOL; }

// Run the steps up to the next that takes all rows, block by block; returns the number of that step.
static int run_blocks(run *r, int begin, long rows) {
    int end = begin;
    while (end < r->plan->step_count && !takes_all(&r->plan->steps[end])) end++;
    for (r->first = 0; r->first < rows; r->first += r->plan->block)
        for (int i = begin; i < end; i++)
            run_rows(r, &r->plan->steps[i], r->first, least(r->first + r->plan->block, rows));
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
            attention(r, s);
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

// Bytes of an arena, which begins at a multiple of 64, for so many tokens, none of the texts longer than `longest`.
EXPORT int64_t senryu_arena_bytes(const plan *p, int64_t tokens, int64_t longest) {
    long bytes = up(8L * p->slot_count, 64) + 2 * up(4 * tokens, 64);
    for (int i = 0; i < p->slot_count; i++) bytes += p->slots[i].row_bytes * rows_held(p, &p->slots[i], tokens);
    return bytes + attention_bytes(p->attention, longest, p->head);
}

// Run a plan; the last step's result, F32 [texts, outputs], is copied to `vectors`.
EXPORT void senryu_run(const plan *p, const batch *b, char *arena, float *vectors) {
    run r = {.plan = p, .batch = b, .slots = (char **)arena};
    char *at = arena + up(8L * p->slot_count, 64);
    int32_t *positions = (int32_t *)at, *padded = (int32_t *)(at + up(4L * b->tokens, 64));
    at += 2 * up(4L * b->tokens, 64);
    for (int i = 0; i < p->slot_count; i++) {
        r.slots[i] = at;
        at += p->slots[i].row_bytes * rows_held(p, &p->slots[i], b->tokens);
    }
    r.positions = positions, r.padded = padded, r.scratch = at;
    fill_positions(b, p->padding_id, positions, padded);
    run_steps(&r);
    const step *last = &p->steps[p->step_count - 1];
    rows_of result = rows_in(&r, last->out[F32]);
    for (long text = 0; text < b->texts; text++)
        for (long c = 0; c < last->outputs; c += 16)
            _mm512_mask_storeu_ps(vectors + text * last->outputs + c, first(last->outputs - c),
                                  load(row_at(result, text), c, last->outputs));
}

static uint16_t rounded(float x) {
    uint16_t low[16];
    _mm256_storeu_si256((__m256i *)low, to_bf16(splat(x)));
    return low[0];
}

// Lay a weight [outputs, inputs], rows `stride` numbers apart, out as panels of 64 outputs; `codes` are int8.
EXPORT void senryu_pack(int32_t format, const void *weight, int64_t outputs, int64_t inputs, int64_t stride, char *to) {
    long per = per_word[format], words = inputs / per;
    for (long panel = 0; panel < outputs; panel += COLUMNS)
        for (long word = 0; word < words; word++, to += 4 * COLUMNS)
            for (long column = 0; column < COLUMNS * per; column++) {
                long row = panel + column / per, at = row * stride + word * per + column % per;
                int is_there = row < outputs;
                if (format == U8) ((int8_t *)to)[column] = is_there ? ((const int8_t *)weight)[at] : 0;
                if (format == F32) ((float *)to)[column] = is_there ? ((const float *)weight)[at] : 0.0f;
                if (format == BF16) ((uint16_t *)to)[column] = is_there ? rounded(((const float *)weight)[at]) : 0;
            }
}

EXPORT int32_t senryu_plan_version(void) { return 1; }
EXPORT int64_t senryu_sizes(int32_t which) {
    const int64_t sizes[] = {sizeof(slot), sizeof(step), sizeof(plan), sizeof(batch)};
    return sizes[which & 3];
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
