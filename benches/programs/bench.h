/* What each program brings, and what harness.c lends it. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

/* The program's name, and how many passes take about 0.3 s on the machines this was written on. */
extern const char NAME[];
extern const unsigned PASSES;

/* Makes the data; not timed. */
void prepare(void);

/* Does the work so many times over. The answer depends on `passes` alone, however often this was called before: every
 * peer must find the same. */
uint64_t work(unsigned passes);

/* Reproducible noise (xorshift64*). */
static inline uint64_t noise(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

/* Stirs a value into a checksum. */
static inline uint64_t stir(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9e3779b97f4a7c15ull;
    return sum ^ (sum >> 29);
}

/* Says why and ends the program with a failure. */
void die(const char *why) __attribute__((noreturn));

#endif
