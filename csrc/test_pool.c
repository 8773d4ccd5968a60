/* SPDX-License-Identifier: MIT */
/* Proof of the team without Python: every share is done once, nobody passes a barrier early, and
 * that threads are few, slow, missing, forked away or at work for somebody else changes nothing.
 *
 * It includes pool.c, to let pthread_create fail and to set the clock of its congestion. */
#if defined(_WIN32)
int main(void) { return 0; }
#else

#    define _GNU_SOURCE
#    include <float.h>
#    include <pthread.h>
#    include <stdio.h>
#    include <stdlib.h>
#    include <string.h>
#    include <sys/wait.h>
#    include <unistd.h>

static int creations_left = 1000; /* of threads, before the system has no more */

static int create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                  void *arg) {
    if (creations_left == 0) return 11; /* EAGAIN */
    creations_left--;
    return pthread_create(thread, attr, start, arg);
}
#    define pthread_create create
#    include "pool.c"
#    undef pthread_create

static atomic_int n_failures;

static void check(int ok, const char *what, int n) {
    if (ok) return;
    n_failures++;
    fprintf(stderr, "FAIL %s, n = %d\n", what, n);
}

enum { MAX_SHARES = 300, ROUNDS = 50 };

typedef struct {
    atomic_int done[MAX_SHARES]; /* how often each share was done */
    atomic_int n;                /* as the work was told */
    atomic_int here;             /* arrivals at all barriers so far */
    atomic_int late;             /* passages before all had arrived */
    atomic_int congested;        /* barriers that said so */
    int pause_us;                /* of thread 0 before each barrier */
    long long slack_ns;          /* for which the others wait */
    int nested;                  /* the work asks for the team again */
} trial;

static void one_share(void *arg, int share, int n) {
    trial *t = arg;
    volatile float least = FLT_MIN;
    t->n = n;
    t->done[share]++;
#    if defined(__x86_64__) || defined(__aarch64__)
    check(least / 2 == 0, "denormal numbers are flushed", n);
#    endif
    if (t->nested) {
        static trial inner[MAX_SHARES];
        memset(&inner[share], 0, sizeof inner[share]);
        fl_team_share(2, one_share, &inner[share]);
        check(inner[share].done[0] == 1 && inner[share].done[1] == 1, "a team inside a team", n);
    }
}

static void rounds_with_barrier(void *arg, int thread, int n) {
    trial *t = arg;
    t->n = n;
    t->done[thread]++;
    for (int round = 1; round <= ROUNDS; round++) {
        if (thread == 0 && t->pause_us) usleep((useconds_t)t->pause_us);
        t->here++;
        if (fl_team_barrier(n, t->slack_ns)) t->congested++;
        if (t->here < round * n) t->late++;
        fl_team_barrier(n, 0);
    }
}

static void test_share(int n) {
    trial t = {0};
    fl_team_share(n, one_share, &t);
    for (int k = 0; k < MAX_SHARES; k++) check(t.done[k] == (k < n), "a share is done once", n);
    check(t.n == n, "shares know their number", n);
}

static int test_together(int n, int pause_us, long long slack_ns) {
    trial t = {.pause_us = pause_us, .slack_ns = slack_ns};
    fl_team_together(n, rounds_with_barrier, &t);
    check(t.n >= 1 && t.n <= n, "as many threads as asked for, or fewer", n);
    for (int k = 0; k < MAX_SHARES; k++) check(t.done[k] == (k < t.n), "a place is taken once", n);
    check(t.late == 0, "nobody passes a barrier early", n);
    return t.congested ? -t.n : t.n;
}

/* Whether there is a second processor. */
static int can_meet(void) {
#    if defined(__linux__)
    cpu_set_t mine;
    return sched_getaffinity(0, sizeof mine, &mine) || CPU_COUNT(&mine) > 1;
#    else
    return 1;
#    endif
}

/* Until two threads, which a busy machine may not have for a while, have come together so. With one
 * processor they do only where nothing else wants it: that is tried, and nothing is said of it. */
