// A program's own signals. Its output is the same with and without ring3.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t calls, last, value;
static sigjmp_buf back;
static void *volatile where;

static void count(int signal, siginfo_t *info, void *context) {
    calls++;
    last = signal;
    value = info->si_value.sival_int;
    where = __builtin_frame_address(0);
    (void)context;
}

static void handle(int signal, int flags, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    if (sigaction(signal, &action, NULL))
        perror("sigaction");
}

static void sent(void) {
    handle(SIGUSR1, 0, count);
    raise(SIGUSR1);
    printf("raised: %d %d\n", calls, last);
    union sigval with = {.sival_int = 77};
    sigqueue(getpid(), SIGUSR1, with);
    printf("queued: %d %d\n", calls, value);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    raise(SIGUSR1);
    sigset_t pending;
    sigpending(&pending);
    printf("blocked: %d, pending %d\n", calls, sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("let in: %d\n", calls);
    handle(SIGRTMIN + 1, 0, count);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 5; i++) {
        with.sival_int = i;
        sigqueue(getpid(), SIGRTMIN + 1, with);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("real-time ones: %d, the last %d\n", calls, value);
    signal(SIGUSR2, SIG_IGN);
    raise(SIGUSR2);
    struct sigaction action;
    sigaction(SIGUSR2, NULL, &action);
    printf("ignored: %d\n", action.sa_handler == SIG_IGN);
    handle(SIGUSR2, SA_RESETHAND, count);
    raise(SIGUSR2);
    sigaction(SIGUSR2, NULL, &action);
    printf("once: %d %d\n", calls, action.sa_handler == SIG_DFL);
}

static void waits(void) {
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    int before = calls, result = sigsuspend(&none);
    printf("suspended: %d %s, %d more\n", result, strerror(errno), calls - before);
    raise(SIGUSR1);
    struct pollfd nothing = {.fd = -1};
    before = calls;
    result = ppoll(&nothing, 1, NULL, &none);
    printf("polled: %d %s, %d more\n", result, strerror(errno), calls - before);
    raise(SIGUSR1);
    before = calls;
    printf("waited: %d, %d more\n", sigwaitinfo(&set, NULL), calls - before);
    int fd = signalfd(-1, &set, 0);
    raise(SIGUSR1);
    struct signalfd_siginfo info;
    printf("read: %d, signal %d\n", read(fd, &info, sizeof info) == sizeof info, info.ssi_signo);
    close(fd);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

// A child that sends a signal, and then a byte, to a reader.
static void interrupted(int flags) {
    handle(SIGUSR1, flags, count);
    int ends[2];
    if (pipe(ends))
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        usleep(50000);
        kill(getppid(), SIGUSR1);
        usleep(50000);
        _exit(write(ends[1], "x", 1) != 1);
    }
    char byte;
    int before = calls;
    ssize_t got = read(ends[0], &byte, 1);
    printf("read, flags %x: %zd %s, %d call\n", flags, got, got < 0 ? strerror(errno) : "", calls - before);
    while (waitpid(child, NULL, 0) < 0)
        ;
    close(ends[0]);
    close(ends[1]);
}

static void timers(void) {
    handle(SIGALRM, 0, count);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    int before = calls;
    setitimer(ITIMER_REAL, &every, NULL);
    // System calls without end, and none at all.
    while (calls < before + 100)
        getppid();
    while (calls < before + 200)
        ;
    every = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    printf("timer: 1\n");
    struct timespec time = {0, 100000000}, rest = {0, 0};
    every.it_value.tv_usec = 20000;
    setitimer(ITIMER_REAL, &every, NULL);
    int result = nanosleep(&time, &rest);
    printf("sleep: %d %s, some left: %d\n", result, strerror(errno), rest.tv_nsec > 0);
}

static void jump(int signal, siginfo_t *info, void *context) {
    (void)context;
    last = signal;
    where = info->si_addr;
    siglongjmp(back, 1);
}

static void skip(int signal, siginfo_t *info, void *context) {
    calls++;
    last = signal;
    where = info->si_addr;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void faults(void) {
    handle(SIGSEGV, 0, jump);
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1))
            *(volatile int *)0x1234 = 1;
        else
            printf("fault: %d at %p\n", last, where);
    handle(SIGILL, 0, skip);
    __asm__ volatile("ud2");
    printf("illegal: %d\n", last);
    handle(SIGFPE, 0, jump);
    volatile int zero = 0;
    if (!sigsetjmp(back, 1))
        printf("%d\n", 1 / zero);
    else
        printf("division: %d\n", last);
    handle(SIGTRAP, 0, count);
    __asm__ volatile("int3");
    printf("trap: %d\n", last);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int before = calls;
    handle(SIGSEGV, 0, count);
    raise(SIGSEGV);
    printf("sent and blocked: %d\n", calls - before);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("let in: %d\n", calls - before);
    signal(SIGSEGV, SIG_DFL);
}

