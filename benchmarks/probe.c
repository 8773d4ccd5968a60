/* SPDX-License-Identifier: MIT
 * What this machine can do: FMA peak and read bandwidth of each cache, on n threads at once.
 *
 *     probe THREADS SLOTS L1_BYTES L2_BYTES L3_BYTES   ->   one line of JSON
 *
 * The sizes are what each thread reads over and over: about half of its L1, half of its L2, its
 * share of L3. One kernel text (GCC's vector extension), compiled for AVX-512, AVX2 and the
 * baseline; CPUID chooses. Every figure is the best of SLOTS slots of a few milliseconds: other
 * processes only ever slow it down.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLOT_SECONDS 0.004

typedef struct {
    double (*fma32)(long rounds); /* a checksum, so that nothing is optimised away */
    double (*fma64)(long rounds);
    double (*read)(const float *data, size_t bytes, long rounds);
    double flops_per_round32, flops_per_round64;
    const char *isa;
} Kernels;

static volatile float one = 1.0f, small = 1e-7f; /* opaque to the compiler */

/* 12 independent chains: 2 FMA units x 4 cycles of latency need 8; 16 registers hold 12 and 2 more.
 */
#define CHAINS 12
#define FMA_KERNEL(NAME, TARGET, REAL, WIDTH)                                                      \
    TARGET static double NAME(long rounds) {                                                       \
        typedef REAL vec __attribute__((vector_size(WIDTH)));                                      \
        const vec factor = (vec){0} + (REAL)one, add = (vec){0} + (REAL)small;                     \
        vec a0 = add, a1 = a0 + add, a2 = a1 + add, a3 = a2 + add, a4 = a3 + add, a5 = a4 + add,   \
            a6 = a5 + add, a7 = a6 + add, a8 = a7 + add, a9 = a8 + add, a10 = a9 + add,            \
            a11 = a10 + add; /* all different, or they are computed once */                        \
        for (long r = 0; r < rounds; r++) {                                                        \
            a0 = a0 * factor + add, a1 = a1 * factor + add, a2 = a2 * factor + add;                \
            a3 = a3 * factor + add, a4 = a4 * factor + add, a5 = a5 * factor + add;                \
            a6 = a6 * factor + add, a7 = a7 * factor + add, a8 = a8 * factor + add;                \
            a9 = a9 * factor + add, a10 = a10 * factor + add, a11 = a11 * factor + add;            \
        }                                                                                          \
        const vec sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;               \
        return (double)sum[0];                                                                     \
    }

#define READ_KERNEL(NAME, TARGET, WIDTH)                                                           \
    TARGET static double NAME(const float *data, size_t bytes, long rounds) {                      \
        typedef float vec __attribute__((vector_size(WIDTH)));                                     \
        const size_t n = bytes / WIDTH / 8 * 8;                                                    \
        vec s0 = {0}, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;               \
        for (long r = 0; r < rounds; r++) {                                                        \
            const vec *v = (const vec *)data;                                                      \
            for (size_t k = 0; k < n; k += 8) {                                                    \
                s0 += v[k], s1 += v[k + 1], s2 += v[k + 2], s3 += v[k + 3];                        \
                s4 += v[k + 4], s5 += v[k + 5], s6 += v[k + 6], s7 += v[k + 7];                    \
            }                                                                                      \
        }                                                                                          \
        const vec sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;                                     \
        return (double)sum[0];                                                                     \
    }

