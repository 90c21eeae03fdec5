// What a plan is made of: the structures that plan.py lays out, field by field, in the same order.
// Knows no model. Every pointer stays the caller's; every number is in the machine's own order.
#pragma once
#include <stdint.h>

enum format { F32, BF16, U8 };

enum operation {
    GATHER,
    ADD,
    ADD_ROW,
    MULTIPLY,
    SCALE,
    ACTIVATION,
    LINEAR,
    LAYER_NORM,
    RMS_NORM,
    ROTARY,
    NORMALIZE,
    CONVERT,
    ATTENTION,
    POOL,
};

// ROUGH_GELU stands in no plan: GELU is that where the result becomes eight bits and nothing else.
enum activation { IDENTITY, GELU, GELU_TANH, RELU, SILU, TANH, ROUGH_GELU };

enum pooling { MEAN, CLS, MAX, MEAN_SQRT_LEN, WEIGHTED_MEAN, LAST_TOKEN };

// What `index` of GATHER names.
enum ids { INPUT_IDS, POSITIONS, PADDED_POSITIONS };

// A tensor in the arena: rows of `row_bytes`, a multiple of 64. A local one holds the rows of one block alone.
typedef struct {
    int64_t row_bytes;
    int32_t is_local;
    int32_t padding;
} slot;

typedef struct {
    int32_t operation;
    int32_t in, in_format;
    int32_t second, third;  // slots of what is added, multiplied, or attended to; −1 where there is none
    int32_t out[3];         // slots of the result as F32, BF16 and U8; −1 where it is not wanted so
    int32_t inputs, outputs;  // widths
    int32_t activation;
    int32_t heads, key_heads;
    int32_t is_causal, window;  // window −1: none
    int32_t index;              // of GATHER; the pooling of POOL; of ATTENTION how far its bias reaches
    int32_t is_flagged;         // GATHER: the table is bf16; POOL: the prompt is left out
    float epsilon, factor;
    const void *weight;    // as pack lays it out; a table of GATHER; cosines of ROTARY
    const float *bias;     // filled up to a multiple of 64, as `scale`; of ATTENTION [heads, 2 · reach + 1]
    const float *scale;    // of int32 sums; sines of ROTARY
    const float *u8_scale; // U8 = x · scale + shift, by channel
    const float *u8_shift;
} step;

typedef struct {
    const step *steps;
    const slot *slots;
    int32_t step_count, slot_count;
    int32_t block;       // rows that run through consecutive steps together
    int32_t attention;   // format of queries, keys and values
    int32_t padding_id;  // of PADDED_POSITIONS, −1 where nothing asks for them
    int32_t head;        // the widest head
} plan;

typedef struct {
    const int32_t *input_ids;  // [tokens]
    const int32_t *lengths;    // [texts]
    const int32_t *prompts;    // [texts], how many leading tokens POOL leaves out, or NULL
    int32_t tokens, texts;
} batch;
