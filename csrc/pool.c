/* SPDX-License-Identifier: MIT */
/* The team of pool.h on POSIX threads and C11 atomics; without them it has one member. */
#if !defined(_WIN32)
#    define _GNU_SOURCE
#    include <pthread.h>
#    include <sched.h>
#    include <stdatomic.h>
#endif

#include "clock.h"
#include "denormals.h"
#include "pool.h"

/* One share, with denormal numbers flushed to zero. */
static void do_share(fl_work work, void *arg, int share, int n) {
    const unsigned long long before = fl_flush_denormals();
    work(arg, share, n);
    fl_restore_denormals(before);
}

#if defined(_WIN32) /* one thread: every kernel works, none is shared */

void fl_team_share(int n, fl_work work, void *arg) {
    for (int k = 0; k < n; k++) do_share(work, arg, k, n);
}

void fl_team_together(int n, fl_work work, void *arg) {
    (void)n;
    do_share(work, arg, 0, 1);
}

int fl_team_barrier(int n, long long slack_ns) {
    (void)n, (void)slack_ns;
    return 0;
}

int fl_team_worth(int n, long long alone_ns) {
    (void)alone_ns;
    return n;
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
    SPINS = 2000,          /* about 40 us before a member sleeps or a waiting one yields */
    ENLIST_NS = 200000,    /* a sleeping member is there by then, if it gets a processor */
    CONGESTED_NS = 500000, /* a wait this long at a barrier: the other one has none */
    RECOVERY_NS = 2000000, /* how long nobody works together then; twice as long each time that */
    RECOVERIES = 5,        /* it happens again soon, up to this many times: 64 ms */
    BRIEF_NS = 100000,     /* work that waking sleeping members does not shorten */
    AGAIN_NS = 40000       /* between one work and the next that comes in quick succession */
};

typedef struct {
    pthread_t thread;
    unsigned seen; /* the job before its first */
    int asleep;    /* this and what follows: under the mutex `sleep` */
#    if defined(__linux__)
    int kept_off;      /* from the processor of a caller; */
    cpu_set_t allowed; /* then, where it may run otherwise */
#    endif
} fl_member;

static struct {
    pthread_mutex_t busy;  /* held while a job runs */
    pthread_mutex_t sleep; /* with `wake`: for members that have stopped spinning */
    pthread_cond_t wake;
    int members;                      /* threads created, without the caller's */
    atomic_int awake;                 /* of these */
    atomic_llong asked;               /* when brief work came last */
    fl_member member[FL_MAX_THREADS]; /* from 1 on */
    fl_work work;
    void *arg;
    int n;
    int together;
    atomic_uint job;       /* counts jobs: a member waits for it to change */
    atomic_uint open;      /* the job that members may enter, 0: none */
    atomic_int inside;     /* members that look at the job, or work on it */
    atomic_int next;       /* share or place to be taken next */
    atomic_int go;         /* together: how many start, 0: not yet known */
    atomic_int arrived;    /* at the barrier */
    atomic_uint passage;   /* counts passages of the barrier */
    atomic_llong recovery; /* nobody works together before this time; 0: it is over */
    atomic_llong again;    /* congestion before this time comes soon after the last */
    atomic_int doubled;    /* how often the recovery was, because it did */
} team = {
    .busy = PTHREAD_MUTEX_INITIALIZER,
    .sleep = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
};

/* A processor may be wanting for a moment, or for as long as another program runs: a short recovery
 * loses little of what a team brings, and where the next attempt fails, too, a long one has few
 * attempts, each of which costs a wait. */
static void mark_congested(void) {
    const long long now = fl_now_ns();
    int doubled = atomic_load(&team.doubled);
    doubled = now < atomic_load(&team.again) ? doubled + (doubled < RECOVERIES) : 0;
    const long long recovery = (long long)RECOVERY_NS << doubled;
    atomic_store(&team.doubled, doubled);
    atomic_store(&team.recovery, now + recovery);
    atomic_store(&team.again, now + 4 * recovery);
}