#define KERNELS(ISA, TARGET, WIDTH)                                                                \
    FMA_KERNEL(fma32_##ISA, TARGET, float, WIDTH)                                                  \
    FMA_KERNEL(fma64_##ISA, TARGET, double, WIDTH)                                                 \
    READ_KERNEL(read_##ISA, TARGET, WIDTH)                                                         \
    static const Kernels kernels_##ISA = {fma32_##ISA,                                             \
                                          fma64_##ISA,                                             \
                                          read_##ISA,                                              \
                                          2.0 * CHAINS * (WIDTH) / 4,                              \
                                          2.0 * CHAINS * (WIDTH) / 8,                              \
                                          #ISA};

KERNELS(baseline, , 16)
#if defined(__x86_64__)
KERNELS(avx512, __attribute__((target("avx512f"))), 64)
KERNELS(avx2, __attribute__((target("avx2,fma"))), 32)
#endif

static const Kernels *choose(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return &kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kernels_avx2;
#endif
    return &kernels_baseline;
}

typedef enum { FMA32, FMA64, READ } Job;

typedef struct {
    const Kernels *kernels;
    const float *data;
    size_t bytes;
    Job job;
    int slots;
    pthread_barrier_t *barrier;
    double best; /* out: flops or bytes per second */
    double checksum;
} Task;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double work(Task *task, long rounds) {
    switch (task->job) {
    case FMA32:
        task->checksum += task->kernels->fma32(rounds);
        return task->kernels->flops_per_round32 * (double)rounds;
    case FMA64:
        task->checksum += task->kernels->fma64(rounds);
        return task->kernels->flops_per_round64 * (double)rounds;
    default:
        task->checksum += task->kernels->read(task->data, task->bytes, rounds);
        return (double)task->bytes * (double)rounds;
    }
}

static void *measure(void *argument) {
    Task *task = argument;
    long rounds = 1;
    for (;;) { /* as many rounds as fill a slot; this also warms up clock and caches */
        const double start = seconds();
        work(task, rounds);
        if (seconds() - start > SLOT_SECONDS) break;
        rounds *= 2;
    }
    pthread_barrier_wait(task->barrier); /* all threads at once: caches and power are shared */
    for (int slot = 0; slot < task->slots; slot++) {
        const double start = seconds(), done = work(task, rounds);
        const double rate = done / (seconds() - start);
        if (rate > task->best) task->best = rate;
    }
    return NULL;
}

static void fail(const char *what) {
    fprintf(stderr, "probe: cannot %s\n", what);
    exit(1);
}

/* The sum over threads of each one's best rate, in units of 1e9 a second. */
static double total_rate(const Kernels *kernels, Job job, int threads, int slots, size_t bytes) {
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    Task *tasks = calloc((size_t)threads, sizeof *tasks);
    pthread_barrier_t barrier;
    if (!ids || !tasks) fail("allocate");
    if (pthread_barrier_init(&barrier, NULL, (unsigned)threads)) fail("make a barrier");
    for (int k = 0; k < threads; k++) {
        void *data = NULL;
        if (job == READ) {
            if (posix_memalign(&data, 4096, bytes)) fail("allocate");
            memset(data, 0, bytes);
        }
        tasks[k] = (Task){kernels, data, bytes, job, slots, &barrier, 0, 0};
    }
    for (int k = 1; k < threads; k++)
        if (pthread_create(&ids[k], NULL, measure, &tasks[k])) fail("start a thread");
    measure(&tasks[0]);
    double sum = 0;
    volatile double used = 0; /* or the kernels are optimised away */
    for (int k = 0; k < threads; k++) {
        if (k) pthread_join(ids[k], NULL);
        sum += tasks[k].best;
        used += tasks[k].checksum;
        free((void *)tasks[k].data);
    }
    pthread_barrier_destroy(&barrier);
    free(tasks);
    free(ids);
    return sum / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: probe THREADS SLOTS L1_BYTES L2_BYTES L3_BYTES\n");
        return 2;
    }
    const int threads = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    const int slots = atoi(argv[2]) > 0 ? atoi(argv[2]) : 1;
    const Kernels *kernels = choose();
    printf("{\"isa\": \"%s\", \"threads\": %d", kernels->isa, threads);
    printf(", \"float32_gflops\": %.2f", total_rate(kernels, FMA32, threads, slots, 0));
    printf(", \"float64_gflops\": %.2f", total_rate(kernels, FMA64, threads, slots, 0));
    for (int level = 1; level <= 3; level++) {
        const size_t bytes = (size_t)atoll(argv[2 + level]) / 512 * 512;
        if (bytes)
            printf(", \"l%d_gbytes\": %.2f", level,
                   total_rate(kernels, READ, threads, slots, bytes));
    }
    printf("}\n");
    return 0;
}
