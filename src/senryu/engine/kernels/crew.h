// A crew: threads that run what lies on a desk, one batch after the other, with no word of Python in between.
// Knows futexes and eventfds; what a batch computes is run_plan's.
#pragma once
#include "gang.h"
#include "unit.h"

#define PLACES 256  // of a desk; one is free again when its task was picked up or taken back

typedef struct {
    const plan *plan;
    const batch *batch;
    char *arena;
    float *vectors;
    int64_t began, ended;  // nanoseconds, CLOCK_MONOTONIC
    int32_t is_done;
    int32_t has_company;  // of threads that have nothing to do
} task;

typedef struct {
    uint64_t counts;         // how many were posted, and in the upper half how many of these were taken
    int32_t news, sleepers;  // what sleepers wait for: it counts tasks, and the end
    int32_t is_closed;
    int32_t bell;  // an eventfd, rung for every task that is done
    task *tasks[PLACES];
    gang gang;
} desk;

enum { HELPERS = 7 };  // that are woken for a batch without others

static uint32_t posted(uint64_t counts) { return (uint32_t)counts; }
static uint32_t taken(uint64_t counts) { return (uint32_t)(counts >> 32); }
static uint64_t counts_of(uint32_t posted, uint32_t taken) { return (uint64_t)taken << 32 | posted; }

static int change(desk *d, uint64_t *from, uint64_t to) {
    return __atomic_compare_exchange_n(&d->counts, from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static task **place_of(desk *d, uint32_t number) { return &d->tasks[number % PLACES]; }

// NOTE: which task lies there is read when its number is ours: until then it may be taken back and another posted.
static task *take(desk *d) {
    uint64_t seen = __atomic_load_n(&d->counts, __ATOMIC_SEQ_CST);
    while (taken(seen) != posted(seen))
        if (change(d, &seen, counts_of(posted(seen), taken(seen) + 1)))
            return __atomic_exchange_n(place_of(d, taken(seen)), 0, __ATOMIC_SEQ_CST);
    return 0;
}

static void tell(desk *d, int32_t sleepers) {
    __atomic_add_fetch(&d->news, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&d->sleepers, __ATOMIC_SEQ_CST))
        ask_system(FUTEX, (long)&d->news, FUTEX_WAKE_PRIVATE, sleepers, 0);
}

static void run_plan(const plan *p, const batch *b, char *arena, float *vectors, gang *company);

static void run_task(desk *d, task *t) {
    int64_t one = 1;
    gang *company = t->has_company && open_gang(&d->gang) ? &d->gang : 0;
    if (company) tell(d, HELPERS);
    t->began = now();
    run_plan(t->plan, t->batch, t->arena, t->vectors, company);
    if (company) close_gang(company);
    OF_THIS_PROCESSOR(to_length_1)(t->vectors, t->batch->texts, t->plan->steps[t->plan->step_count - 1].outputs);
    t->ended = now();
    __atomic_store_n(&t->is_done, 1, __ATOMIC_SEQ_CST);
    ask_system(WRITE, d->bell, (long)&one, sizeof one, 0);
}

static int is_empty(desk *d) {
    uint64_t seen = __atomic_load_n(&d->counts, __ATOMIC_SEQ_CST);
    return taken(seen) == posted(seen);
}

// Take shares of the batch that has company, until it is done or there is another one to run.
static void help(desk *d) {
    for (long looks = 1; is_open(&d->gang) && is_empty(d); looks++)
        if (!take_share(&d->gang)) look_again(looks);
}

// Run tasks until the desk is closed and empty.
EXPORT void OF_THIS_PROCESSOR(serve)(desk *d) {
    for (;;) {
        int32_t seen = __atomic_load_n(&d->news, __ATOMIC_SEQ_CST);
        task *t = take(d);
        if (t) {
            run_task(d, t);
        } else if (is_open(&d->gang)) {
            help(d);
        } else if (__atomic_load_n(&d->is_closed, __ATOMIC_SEQ_CST)) {
            return;
        } else {
            __atomic_add_fetch(&d->sleepers, 1, __ATOMIC_SEQ_CST);
            ask_system(FUTEX, (long)&d->news, FUTEX_WAIT_PRIVATE, seen, 0);
            __atomic_sub_fetch(&d->sleepers, 1, __ATOMIC_SEQ_CST);
        }
    }
}

// Lay a task on the desk, and tell the crew; 0: its place is not free yet. One thread posts and takes back.
EXPORT int32_t OF_THIS_PROCESSOR(post)(desk *d, task *t) {
    uint64_t seen = __atomic_load_n(&d->counts, __ATOMIC_SEQ_CST);
    task **place = place_of(d, posted(seen));
    if (__atomic_load_n(place, __ATOMIC_SEQ_CST)) return 0;
    __atomic_store_n(place, t, __ATOMIC_SEQ_CST);
    while (!change(d, &seen, counts_of(posted(seen) + 1, taken(seen)))) {}
    tell(d, 1);
    return 1;
}

// Take the task back that was posted last; 0: it has begun.
EXPORT int32_t OF_THIS_PROCESSOR(withdraw)(desk *d) {
    uint64_t seen = __atomic_load_n(&d->counts, __ATOMIC_SEQ_CST);
    while (taken(seen) != posted(seen))
        if (change(d, &seen, counts_of(posted(seen) - 1, taken(seen)))) {
            __atomic_store_n(place_of(d, posted(seen) - 1), 0, __ATOMIC_SEQ_CST);
            return 1;
        }
    return 0;
}

// Let the crew go when all is done.
EXPORT void OF_THIS_PROCESSOR(dismiss)(desk *d) {
    __atomic_store_n(&d->is_closed, 1, __ATOMIC_SEQ_CST);
    tell(d, 1 << 30);
}