/* Spin, then yield. */
static void pause_for(int *spin) {
    if (++*spin < SPINS)
        SPIN_PAUSE();
    else
        sched_yield();
}

int fl_team_barrier(int n, long long slack_ns) {
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
    const long long start = fl_now_ns();
    while (atomic_load_explicit(&team.passage, memory_order_acquire) == passage) sched_yield();
    if (fl_now_ns() - start < CONGESTED_NS + slack_ns) return 0;
    mark_congested();
    return 1;
}

/* What a member does of an open job. */
static void take_part(void) {
    int share = atomic_fetch_add(&team.next, 1);
    if (!team.together) {
        for (; share < team.n; share = atomic_fetch_add(&team.next, 1))
            do_share(team.work, team.arg, share, team.n);
        return;
    }
    int go, spin = 0;
    while (!(go = atomic_load(&team.go))) pause_for(&spin);
    if (share < go) do_share(team.work, team.arg, share, go);
}

/* Members that sleep shall not start where the caller is: a scheduler wakes them there when it does
 * not know that the processors share a cache, as in many virtual machines, and one share waits for
 * the other beside a processor without work. Two shares of 500 us, every 5 ms, took 1075 us there,
 * kept off 605 us (2026-11). With `sleep` held. */
static void keep_off_caller(void) {
#    if defined(__linux__)
    const int cpu = sched_getcpu();
    for (int k = 1; k <= team.members; k++) {
        fl_member *m = &team.member[k];
        if (!m->asleep) continue;
        const int known =
            m->kept_off || !pthread_getaffinity_np(m->thread, sizeof m->allowed, &m->allowed);
        cpu_set_t others = m->allowed;
        CPU_CLR(cpu, &others);
        if (!known || CPU_COUNT(&others) == 0) continue;
        m->kept_off |= pthread_setaffinity_np(m->thread, sizeof others, &others) == 0;
    }
#    endif
}

/* Wait for the next job, with `sleep` held. */
static void fall_asleep(fl_member *m) {
    m->asleep = 1;
    atomic_fetch_sub(&team.awake, 1);
    pthread_cond_wait(&team.wake, &team.sleep);
    atomic_fetch_add(&team.awake, 1);
    m->asleep = 0;
#    if defined(__linux__)
    if (m->kept_off) pthread_setaffinity_np(pthread_self(), sizeof m->allowed, &m->allowed);
    m->kept_off = 0;
#    endif
}

static void *member(void *number) {
    fl_member *me = &team.member[(size_t)number];
    unsigned seen = me->seen;
    for (;;) {
        unsigned job = seen;
        for (int spin = 0; spin < SPINS && job == seen; spin++) {
            SPIN_PAUSE();
            job = atomic_load(&team.job);
        }
        if (job == seen) {
            pthread_mutex_lock(&team.sleep);
            while ((job = atomic_load(&team.job)) == seen) fall_asleep(me);
            pthread_mutex_unlock(&team.sleep);
        }
        seen = job;
        /* First inside, then look whether it is open; the caller closes, then looks inside: so one
         * of them sees the other, and a member that comes too late touches nothing. */
        atomic_fetch_add(&team.inside, 1);
        if (atomic_load(&team.open) == job) take_part();
        atomic_fetch_sub(&team.inside, 1);
    }
    return NULL;
}

static void forget_team(void) { /* in a forked child: its threads are gone */
    pthread_mutex_init(&team.busy, NULL);
    pthread_mutex_init(&team.sleep, NULL);
    pthread_cond_init(&team.wake, NULL);
    team.members = 0;
    atomic_store(&team.awake, 0);
    atomic_store(&team.open, 0);
    atomic_store(&team.inside, 0);
    atomic_store(&team.arrived, 0);
}

