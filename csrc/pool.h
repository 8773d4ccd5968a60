/* SPDX-License-Identifier: MIT */
/* One team of threads for the process: woken once for a sequence, not once for a step.
 *
 * fl_team_run calls work(arg, 0, n) ... work(arg, n - 1, n), the first in the calling thread, and
 * returns when all are done. The team serves one caller at a time: another thread that comes while
 * it works, or a thread that cannot be created, means n = 1. So `work` must do its whole job for any n.
 *
 * fl_team_barrier lets the n threads of the running job wait for each other. It spins for a bounded
 * time, then yields the processor. Its result says that it took so long that processors are wanting:
 * the job had better go on with fewer threads.
 *
 * A forked child starts without a team and makes its own when it needs one. */
#ifndef FL_POOL_H
#define FL_POOL_H

enum { FL_MAX_THREADS = 256 };

typedef void (*fl_work)(void *arg, int thread, int n);

void fl_team_run(int n, fl_work work, void *arg);
int fl_team_barrier(int n);

#endif
