/* An open-addressing hash table of 4 MiB: loads and stores all over a thousand pages. */
#include "bench.h"

const char NAME[] = "hash";
const unsigned PASSES = 70;

#define SLOTS (1u << 18)
#define KEYS (SLOTS / 2)

struct slot {
    uint64_t key;
    uint32_t value, epoch;
};

static struct slot table[SLOTS];

/* Slots of earlier epochs are empty. Clearing the table instead would be a test of the C library's memset. */
static uint32_t epoch;

static struct slot *find(uint64_t key)
{
    uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 46);
    while (table[at].epoch == epoch && table[at].key != key)
        at = (at + 1) & (SLOTS - 1);
    return &table[at];
}

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        uint64_t start = 3 + pass, seed = start;
        epoch++;
        for (unsigned i = 0; i < KEYS; i++) {
            uint64_t key = noise(&seed) | 1;
            struct slot *slot = find(key);
            *slot = (struct slot){key, i, epoch};
        }
        /* Every other key was never put in. */
        seed = start;
        for (unsigned i = 0; i < KEYS; i++) {
            uint64_t key = noise(&seed) | 1;
            sum += find(key)->value;
            sum ^= find(~key | 1)->epoch == epoch;
        }
        sum = stir(sum, seed);
    }
    return sum;
}
