/* Touches each of a thousand fresh pages, and gives them back: faults, page tables, flushes of the TLB. */
#define _GNU_SOURCE
#include "bench.h"

#include <sys/mman.h>

const char NAME[] = "pagefault";
const unsigned PASSES = 180;

#define PAGES 1024
#define PAGE 4096

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        uint8_t *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            die("no memory");
        /* Small pages for every peer, whatever its kernel would rather have. */
        madvise(at, PAGES * PAGE, MADV_NOHUGEPAGE);
        for (size_t page = 0; page < PAGES; page++)
            at[page * PAGE] = (uint8_t)(pass + 1);
        for (size_t page = 0; page < PAGES; page++)
            sum += at[page * PAGE] == (uint8_t)(pass + 1) && at[page * PAGE + PAGE - 1] == 0;
        munmap(at, PAGES * PAGE);
    }
    return sum;
}
