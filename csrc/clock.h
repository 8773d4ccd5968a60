/* SPDX-License-Identifier: MIT */
/* The time in nanoseconds since some moment, for waits and for how long a loop has run. */
#ifndef FL_CLOCK_H
#define FL_CLOCK_H

#include <time.h>

static inline long long fl_now_ns(void) {
    struct timespec t;
#if defined(_WIN32)
    timespec_get(&t, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

#endif
