/* Byte by byte through a text: words, letters, comparisons, and a search. None of it is left to the C library, whose code
 * depends on the processor that it finds. */
#include "bench.h"

const char NAME[] = "str";
const unsigned PASSES = 200;

#define BYTES (256 * 1024)

static char text[BYTES + 1], copy[BYTES + 1];

static size_t length_of(const char *s)
{
    const char *end = s;
    while (*end != 0)
        end++;
    return (size_t)(end - s);
}

static int compare(const char *a, const char *b)
{
    while (*a != 0 && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

static char upper(char c) { return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c; }

/* Copies the text in capitals, each word a string of its own; returns how many there are. */
static size_t split(void)
{
    size_t words = 0;
    char before = ' ';
    for (size_t i = 0; i <= BYTES; i++) {
        char c = text[i];
        copy[i] = c == ' ' || c == '\n' ? 0 : upper(c);
        words += copy[i] != 0 && (before == ' ' || before == '\n');
        before = c;
    }
    return words;
}

static void reverse(char *word, size_t len)
{
    for (size_t i = 0; i < len / 2; i++) {
        char swap = word[i];
        word[i] = word[len - 1 - i];
        word[len - 1 - i] = swap;
    }
}

static uint64_t each_word(void)
{
    uint64_t sum = 0;
    const char *before = "";
    for (char *at = copy; at < copy + BYTES;) {
        size_t len = length_of(at);
        if (len == 0) {
            at++;
            continue;
        }
        sum += compare(before, at) < 0 ? len : 3;
        reverse(at, len);
        before = at;
        at += len + 1;
    }
    return sum;
}

static uint64_t count_of(const char *needle)
{
    size_t len = length_of(needle);
    uint64_t found = 0;
    for (size_t i = 0; i + len <= BYTES; i++) {
        size_t j = 0;
        while (j < len && text[i + j] == needle[j])
            j++;
        found += j == len;
    }
    return found;
}

void prepare(void)
{
    uint64_t seed = 4;
    size_t left = 0;
    for (size_t i = 0; i < BYTES; i++) {
        uint64_t draw = noise(&seed) >> 40;
        if (left == 0) {
            text[i] = draw % 11 == 0 ? '\n' : ' ';
            left = 1 + draw / 11 % 9;
        } else {
            text[i] = (char)('a' + draw % 26 * (draw / 26 % 26) / 26);
            left--;
        }
    }
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        text[BYTES / 2] = (char)('a' + pass % 26);
        sum = stir(sum, split());
        sum = stir(sum, each_word());
        sum = stir(sum, count_of("abba"));
    }
    return sum;
}
