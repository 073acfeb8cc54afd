/* Quicksort of 32-bit numbers: compares whose outcome nobody can foresee, and recursion. */
#include "bench.h"

const char NAME[] = "qsort";
const unsigned PASSES = 80;

#define COUNT 65536

static uint32_t values[COUNT], sorted[COUNT];

static void insertion(uint32_t *a, long count)
{
    for (long i = 1; i < count; i++) {
        uint32_t value = a[i];
        long j = i;
        for (; j > 0 && a[j - 1] > value; j--)
            a[j] = a[j - 1];
        a[j] = value;
    }
}

static uint32_t middle(uint32_t a, uint32_t b, uint32_t c)
{
    if (a > b) {
        uint32_t swap = a;
        a = b;
        b = swap;
    }
    return c < a ? a : c > b ? b : c;
}

static void quicksort(uint32_t *a, long count)
{
    while (count > 12) {
        uint32_t pivot = middle(a[0], a[count / 2], a[count - 1]);
        long i = 0, j = count - 1;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t swap = a[i];
                a[i++] = a[j];
                a[j--] = swap;
            }
        }
        quicksort(a, j + 1);
        a += i;
        count -= i;
    }
    insertion(a, count);
}

void prepare(void)
{
    uint64_t seed = 2;
    for (int i = 0; i < COUNT; i++)
        values[i] = (uint32_t)(noise(&seed) >> 32);
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        uint32_t flip = pass * 0x9e3779b9u;
        for (int i = 0; i < COUNT; i++)
            sorted[i] = values[i] ^ flip;
        quicksort(sorted, COUNT);
        for (int i = 1; i < COUNT; i++)
            if (sorted[i - 1] > sorted[i])
                die("not sorted");
        for (int i = 0; i < COUNT; i += 4096)
            sum = stir(sum, sorted[i]);
    }
    return sum;
}
