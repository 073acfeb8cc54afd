/* The shortest system call there is, over and over again. */
#define _GNU_SOURCE
#include "bench.h"

#include <sys/syscall.h>
#include <unistd.h>

const char NAME[] = "syscall";
const unsigned PASSES = 2400;

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);
    for (unsigned pass = 0; pass < passes; pass++)
        for (int i = 0; i < 1000; i++)
            same += syscall(SYS_getppid) == parent;
    return same;
}
