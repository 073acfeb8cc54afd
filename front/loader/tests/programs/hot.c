// A program that makes the same calls very often, on several threads, with signals coming. Its output is the same with and without ring3.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 20000, THREADS = 4 };

static volatile int calls;

static void count(int signal) {
    (void)signal;
    calls++;
    getppid();
}

// The flags, and all registers but RCX and R11, are as before; RAX has the answer.
static long ask(void) {
    unsigned long result, flags, r8 = 1, r9 = 2, r10 = 3;
    register unsigned long in_r8 __asm__("r8") = r8, in_r9 __asm__("r9") = r9, in_r10 __asm__("r10") = r10;
    __asm__ volatile("xor %%eax, %%eax\n stc\n mov $39, %%eax\n syscall\n pushfq\n pop %1"
                     : "=&a"(result), "=&r"(flags), "+r"(in_r8), "+r"(in_r9), "+r"(in_r10)
                     :
                     : "rcx", "r11", "memory", "cc");
    // Carry and zero, as XOR and STC have left them.
    if ((flags & 0x41) != 0x41 || in_r8 != 1 || in_r9 != 2 || in_r10 != 3)
        return -1;
    return result;
}

// The same SYSCALL, jumped to with another number.
static long jumped(long number) {
    long result;
    __asm__ volatile("test %1, %1\n jz 1f\n mov %1, %0\n jmp 2f\n 1: mov $39, %%eax\n 2: syscall"
                     : "=&a"(result)
                     : "r"(number)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static void *work(void *argument) {
    long wrong = 0, pid = getpid(), parent = getppid();
    for (int i = 0; i < ROUNDS; i++)
        wrong += ask() != pid || jumped(0) != pid || jumped(SYS_getppid) != parent || getppid() != parent;
    (void)argument;
    return (void *)wrong;
}

int main(void) {
    pthread_t threads[THREADS];
    long wrong = 0;
    signal(SIGALRM, count);
    struct itimerval often = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    printf("wrong: %ld, signals: %d\n", wrong, calls > 0);
    fflush(stdout);
    pid_t child = fork();
    if (!child)
        _exit((long)work(NULL) ? 1 : 5);
    int status;
    while (waitpid(child, &status, 0) < 0)
        ;
    printf("child: %d\n", WEXITSTATUS(status));
    child = vfork();
    if (!child) {
        for (int i = 0; i < 100; i++)
            if (ask() != getpid())
                _exit(1);
        _exit(6);
    }
    while (waitpid(child, &status, 0) < 0)
        ;
    printf("vforked: %d, parent %d\n", WEXITSTATUS(status), ask() == getpid());
    // The GS base is the program's own, if it wants it.
    static unsigned long own[64] = {11};
    syscall(SYS_arch_prctl, 0x1001, own);
    unsigned long found, base = 0;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(found));
    syscall(SYS_arch_prctl, 0x1004, &base);
    printf("base: %lu %d, calls %d\n", found, base == (unsigned long)own, ask() == getpid());
    return 0;
}
