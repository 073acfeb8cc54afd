/* The main of every program: NAME [PERCENT [COPIES]].
 *
 * Each copy is a process of its own on a processor of its own. All prepare, run a quarter of the passes to be warm, wait
 * for each other, and then do the timed passes. One line tells the checksum, the nanoseconds of the first copy's warm-up,
 * and those from the first copy's start to the last one's end.
 *
 * The clock is read in here and not outside, so that neither the start of a process nor the way of a line through an
 * emulated serial port, which may take seconds on a busy machine, is measured as work. Whoever runs this compares that
 * clock with its own, over many programs.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_COPIES 64

struct copy {
    uint64_t warm, start, end, checksum;
};

/* What the copies share. */
struct board {
    atomic_uint ready;
    struct copy copies[MOST_COPIES];
};

void die(const char *why)
{
    fprintf(stderr, "%s: %s\n", NAME, why);
    _exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        die("no monotonic clock");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Binds the caller to the nth of the processors it may use. */
static void bind_to(unsigned nth)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        die("which processors?");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || nth-- != 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) != 0)
            die("cannot choose a processor");
        return;
    }
    die("more copies than processors");
}

static void run_copy(struct board *board, unsigned index, unsigned copies, unsigned passes)
{
    struct copy *copy = &board->copies[index];
    bind_to(index);
    prepare();
    uint64_t before = now();
    work(passes / 4 + 1);
    copy->warm = now() - before;
    atomic_fetch_add(&board->ready, 1);
    while (atomic_load(&board->ready) < copies)
        sched_yield();
    copy->start = now();
    copy->checksum = work(passes);
    copy->end = now();
    _exit(0);
}

static void report(const struct board *board, unsigned copies)
{
    uint64_t start = UINT64_MAX, end = 0;
    for (unsigned i = 0; i < copies; i++) {
        const struct copy *copy = &board->copies[i];
        if (copy->checksum != board->copies[0].checksum)
            die("two copies do not agree");
        start = copy->start < start ? copy->start : start;
        end = copy->end > end ? copy->end : end;
    }
    printf("result %s checksum=%016llx warm=%llu ns=%llu\n", NAME, (unsigned long long)board->copies[0].checksum,
           (unsigned long long)board->copies[0].warm, (unsigned long long)(end - start));
}

int main(int argc, char **argv)
{
    unsigned percent = argc > 1 ? (unsigned)atoi(argv[1]) : 100;
    unsigned copies = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    if (percent < 1 || percent > 10000 || copies < 1 || copies > MOST_COPIES)
        die("usage: [PERCENT [COPIES]]");
    unsigned passes = (unsigned)((uint64_t)PASSES * percent / 100);
    if (passes == 0)
        passes = 1;
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        die("no shared memory");
    for (unsigned i = 0; i < copies; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("cannot fork");
        if (pid == 0)
            run_copy(board, i, copies, passes);
    }
    for (unsigned i = 0; i < copies; i++) {
        int status;
        if (wait(&status) < 0 || status != 0)
            die("a copy failed");
    }
    report(board, copies);
    return 0;
}
