/* LZ77: finds matches through a table of hashed prefixes, packs them, and unpacks them again. */
#include "bench.h"

#include <string.h>

const char NAME[] = "lz";
const unsigned PASSES = 520;

#define BYTES (128 * 1024)
#define PREFIXES 8192
#define WINDOW 65535
#define LONGEST 130

static uint8_t plain[BYTES], packed[2 * BYTES], unpacked[BYTES];

/* Where each prefix was last, counted from the beginning of all passes: what is below `base` was in an earlier one. */
static uint64_t last_at[PREFIXES], base = 1;

static uint32_t prefix(const uint8_t *at)
{
    uint32_t four;
    memcpy(&four, at, 4);
    return four * 2654435761u >> 19;
}

static size_t match(size_t a, size_t b)
{
    size_t len = 0;
    while (b + len < BYTES && len < LONGEST && plain[a + len] == plain[b + len])
        len++;
    return len;
}

/* A byte below 128 is followed by that many bytes and one more; any other by the distance of a match. */
static size_t literals(size_t out, size_t from, size_t to)
{
    while (from < to) {
        size_t count = to - from < 128 ? to - from : 128;
        packed[out++] = (uint8_t)(count - 1);
        for (size_t i = 0; i < count; i++)
            packed[out++] = plain[from++];
    }
    return out;
}

static size_t pack(void)
{
    size_t at = 0, first = 0, out = 0;
    while (at + 4 <= BYTES) {
        uint32_t slot = prefix(plain + at);
        size_t before = last_at[slot] - base;
        size_t len = last_at[slot] >= base && at - before <= WINDOW ? match(before, at) : 0;
        last_at[slot] = base + at;
        if (len < 4) {
            at++;
            continue;
        }
        out = literals(out, first, at);
        packed[out++] = (uint8_t)(128 + len - 4);
        packed[out++] = (uint8_t)(at - before);
        packed[out++] = (uint8_t)((at - before) >> 8);
        at += len;
        first = at;
    }
    base += BYTES;
    return literals(out, first, BYTES);
}

static size_t unpack(size_t len)
{
    size_t out = 0;
    for (size_t in = 0; in < len;) {
        uint8_t kind = packed[in++];
        if (kind < 128) {
            for (int i = 0; i <= kind; i++)
                unpacked[out++] = packed[in++];
        } else {
            size_t distance = packed[in] | (size_t)packed[in + 1] << 8;
            in += 2;
            for (int i = 0; i < kind - 128 + 4; i++, out++)
                unpacked[out] = unpacked[out - distance];
        }
    }
    return out;
}

/* Noise, with phrases of it over and over again. */
void prepare(void)
{
    uint64_t seed = 6;
    for (size_t at = 0; at < BYTES;) {
        uint64_t draw = noise(&seed) >> 32;
        size_t len = 4 + draw % 28;
        size_t back = draw / 28 % 4000;
        for (size_t i = 0; i < len && at < BYTES; i++, at++)
            plain[at] = draw % 3 != 0 && back < at ? plain[at - back - 1] : (uint8_t)('a' + (noise(&seed) >> 33) % 20);
    }
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        plain[BYTES / 2] = (uint8_t)pass;
        size_t len = pack();
        if (unpack(len) != BYTES)
            die("not everything was unpacked");
        for (size_t i = 0; i < BYTES; i++)
            if (plain[i] != unpacked[i])
                die("what was unpacked is not what was packed");
        sum = stir(sum, len);
    }
    return sum;
}
