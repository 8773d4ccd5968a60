/* SPDX-License-Identifier: MIT */
/* The team of pool.h on POSIX threads and C11 atomics; without them it has one member. */
#if !defined(_WIN32)
#    define _GNU_SOURCE
#    include <pthread.h>
#    include <sched.h>
#    include <stdatomic.h>
#    include <time.h>
#endif

#include "pool.h"

#if defined(_WIN32) /* one thread: every kernel works, none is shared */

void fl_team_run(int n, fl_work work, void *arg) {
    (void)n;
    work(arg, 0, 1);
}

int fl_team_barrier(int n) {
    (void)n;
    return 0;
}

#else

#    if defined(__x86_64__) || defined(__i386__)
#        define SPIN_PAUSE() __builtin_ia32_pause()
#    elif defined(__aarch64__)
#        define SPIN_PAUSE() __asm__ volatile("yield")
#    else
#        define SPIN_PAUSE() ((void)0)
#    endif

enum {
    SPINS = 2000,         /* about 50 us: a step is shorter when both threads run */
    CONGESTED_NS = 500000 /* a wait this long means that the other thread was not running */
};

static struct {
    pthread_mutex_t busy;  /* held while a job runs */
    pthread_mutex_t sleep; /* with `wake`: for members that have stopped spinning */
    pthread_cond_t wake;
    int members; /* threads created, without the caller's */
    unsigned seen[FL_MAX_THREADS]; /* the job before a member's first */
    fl_work work;
    void *arg;
    int n;
    atomic_uint job;     /* counts jobs: a member waits for it to change */
    atomic_int running;  /* members that have not finished the job */
    atomic_int arrived;  /* at the barrier */
    atomic_uint passage; /* counts passages of the barrier */
} team = {
    .busy = PTHREAD_MUTEX_INITIALIZER,
    .sleep = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
};

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int fl_team_barrier(int n) {
    if (n == 1) return 0;
    const unsigned passage = atomic_load_explicit(&team.passage, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team.arrived, 1, memory_order_acq_rel) == n - 1) {
        atomic_store_explicit(&team.arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team.passage, passage + 1, memory_order_release);
        return 0;
    }
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&team.passage, memory_order_acquire) != passage) return 0;
        SPIN_PAUSE();
    }
    const long long start = now_ns();
    while (atomic_load_explicit(&team.passage, memory_order_acquire) == passage) sched_yield();
    return now_ns() - start > CONGESTED_NS;
}

static void *member(void *number) {
    const int thread = (int)(size_t)number;
    unsigned seen = team.seen[thread];
    for (;;) {
        unsigned job = seen;
        for (int spin = 0; spin < SPINS && job == seen; spin++) {
            job = atomic_load_explicit(&team.job, memory_order_acquire);
            SPIN_PAUSE();
        }
        if (job == seen) {
            pthread_mutex_lock(&team.sleep);
            while ((job = atomic_load_explicit(&team.job, memory_order_acquire)) == seen)
                pthread_cond_wait(&team.wake, &team.sleep);
            pthread_mutex_unlock(&team.sleep);
        }
        seen = job;
        if (thread < team.n) team.work(team.arg, thread, team.n);
        atomic_fetch_sub_explicit(&team.running, 1, memory_order_release);
    }
    return NULL;
}

static void forget_team(void) { /* in a forked child: its threads are gone */
    pthread_mutex_init(&team.busy, NULL);
    pthread_mutex_init(&team.sleep, NULL);
    pthread_cond_init(&team.wake, NULL);
    team.members = 0;
    atomic_store(&team.job, 0);
    atomic_store(&team.running, 0);
    atomic_store(&team.arrived, 0);
}

/* Have n - 1 members; returns how many threads there are with the caller's. Nobody is working. */
static int recruit(int n) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_team) == 0;
    while (registered && team.members < n - 1) {
        pthread_t thread;
        team.seen[team.members + 1] = atomic_load(&team.job);
        if (pthread_create(&thread, NULL, member, (void *)(size_t)(team.members + 1))) break;
        pthread_detach(thread);
        team.members++;
    }
    return team.members + 1 < n ? team.members + 1 : n;
}

void fl_team_run(int n, fl_work work, void *arg) {
    if (n > FL_MAX_THREADS) n = FL_MAX_THREADS;
    if (n <= 1 || pthread_mutex_trylock(&team.busy)) {
        work(arg, 0, 1);
        return;
    }
    n = recruit(n);
    team.work = work;
    team.arg = arg;
    team.n = n;
    atomic_store_explicit(&team.running, team.members, memory_order_relaxed);
    pthread_mutex_lock(&team.sleep);
    atomic_fetch_add_explicit(&team.job, 1, memory_order_release);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.sleep);
    work(arg, 0, n);
    for (int spin = 0; atomic_load_explicit(&team.running, memory_order_acquire); spin++) {
        if (spin < SPINS)
            SPIN_PAUSE();
        else
            sched_yield();
    }
    pthread_mutex_unlock(&team.busy);
}

#endif
