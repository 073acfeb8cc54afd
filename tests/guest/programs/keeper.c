/* keeper [THREADS]: keeps a lot in memory, registers, pipes and processes, and looks whether it is all still there.
 *
 * It never ends by itself. Five times a second it says so in a line of its own, with a number that goes up by one; what it
 * misses it tells in a line with the word LOST, and ends. Whoever stops, copies, moves and restores the guest meanwhile
 * looks for these.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <immintrin.h>

enum { WORDS = 1 << 17 };

/* The newest time that any thread saw, and what was done so far. */
static atomic_ullong newest, rounds, forks, letters, alarms;

static void lost(const char *what, unsigned long long found, unsigned long long expected)
{
    printf("keeper: LOST %s: %llx where there was %llx\n", what, found, expected);
    fflush(stdout);
    _exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        lost("clock", errno, 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* No thread may see a time before one that another thread has seen. */
static void look_at_clock(void)
{
    uint64_t seen = atomic_load(&newest), time = clock_ns(CLOCK_MONOTONIC);
    if (time < seen)
        lost("time", time, seen);
    while (seen < time && !atomic_compare_exchange_weak(&newest, &seen, time)) {
    }
}

static uint64_t next(uint64_t x)
{
    return x * 6364136223846793005u + 1442695040888963407u;
}

/* Sums in vector registers, which nothing but the processor keeps for all that time. */
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint64_t *words)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int i = 0; i < WORDS; i += 16) {
        const __m256i *at = (const __m256i *)(words + i);
        a = _mm256_add_epi64(a, _mm256_loadu_si256(at));
        b = _mm256_add_epi64(b, _mm256_loadu_si256(at + 1));
        c = _mm256_add_epi64(c, _mm256_loadu_si256(at + 2));
        d = _mm256_add_epi64(d, _mm256_loadu_si256(at + 3));
    }
    uint64_t lanes[4];
    a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    _mm256_storeu_si256((__m256i *)lanes, a);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

static uint64_t sum_plain(const uint64_t *words)
{
    uint64_t sum = 0;
    for (int i = 0; i < WORDS; i++)
        sum += words[i];
    return sum;
}

static void *keep_memory(void *argument)
{
    uint64_t seed = next((uintptr_t)argument);
    uint64_t *words = malloc(WORDS * sizeof *words);
    int avx2 = __builtin_cpu_supports("avx2");
    if (words == NULL)
        lost("room", 0, WORDS);
    for (;;) {
        uint64_t x = seed, sum = 0;
        for (int i = 0; i < WORDS; i++) {
            x = next(x);
            words[i] = x;
            sum += x;
        }
        uint64_t found = avx2 ? sum_avx2(words) : sum_plain(words);
        if (found != sum)
            lost("sum", found, sum);
        uint64_t y = seed;
        double scale = 1.0;
        for (int i = 0; i < WORDS; i++) {
            y = next(y);
            if (words[i] != y)
                lost("word", words[i], y);
            scale = scale * 1.5 / 1.5;
            if (i % 4096 == 0)
                look_at_clock();
        }
        if (scale < 0.999 || scale > 1.001)
            lost("fraction", (uint64_t)(scale * 1000), 1000);
        seed = x;
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

/* A process sees what its parent had, changes it for itself, and tells. */
static void *keep_forking(void *argument)
{
    volatile uint64_t *page = malloc(1 << 16);
    (void)argument;
    for (uint64_t n = 1;; n++) {
        page[0] = page[1000] = n;
        pid_t child = fork();
        if (child == 0) {
            page[0] += 1;
            _exit(page[0] == n + 1 && page[1000] == n ? (int)(n & 63) : 64);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child)
            lost("child", (uint64_t)child, errno);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)(n & 63))
            lost("status", (uint64_t)status, n & 63);
        if (page[0] != n)
            lost("page", page[0], n);
        atomic_fetch_add(&forks, 1);
        usleep(2000);
    }
    return NULL;
}

/* Letters that go round between two threads. */
static int there[2], back[2];

static void *answer(void *argument)
{
    uint64_t letter;
    (void)argument;
    while (read(there[0], &letter, sizeof letter) == sizeof letter) {
        letter = ~letter;
        if (write(back[1], &letter, sizeof letter) != sizeof letter)
            break;
    }
    lost("pipe", errno, 0);
    return NULL;
}

static void *keep_writing(void *argument)
{
    (void)argument;
    for (uint64_t n = 0;; n++) {
        uint64_t letter = n;
        if (write(there[1], &letter, sizeof letter) != sizeof letter)
            lost("pipe", errno, n);
        if (read(back[0], &letter, sizeof letter) != sizeof letter || letter != ~n)
            lost("letter", letter, ~n);
        atomic_fetch_add(&letters, 1);
        if (n % 64 == 0)
            usleep(1000);
    }
    return NULL;
}

static void on_alarm(int signal)
{
    (void)signal;
    atomic_fetch_add(&alarms, 1);
}

static void start(void *(*work)(void *), uintptr_t argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, (void *)argument) != 0)
        lost("thread", errno, argument);
}

int main(int count, char **words)
{
    int threads = count > 1 ? atoi(words[1]) : 2;
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
    struct itimerval often = { { 0, 10000 }, { 0, 10000 } };
    if (pipe(there) != 0 || pipe(back) != 0)
        lost("pipe", errno, 0);
    if (sigaction(SIGALRM, &action, NULL) != 0 || setitimer(ITIMER_REAL, &often, NULL) != 0)
        lost("timer", errno, 0);
    for (int n = 0; n < threads; n++)
        start(keep_memory, (uintptr_t)n + 1);
    start(keep_forking, 0);
    start(answer, 0);
    start(keep_writing, 0);
    uint64_t since = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    for (unsigned line = 0;; line++) {
        unsigned long long before = atomic_load(&alarms);
        uint64_t until = clock_ns(CLOCK_MONOTONIC) + 200000000;
        /* Alarms cut it short. */
        while (clock_ns(CLOCK_MONOTONIC) < until)
            usleep(20000);
        /* On a busy host a processor may stand still for longer than that, with its alarm. */
        for (until += 10000000000; atomic_load(&alarms) == before; usleep(20000))
            if (clock_ns(CLOCK_MONOTONIC) > until)
                lost("alarm", before, before + 1);
        int64_t drift = (int64_t)(clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC) - since);
        if (drift < -1000000000 || drift > 1000000000)
            lost("wall clock", (uint64_t)drift, 0);
        printf("keeper: %u at %llu ms, rounds %llu forks %llu letters %llu\n", line,
               (unsigned long long)(clock_ns(CLOCK_MONOTONIC) / 1000000), (unsigned long long)atomic_load(&rounds),
               (unsigned long long)atomic_load(&forks), (unsigned long long)atomic_load(&letters));
        fflush(stdout);
    }
}