static int until(int wanted, int pause_us, long long slack_ns) {
    const long long patience = can_meet() ? 20000000000LL : 500000000LL;
    const long long give_up = fl_now_ns() + patience;
    int n = 0;
    while (n != wanted && fl_now_ns() < give_up) {
        team.recovery = 0;
        n = test_together(2, pause_us, slack_ns);
    }
    return n == wanted || !can_meet();
}

static void test_congestion(void) {
    check(until(2, 0, 0), "two threads come together", 2);
    check(until(-2, 2000, 0), "a barrier says when a wait was long", 2);
    check(until(2, 2000, 60000000000LL), "but not for work that may end so late", 2);
    check(until(-2, 2000, 0), "and says it again", 2);
    team.recovery = fl_now_ns() + 1000000000LL;
    check(abs(test_together(2, 0, 0)) == 1, "after it one thread works alone for a while", 2);
    team.recovery = 1;
    test_together(2, 0, 0);
    check(team.recovery != 1, "and not for ever", 2);
}

/* How long nobody works together after congestion that comes where `again` and `doubled` stand. */
static long long recovery_after(long long again, int doubled) {
    team.again = again;
    team.doubled = doubled;
    const long long before = fl_now_ns();
    mark_congested();
    const long long recovery = (long long)RECOVERY_NS << team.doubled;
    check(team.recovery - recovery >= before && team.recovery - recovery <= fl_now_ns(),
          "a recovery begins with the congestion", doubled);
    check(team.again - team.recovery == 3 * recovery, "soon is three recoveries after one",
          doubled);
    team.recovery = 0;
    return recovery;
}

static void test_recovery(void) {
    const long long late = 0, soon = fl_now_ns() + 60000000000LL;
    check(recovery_after(late, 3) == RECOVERY_NS, "congestion after a while: a short recovery", 1);
    check(recovery_after(soon, 0) == 2 * RECOVERY_NS, "again soon: twice as long", 1);
    check(recovery_after(soon, 1) == 4 * RECOVERY_NS, "and twice", 2);
    check(recovery_after(soon, RECOVERIES) == recovery_after(soon, RECOVERIES - 1),
          "but not for ever", RECOVERIES);
    team.again = 0;
}

static void *caller(void *arg) {
    (void)arg;
    for (int k = 0; k < 100; k++) {
        test_share(k % 5 + 1);
        test_together(k % 5 + 1, 0, 0);
    }
    return NULL;
}

#    if defined(__linux__)
/* Where member 1 may run, once it sleeps and is kept off or not; nowhere after 5 s. */
static cpu_set_t sleeper_allowed(int kept_off) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    for (int tries = 0, ready = 0; !ready && tries < 50000; tries++, usleep(100)) {
        pthread_mutex_lock(&team.sleep);
        ready = team.member[1].asleep && team.member[1].kept_off == kept_off;
        if (ready) pthread_getaffinity_np(team.member[1].thread, sizeof allowed, &allowed);
        pthread_mutex_unlock(&team.sleep);
    }
    return allowed;
}

/* Keep the sleepers off this thread, which runs on processor `cpu` alone meanwhile. */
static void keep_off(int cpu) {
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    pthread_mutex_lock(&team.sleep);
    keep_off_caller();
    keep_off_caller();
    pthread_mutex_unlock(&team.sleep);
    pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
}

static void test_sleepers(void) {
    const int cpu = sched_getcpu();
    cpu_set_t whole, others, one, now;
    pthread_getaffinity_np(pthread_self(), sizeof whole, &whole);
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    CPU_XOR(&others, &whole, &one);
    const int several = CPU_COUNT(&others) > 0;
    test_share(2);
    now = sleeper_allowed(0);
    check(CPU_EQUAL(&now, &whole), "a sleeper may run where this thread may", cpu);
    keep_off(cpu);
    now = sleeper_allowed(several);
    check(CPU_EQUAL(&now, several ? &others : &whole), "it is kept off the caller", cpu);
    test_share(2);
    now = sleeper_allowed(0);
    check(CPU_EQUAL(&now, &whole), "and not for ever", cpu);
    pthread_setaffinity_np(team.member[1].thread, sizeof one, &one);
    keep_off(cpu);
    now = sleeper_allowed(0);
    check(CPU_EQUAL(&now, &one), "but where it has no other processor", cpu);
    pthread_setaffinity_np(team.member[1].thread, sizeof whole, &whole);
}
#    else
static void test_sleepers(void) {}
#    endif

