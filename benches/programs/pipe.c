/* A byte goes to another process on the same processor and comes back: system calls, and a change of process each way. */
#include "bench.h"

#include <unistd.h>

const char NAME[] = "pipe";
const unsigned PASSES = 900;

static int to_other, from_other;

/* Sends every byte back, one larger, until the first process is gone. */
static void other(int in, int out)
{
    uint8_t byte;
    while (read(in, &byte, 1) == 1) {
        byte++;
        if (write(out, &byte, 1) != 1)
            break;
    }
    _exit(0);
}

void prepare(void)
{
    int there[2], back[2];
    if (pipe(there) != 0 || pipe(back) != 0)
        die("no pipe");
    switch (fork()) {
    case -1: die("cannot fork");
    case 0:
        close(there[1]);
        close(back[0]);
        other(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    to_other = there[1];
    from_other = back[0];
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++)
        for (int i = 0; i < 100; i++) {
            uint8_t byte = (uint8_t)(pass + (unsigned)i);
            if (write(to_other, &byte, 1) != 1 || read(from_other, &byte, 1) != 1)
                die("the other process is gone");
            sum = stir(sum, byte);
        }
    return sum;
}