/* Have n - 1 members, or as many as can be had; returns the number of threads with the caller's. */
static int recruit(int n) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_team) == 0;
    while (registered && team.members < n - 1) {
        fl_member *new = &team.member[team.members + 1];
        *new = (fl_member){.seen = atomic_load(&team.job)};
        if (pthread_create(&new->thread, NULL, member, (void *)(size_t)(team.members + 1))) break;
        pthread_detach(new->thread);
        atomic_fetch_add(&team.awake, 1);
        team.members++;
    }
    return team.members + 1 < n ? team.members + 1 : n;
}

/* Publish a job. The caller holds `busy`, and nobody is inside. */
static void open_job(int n, fl_work work, void *arg, int together) {
    team.work = work;
    team.arg = arg;
    team.n = n;
    team.together = together;
    atomic_store(&team.next, 1);
    atomic_store(&team.go, 0);
    pthread_mutex_lock(&team.sleep);
    unsigned job = atomic_load(&team.job) + 1;
    if (job == 0) job = 1; /* 0 means that none is open */
    atomic_store(&team.open, job);
    atomic_store(&team.job, job);
    keep_off_caller();
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.sleep);
}

static void close_job(void) {
    int spin = 0;
    atomic_store(&team.open, 0);
    while (atomic_load(&team.inside)) pause_for(&spin);
    pthread_mutex_unlock(&team.busy);
}

static int team_is_mine(int *n) {
    if (*n > FL_MAX_THREADS) *n = FL_MAX_THREADS;
    if (*n <= 1 || pthread_mutex_trylock(&team.busy)) return 0;
    const int had = recruit(*n);
    if (had == 1) pthread_mutex_unlock(&team.busy);
    return had > 1;
}

void fl_team_share(int n, fl_work work, void *arg) {
    int threads = n;
    if (!team_is_mine(&threads)) {
        for (int k = 0; k < n; k++) do_share(work, arg, k, n);
        return;
    }
    open_job(n, work, arg, 0);
    do_share(work, arg, 0, n);
    for (int k; (k = atomic_fetch_add(&team.next, 1)) < n;) do_share(work, arg, k, n);
    close_job();
}

/* A call of one step of 64,256 with two threads takes 49 us in place of 110 where one comes every
 * ms (with one thread 48), 34 in place of 42 every 0.1 ms. One of 256,512, which is not brief,
 * takes 72 every 0.1 ms, 96 with one thread (Zen 3, 2026-11). */
int fl_team_worth(int n, long long alone_ns) {
    if (n <= 1 || alone_ns >= BRIEF_NS) return n;
    const long long now = fl_now_ns(), before = atomic_exchange(&team.asked, now);
    const int follows = now - before < AGAIN_NS + alone_ns;
    return follows || atomic_load(&team.awake) >= n - 1 ? n : 1;
}

void fl_team_together(int n, fl_work work, void *arg) {
    if (atomic_load_explicit(&team.recovery, memory_order_relaxed) > 0) {
        if (fl_now_ns() < atomic_load(&team.recovery))
            n = 1;
        else
            atomic_store(&team.recovery, 0);
    }
    if (!team_is_mine(&n)) {
        do_share(work, arg, 0, 1);
        return;
    }
    n = team.members + 1 < n ? team.members + 1 : n;
    open_job(n, work, arg, 1);
    long long start = 0;
    for (int spin = 1; atomic_load(&team.next) < n; spin++) {
        SPIN_PAUSE();
        if (spin % 256) continue;
        if (!start) start = fl_now_ns();
        if (fl_now_ns() - start < ENLIST_NS) continue;
        mark_congested();
        break;
    }
    atomic_store(&team.open, 0);
    const int enlisted = atomic_load(&team.next);
    const int go = enlisted < n ? enlisted : n;
    atomic_store(&team.go, go);
    do_share(work, arg, 0, go);
    close_job();
}

#endif
