/* SPDX-License-Identifier: MIT */
/* Random bits for the drivers: the same on every machine. */
#ifndef FL_TEST_RANDOM_H
#define FL_TEST_RANDOM_H

#include <stdint.h>

static uint64_t random_bits(void) { /* splitmix64 */
    static uint64_t state = 2026;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
