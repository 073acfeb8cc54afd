/* Fibonacci numbers by the definition: calls and returns, and hardly anything else. */
#include "bench.h"

const char NAME[] = "fib";
const unsigned PASSES = 800;

/* Not inlined, or most of the calls would be gone. */
__attribute__((noinline)) static uint64_t fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++)
        sum = stir(sum, fib(26 + pass % 2));
    return sum;
}