static void stacks(void) {
    static char own[65536];
    stack_t stack = {.ss_sp = own, .ss_size = sizeof own}, now;
    sigaltstack(&stack, NULL);
    sigaltstack(NULL, &now);
    printf("stack: %d, flags %d, size %zu\n", now.ss_sp == own, now.ss_flags, now.ss_size);
    for (int flags = 0; flags <= SA_ONSTACK; flags += SA_ONSTACK) {
        handle(SIGUSR1, flags, count);
        raise(SIGUSR1);
        printf("on it: %d\n", (char *)where >= own && (char *)where < own + sizeof own);
    }
    // A stack that is full: the handler of the fault needs the other one.
    handle(SIGSEGV, SA_ONSTACK, jump);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("mov %%rsp, %%rbx\n mov $16, %%rsp\n push %%rax\n mov %%rbx, %%rsp" ::: "rbx", "memory");
    else
        printf("overflow: %d\n", last);
    stack.ss_size = 100;
    printf("too small: %d %s\n", sigaltstack(&stack, NULL), strerror(errno));
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    sigaltstack(NULL, &now);
    printf("none: %d\n", now.ss_flags == SS_DISABLE);
    signal(SIGSEGV, SIG_DFL);
}

static void disturb(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    calls++;
    __asm__ volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm15, %%xmm15\n fninit\n fldz" ::: "xmm0", "xmm15");
    getppid();
}

static void registers(void) {
    handle(SIGUSR1, 0, disturb);
    unsigned long in = 0x123456789abcdef, out = 0, high = 0, r8 = 8, r9 = 9, r10 = 10, result;
    double x87 = 0, half = 0.5;
    register unsigned long in_r8 __asm__("r8") = r8, in_r9 __asm__("r9") = r9, in_r10 __asm__("r10") = r10;
    __asm__ volatile("fldl %[half]\n movq %[in], %%xmm0\n movq %[in], %%xmm15\n mov $39, %%eax\n stc\n syscall\n"
                     "movq %%xmm0, %[out]\n movq %%xmm15, %[high]\n fstpl %[x87]"
                     : "=a"(result), [out] "=&r"(out), [high] "=&r"(high), [x87] "=m"(x87), "+r"(in_r8), "+r"(in_r9),
                       "+r"(in_r10)
                     : [in] "r"(in), [half] "m"(half)
                     : "rcx", "r11", "xmm0", "xmm15", "memory", "cc");
    printf("call: %d %lx %lx %.1f %lu %lu %lu\n", result == (unsigned long)getpid(), out, high, x87, in_r8, in_r9, in_r10);
    register long number __asm__("rax") = 200, who __asm__("rdi") = getpid(), which __asm__("rsi") = SIGUSR1;
    int before = calls;
    __asm__ volatile("fldl %[half]\n movq %[in], %%xmm0\n movq %[in], %%xmm15\n syscall\n"
                     "movq %%xmm0, %[out]\n movq %%xmm15, %[high]\n fstpl %[x87]"
                     : "+r"(number), [out] "=&r"(out), [high] "=&r"(high), [x87] "=m"(x87)
                     : "r"(who), "r"(which), [in] "r"(in), [half] "m"(half)
                     : "rcx", "r11", "xmm0", "xmm15", "memory", "cc");
    printf("signal: %d %ld %lx %lx %.1f\n", calls - before, number, out, high, x87);
}

static int dies_of(void (*body)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        body();
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void wild(void) { *(volatile int *)0x1234 = 1; }
static void undefined(void) { __asm__ volatile("ud2"); }
static void terminated(void) { raise(SIGTERM); }
static void aborted(void) { abort(); }
static void bad_call(void) { raise(SIGSYS); }
static void nothing(void) {}
static void blocked_fault(void) {
    sigset_t all;
    sigfillset(&all);
    handle(SIGSEGV, 0, count);
    sigprocmask(SIG_SETMASK, &all, NULL);
    wild();
}
static void no_stack(void) {
    handle(SIGUSR1, 0, count);
    long number = 200;
    __asm__ volatile("mov $64, %%rsp\n syscall" : "+a"(number) : "D"(getpid()), "S"(SIGUSR1) : "rcx", "r11", "memory");
}

int main(void) {
    sent();
    waits();
    interrupted(0);
    interrupted(SA_RESTART);
    timers();
    faults();
    stacks();
    registers();
    printf("deaths: %d %d %d %d %d %d %d %d\n", dies_of(wild), dies_of(undefined), dies_of(terminated), dies_of(aborted),
           dies_of(bad_call), dies_of(nothing), dies_of(blocked_fault), dies_of(no_stack));
    return 0;
}
