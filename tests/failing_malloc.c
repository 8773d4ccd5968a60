/* SPDX-License-Identifier: MIT */
/* LD_PRELOAD: malloc and its siblings, of which the n-th from now on fails in this thread, once.
 * tests/test_memory.py builds it and counts n up. glibc only.
 *
 * Only blocks of LEAST bytes or more count, arrays, code and tables, and not those of OpenBLAS.
 * What was found with others: Cython 3.3.1 frees the item twice that a list comprehension could not
 * append; OpenBLAS 0.3.30 writes to NULL in its small products. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <string.h>

enum { LEAST = 512 };

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static __thread long countdown __attribute__((tls_model("initial-exec")));

/* This thread's: n = the n-th fails, 0 = none does or it has failed. Set in place, since a call
 * through ctypes allocates too. */
long *malloc_countdown(void) { return &countdown; }

size_t bytes_in_use(void) {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static int fails(size_t size, const void *caller) {
    Dl_info library;
    if (countdown == 0 || size < LEAST) return 0;
    if (dladdr(caller, &library) && strstr(library.dli_fname, "openblas")) return 0;
    if (--countdown > 0) return 0;
    errno = ENOMEM;
    return 1;
}

#define FAILS(size) fails(size, __builtin_return_address(0))

void *malloc(size_t size) { return FAILS(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return FAILS(n * size) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return FAILS(size) ? NULL : __libc_realloc(old, size); }
