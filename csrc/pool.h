/* SPDX-License-Identifier: MIT */
/* One team of threads for the process: woken once for a sequence, not once for a step.
 *
 * fl_team_share    work(arg, k, n) for all shares 0 <= k < n, in any order, by whoever is free: the
 *                  caller does share 0 and then every share that no member has begun. So nobody is
 *                  waited for who has no processor.
 * fl_team_together work(arg, k, n) for all 0 <= k < n at the same time, k = 0 in the calling
 *                  thread. They may wait for each other with fl_team_barrier. n is what could be
 *                  had: members that do not come at once are left out, so `work` must do its whole
 *                  job for any n. When a barrier has found that processors are wanting, n is 1 for
 *                  a while.
 *
 * fl_team_worth    how many of n threads to ask for where one alone would take about so long: one,
 *                  if the others sleep and waking them would take longer; but where such work comes
 *                  in quick succession they are woken, and will be there for the next.
 *
 * The first two return when all is done. The team serves one caller at a time; another one that
 * comes meanwhile (from a thread or from inside `work`) does its work alone.
 *
 * fl_team_barrier spins for a bounded time, then yields. It returns 1 where the wait was so long
 * that processors are wanting: the job had better go on with one thread. slack_ns: how much later
 * than usual that is, where the work between two barriers takes long and so may differ by more.
 *
 * While it works a thread flushes denormal numbers to zero (denormals.h); its mode is restored.
 *
 * Members that sleep are woken on other processors than the caller's, within what they may use.
 *
 * A forked child starts without a team and makes its own when it needs one. */
#ifndef FL_POOL_H
#define FL_POOL_H

#include <stddef.h>

enum { FL_MAX_THREADS = 256 };

typedef void (*fl_work)(void *arg, int share, int n);

/* A flag that one thread raises, once, and others look at while they work. */
static inline void fl_raise_flag(int *flag) {
#if defined(_MSC_VER)
    *(volatile int *)flag = 1;
#else
    __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
#endif
}

static inline int fl_flag_is_up(const int *flag) {
#if defined(_MSC_VER)
    return *(const volatile int *)flag;
#else
    return __atomic_load_n(flag, __ATOMIC_RELAXED);
#endif
}

/* The step after which something happens, as threads say to each other: it only comes nearer. */
static inline ptrdiff_t fl_mark(const ptrdiff_t *mark) {
#if defined(_MSC_VER)
    return *(const volatile ptrdiff_t *)mark;
#else
    return __atomic_load_n(mark, __ATOMIC_RELAXED);
#endif
}

static inline void fl_bring_mark(ptrdiff_t *mark, ptrdiff_t step) {
    if (fl_mark(mark) <= step) return;
#if defined(_MSC_VER)
    *(volatile ptrdiff_t *)mark = step;
#else
    __atomic_store_n(mark, step, __ATOMIC_RELAXED);
#endif
}

void fl_team_share(int n, fl_work work, void *arg);
void fl_team_together(int n, fl_work work, void *arg);
int fl_team_barrier(int n, long long slack_ns);
int fl_team_worth(int n, long long alone_ns);

#endif
