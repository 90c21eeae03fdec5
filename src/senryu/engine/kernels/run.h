// One run of a plan: where its tensors lie. Knows slots and blocks; no operation.
#pragma once
#include "gang.h"
#include "rows.h"

typedef struct run {
    const plan *plan;
    const batch *batch;
    char **slots;  // where each begins
    const int32_t *positions, *padded;
    char *scratch;  // of attention: one for each of its shares
    long scratch_bytes, scratches;
    gang *company;  // NULL where this thread does all of it
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
