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

static floats greatest_of(rows_of in, long first_row, share_of_text share, long c, long width) {
    floats top = splat(-INFINITE);
    lanes unordered = first(0);
    for (long token = share.begin; token < share.end; token++) {
        floats x = load(row_at(in, first_row + token), c, width);
        unordered = either(unordered, is_nan(x));
        top = greater(top, x);
    }
    return choose(unordered, splat(__builtin_nanf("")), top);
}

static floats mean_of(rows_of in, long first_row, share_of_text share, long c, long width) {
    doubles sums = no_sums();
    for (long token = share.begin; token < share.end; token++)
        sums = multiply_add_doubles(share.level + share.slope * (double)token,
                                    load(row_at(in, first_row + token), c, width), sums);
    return quotients(sums, share.divisor);
}

static void pool(const run *r, const step *s) {
    rows_of in = rows_in(r, s->in);
    store to = results_of(r, s);
    long first_row = 0;
    for (int text = 0; text < r->batch->texts; first_row += r->batch->lengths[text++]) {
        share_of_text share = share_of(s, r->batch, text);
        for (long c = 0; c < s->outputs; c += 16) {
            floats x = splat(0.0f);
            if (share.begin < share.end)
                x = s->index == MAX ? greatest_of(in, first_row, share, c, s->outputs)
                                    : mean_of(in, first_row, share, c, s->outputs);
            store_vector(&to, text, c, s->outputs, x);
        }
    }
}