static void test_callers_at_once(void) {
    pthread_t threads[4];
    for (int k = 0; k < 4; k++)
        if (pthread_create(&threads[k], NULL, caller, NULL)) abort();
    for (int k = 0; k < 4; k++) pthread_join(threads[k], NULL);
}

#    if !defined(__SANITIZE_THREAD__) /* it does not follow a fork of threads */
static void test_fork(void) {
    for (int k = 0; k < 5; k++) {
        const pid_t child = fork();
        if (child == 0) {
            check(team.members == 0, "a forked child begins without members", k);
            check(team.awake == 0, "of which none is awake", k);
            for (int n = 1; n < 5; n++) test_share(n), test_together(n, 0, 0);
            check(until(2, 0, 0), "its members are alive", k);
            exit(n_failures != 0); /* which writes what gcov has counted */
        }
        int status = -1;
        waitpid(child, &status, 0);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child has a team", k);
        test_share(3);
        test_together(3, 0, 0);
    }
}
#    else
static void test_fork(void) {}
#    endif

static void test_few_threads(void) {
    creations_left = 0;
    test_share(4);
    check(abs(test_together(4, 0, 0)) == 1, "without any other thread one works", 4);
    creations_left = 1;
    test_share(4);
    team.recovery = 0;
    check(abs(test_together(4, 0, 0)) <= 2, "with one other at most two work", 4);
    check(team.members == 1, "members are those that could be made", 4);
    creations_left = 1000;
}

/* Brief work wakes nobody, unless other such work came just before. */
static void test_worth(void) {
    const long long second = 1000000000;
    test_share(3);
    for (int ms = 0; team.awake > 0 && ms < 60000; ms++) usleep(1000);
    check(team.awake == 0, "members fall asleep", 3);
    team.asked = fl_now_ns() - second;
    check(fl_team_worth(3, 1000) == 1, "brief work is for one while the others sleep", 3);
    team.asked = fl_now_ns() - second;
    check(fl_team_worth(3, BRIEF_NS) == 3, "long work is for all", 3);
    team.asked = fl_now_ns() + second; /* whatever else runs here, no second passes */
    check(fl_team_worth(3, 1000) == 3, "brief work that follows other is for all", 3);
    check(team.asked <= fl_now_ns(), "and others may follow it", 3);
    team.asked = fl_now_ns() - second;
    team.awake = 1;
    check(fl_team_worth(3, 1000) == 1, "one that is awake is too few for three", 3);
    team.asked = fl_now_ns() - second;
    check(fl_team_worth(2, 1000) == 2, "but enough for two", 2);
    check(fl_team_worth(1, 1000) == 1, "one needs nobody", 1);
    team.awake = 0;
}

static void test_flag(void) {
    int flag = 0;
    check(!fl_flag_is_up(&flag), "a flag is down", 0);
    fl_raise_flag(&flag);
    check(fl_flag_is_up(&flag), "until it is raised", 0);
    ptrdiff_t mark = 9;
    fl_bring_mark(&mark, 10);
    check(fl_mark(&mark) == 9, "a mark does not go away", 10);
    fl_bring_mark(&mark, 7);
    check(fl_mark(&mark) == 7, "a mark comes nearer", 7);
}

int main(void) {
    check(fl_team_barrier(1, 0) == 0, "a barrier of one", 1);
    test_flag();
    test_few_threads();
    static const int numbers[] = {1, 2, 3, 4, 7, 16, 64, FL_MAX_THREADS, FL_MAX_THREADS + 9};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
        for (int round = 0; round < (numbers[k] < 16 ? 20 : 1); round++) {
            test_share(numbers[k]);
            if (numbers[k] < 64) test_together(numbers[k], 0, 0);
        }
    trial nested = {.nested = 1};
    fl_team_share(3, one_share, &nested);
    test_congestion();
    test_recovery();
    team.job = ~0u; /* the next number would mean that no job is open */
    test_share(3);
    test_sleepers();
    test_worth();
    test_callers_at_once();
    test_fork();
    printf(n_failures ? "%d FAILED\n" : "the team passed\n", n_failures);
    return n_failures != 0;
}

#endif
