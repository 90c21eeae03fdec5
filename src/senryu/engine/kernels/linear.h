// A linear layer over a block of rows: tiles, and what is done to their sums before they are stored.
// Knows packed weights and formats; no neighbouring layer.
#pragma once
#include "run.h"
#include "tiles.h"

// What is done with the sums of a tile before they are stored: (activation(sum · scale + bias) · third) + second.
typedef struct {
    const step *step;
    const store *to;
    rows_of added, factors;
} ending;

INLINE floats scaled(const step *s, floats sum, long column) {
    if (s->in_format == U8) {
        floats bias = s->bias ? read(s->bias + column) : splat(0.0f);
        return multiply_add(from_integers(sum), read(s->scale + column), bias);
    }
    return s->bias ? add(sum, read(s->bias + column)) : sum;
}

INLINE floats merged(const ending *e, floats x, long column, lanes mask, long row) {
    if (e->factors.base) x = multiply(x, read_lanes(mask, row_at(e->factors, row) + column));
    if (e->added.base) x = add(x, read_lanes(mask, row_at(e->added, row) + column));
    return x;
}

INLINE void activate_vectors(int activation, floats *x, int vectors) {
    switch (activation) {
        case GELU: gelus(x, vectors); break;
        case ROUGH_GELU: rough_gelus(x, vectors); break;
        default:
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) x[v] = activate(activation, x[v]);
    }
}

INLINE void end_vectors(const ending *e, int activation, int vectors, const float *block, long begin, long end,
                        long column) {
    for (long row = begin; row < end; row++, block += COLUMNS) {
        floats x[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[v] = scaled(e->step, read(block + v * 16), column + v * 16);
        activate_vectors(activation, x, vectors);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[v] = merged(e, x[v], column + v * 16, first(16), row);
        store_vectors(e->to, row, column, x, vectors);
    }
}

// NOTE: a vector alone waits for each term of its activation, so what is left of a panel goes by two as long as it can.
INLINE void end_tile(const ending *e, int activation, const float *block, long begin, long end, long column) {
    long width = e->step->outputs, last = least(width, column + COLUMNS);
    if (column + COLUMNS == last) {
        end_vectors(e, activation, VECTORS, block, begin, end, column);
        return;
    }
    for (; VECTORS > 2 && column + 32 <= last; column += 32, block += 32)
        end_vectors(e, activation, 2, block, begin, end, column);
    for (long row = begin; row < end; row++, block += COLUMNS)
        for (long c = column; c < last; c += 16) {
            floats x = activate(activation, scaled(e->step, read(block + c - column), c));
            store_vector(e->to, row, c, width, merged(e, x, c, first(width - c), row));
        }
}

// NOTE: an activation chosen in the innermost loop would be chosen for every vector.
static void end_tile_by_activation(const ending *e, const float *block, long begin, long end, long column) {
    int activation = activation_of(e->step, e->to);
    switch (activation) {
        case IDENTITY: end_tile(e, IDENTITY, block, begin, end, column); break;
        case GELU: end_tile(e, GELU, block, begin, end, column); break;
        case ROUGH_GELU: end_tile(e, ROUGH_GELU, block, begin, end, column); break;
        default: end_tile(e, activation, block, begin, end, column);
    }
}

// NOTE: the last two tiles share what is left, because a tile of one row alone waits for its sums.
static long tile_end(long row, long end) {
    long left = end - row;
    return left > ROWS && left < 2 * ROWS ? row + (left + 1) / 2 : least(row + ROWS, end);
}

// The outputs from `first_panel` to before `last_panel`, which begin panels, of rows `begin` to before `end`.
static void linear(const run *r, const step *s, const store *to, long begin, long end, long first_panel,
                   long last_panel) {
    rows_of in = rows_in(r, s->in);
    ending e = {s, to, rows_in(r, s->second), rows_in(r, s->third)};
    long words = s->inputs / per_word[s->in_format];
    float block[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long panel = first_panel; panel < last_panel; panel += COLUMNS) {
        const floats *weight = (const floats *)((const char *)s->weight + panel * words * 4);
        long vectors = least(COLUMNS, up(s->outputs - panel, 16)) / 16;
        for (long row = begin, next; row < end; row = next) {
            next = tile_end(row, end);
            tiles[s->in_format][next - row - 1][vectors - 1]((const int32_t *)(in.base + row * in.stride),
                                                            in.stride / 4, weight, words, block);
            end_tile_by_activation(&e, block, row, next, panel);
        }
    }
}
