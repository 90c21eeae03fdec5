// Vectors brought to length 1, with the bits that outputs.normalise gives. Knows the order in which NumPy sums up.
#pragma once
#include "rows.h"

#define SIDES 8     // sums side by side, of a stretch of at most
#define STRETCH 128

// The sum of the squares, in halves of halves.
static float squared_length(const float *x, long count) {
    if (count > STRETCH) {
        long half = count / 2 - count / 2 % SIDES;
        return squared_length(x, half) + squared_length(x + half, count - half);
    }
    float sums[SIDES] = {0}, sum = 0;
    long place = 0;
    for (; place + SIDES <= count; place += SIDES)
        for (int side = 0; side < SIDES; side++) sums[side] += x[place + side] * x[place + side];
    sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    for (; place < count; place++) sum += x[place] * x[place];
    return sum;
}

// Divide each of the vectors [texts, width] by its length. Zeros stay; where that is no finite number all is NaN.
EXPORT void OF_THIS_PROCESSOR(to_length_1)(float *vectors, int64_t texts, int64_t width) {
    for (float *x = vectors; x < vectors + texts * width; x += width) {
        float length = root(squared_length(x, width)), shortest = 1e-12f;
        floats divisor = splat(length > shortest ? length : shortest);
        if (!(length < INFINITE)) divisor = splat(__builtin_nanf(""));
        for (long c = 0; c < width; c += 16) {
            lanes these = first(width - c);
            write_lanes(x + c, these, divide(read_lanes(these, x + c), divisor));
        }
    }
}
