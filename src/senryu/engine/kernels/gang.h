// Company for a batch that runs while nothing else does: its steps are cut into shares, and threads without a batch of
// their own take some. Knows shares and how many were taken; what one computes is kernels.h's.
#pragma once
#include "plan.h"
#include "system.h"

struct run;

// The step that is under way. NOTE: numbered, so that a share is taken of the very step that was looked at.
typedef struct {
    uint64_t shares;  // its number in the upper half; below how many shares it has, and how many of them were taken
    int32_t done;     // of the shares
    int32_t is_open;
    const struct run *run;
    const step *step;
    int64_t begin, end;  // rows
} gang;

enum { MOST_SHARES = 24, PATIENCE = 100 };

static uint64_t numbered(uint32_t number, uint32_t count) { return (uint64_t)number << 32 | count << 16; }
static uint32_t number_of(uint64_t shares) { return (uint32_t)(shares >> 32); }
static uint32_t count_of(uint64_t shares) { return (uint32_t)shares >> 16; }
static uint32_t given(uint64_t shares) { return (uint32_t)shares & 0xffff; }

static void run_share(const struct run *r, const step *s, long begin, long end, long share, long shares);

// Compute a share that nobody has taken yet; 0: there is none.
static int take_share(gang *g) {
    uint64_t seen = __atomic_load_n(&g->shares, __ATOMIC_SEQ_CST);
    while (given(seen) < count_of(seen))
        if (__atomic_compare_exchange_n(&g->shares, &seen, seen + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            run_share(g->run, g->step, g->begin, g->end, given(seen), count_of(seen));
            __atomic_add_fetch(&g->done, 1, __ATOMIC_SEQ_CST);
            return 1;
        }
    return 0;
}

// NOTE: who is waited for may have lost its processor, to the thread that waits at worst.
static void look_again(long looks) {
    if (looks % PATIENCE)
        _mm_pause();
    else
        ask_system(SCHED_YIELD, 0, 0, 0, 0);
}

// Compute a step from row `begin` to before `end` with whoever helps, and return when all of it is done.
static void run_together(gang *g, const struct run *r, const step *s, long begin, long end, uint32_t shares) {
    g->run = r, g->step = s, g->begin = begin, g->end = end;
    __atomic_store_n(&g->done, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g->shares, numbered(number_of(g->shares) + 1, shares), __ATOMIC_SEQ_CST);
    while (take_share(g)) {}
    for (long looks = 1; __atomic_load_n(&g->done, __ATOMIC_SEQ_CST) < (int32_t)shares; looks++) look_again(looks);
}

// One batch at a time has company; 0: another one has it.
static int open_gang(gang *g) {
    int32_t closed = 0;
    return __atomic_compare_exchange_n(&g->is_open, &closed, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static int is_open(gang *g) { return __atomic_load_n(&g->is_open, __ATOMIC_SEQ_CST); }
static void close_gang(gang *g) { __atomic_store_n(&g->is_open, 0, __ATOMIC_SEQ_CST); }
