// A program that filters its own system calls. Its output is the same with and without ring3.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define IS(number, answer) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, answer)
#define ELSE(answer) BPF_STMT(BPF_RET | BPF_K, answer)

static long filter(unsigned flags, struct sock_filter *program, unsigned short len) {
    struct sock_fprog all = {len, program};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &all);
}

#define FILTER(flags, ...) \
    ({ struct sock_filter program[] = {__VA_ARGS__}; filter(flags, program, sizeof program / sizeof *program); })

static int status_of(int (*body)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        int status = body();
        fflush(stdout);
        _exit(status);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int errors(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_ERRNO | 42), IS(SYS_getuid, SECCOMP_RET_ERRNO),
           IS(SYS_getgid, SECCOMP_RET_ERRNO | 0xffff), ELSE(SECCOMP_RET_ALLOW));
    printf("%ld %ld %ld\n", (long)getppid(), (long)getuid(), (long)getgid());
    // By an argument, and by where the call is made.
    FILTER(0, NUMBER, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 3),
           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
           BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 100, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 7),
           ELSE(SECCOMP_RET_ALLOW));
    errno = 0;
    syscall(SYS_getpriority, 0, 0);
    printf("%d ", errno);
    syscall(SYS_getpriority, 0, 1000);
    printf("%d\n", errno);
    // The graver one of two, and the newer one of equals.
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_ERRNO | 43), IS(SYS_getuid, SECCOMP_RET_LOG), ELSE(SECCOMP_RET_ALLOW));
    printf("%ld %ld\n", (long)getppid(), (long)getuid());
    printf("mode %d\n", prctl(PR_GET_SECCOMP));
    return 5;
}

static volatile int traps;
static siginfo_t seen;
static void *volatile at;

static void trapped(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    traps++;
    seen = *info;
}

static int trap(void) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_TRAP | 77), ELSE(SECCOMP_RET_ALLOW));
    long result = SYS_getppid;
    __asm__ volatile("syscall\n lea (%%rip), %1" : "+a"(result), "=r"(at) : : "rcx", "r11", "memory");
    printf("trapped %d: code %d, errno %d, call %d, arch %x, at %d, result %d\n", traps, seen.si_code, seen.si_errno,
           seen.si_syscall, seen.si_arch, (char *)at - (char *)seen.si_call_addr < 16, result == SYS_getppid);
    raise(SIGSYS);
    printf("sent: %d, code %d\n", traps, seen.si_code);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fflush(stdout);
    getppid();
    return 6;
}

static int untrapped(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_TRAP), ELSE(SECCOMP_RET_ALLOW));
    return getppid() > 0;
}

static int killed(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_KILL_PROCESS), ELSE(SECCOMP_RET_ALLOW));
    return getppid() > 0;
}

static int unknown(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, 0x12340000), ELSE(SECCOMP_RET_ALLOW));
    return getppid() > 0;
}

static int untraced(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_TRACE), ELSE(SECCOMP_RET_ALLOW));
    return getppid() == -1 && errno == ENOSYS ? 7 : 1;
}

static int alone(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_KILL_THREAD), ELSE(SECCOMP_RET_ALLOW));
    return getppid() > 0;
}

static int strict(void) {
    fflush(stdout);
    printf("strict: %d\n", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    fflush(stdout);
    syscall(SYS_exit, 8);
    return 1;
}

static int strictly_killed(void) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    return getppid() > 0;
}

static void *ask(void *argument) {
    (void)argument;
    return (void *)(long)getppid();
}

static pthread_barrier_t barrier;

static void *ask_later(void *argument) {
    (void)argument;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return (void *)(long)getppid();
}

static int threads(void) {
    pthread_t earlier, later;
    void *result;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&earlier, NULL, ask_later, NULL);
    pthread_barrier_wait(&barrier);
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_ERRNO | 1), ELSE(SECCOMP_RET_ALLOW));
    pthread_create(&later, NULL, ask, NULL);
    pthread_join(later, &result);
    printf("inherited: %ld\n", (long)result);
    printf("synchronized: %ld\n",
           FILTER(SECCOMP_FILTER_FLAG_TSYNC, NUMBER, IS(SYS_getppid, SECCOMP_RET_ERRNO | 2), ELSE(SECCOMP_RET_ALLOW)));
    pthread_barrier_wait(&barrier);
    pthread_join(earlier, &result);
    printf("elsewhere: %ld %s\n", (long)result, strerror(errno));
    return 9;
}

static char *self;

static int executed(void) {
    FILTER(0, NUMBER, IS(SYS_getppid, SECCOMP_RET_ERRNO | 44), ELSE(SECCOMP_RET_ALLOW));
    FILTER(0, NUMBER, IS(SYS_getpgrp, SECCOMP_RET_ERRNO | 45), ELSE(SECCOMP_RET_ALLOW));
    execl(self, self, "again", NULL);
    return 1;
}

static void refusals(void) {
    struct sock_filter program[] = {NUMBER, ELSE(SECCOMP_RET_ALLOW)};
    printf("flags: %ld %s\n", filter(1 << 20, program, 2), strerror(errno));
    printf("empty: %ld %s\n", filter(0, program, 0), strerror(errno));
    printf("open: %ld %s\n", filter(0, program, 1), strerror(errno));
    printf("nowhere: %ld %s\n", filter(0, (void *)8, 2), strerror(errno));
    program[0].k = 2;
    printf("odd: %ld %s\n", filter(0, program, 2), strerror(errno));
    unsigned action = SECCOMP_RET_TRAP;
    printf("known: %ld\n", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    action = 0x12340000;
    printf("unknown: %ld %s\n", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), strerror(errno));
    printf("mode: %d\n", prctl(PR_GET_SECCOMP));
}

int main(int argc, char **argv) {
    if (argc > 1) {
        printf("again: %d %ld", prctl(PR_GET_SECCOMP), (long)getppid());
        printf(" %d", errno);
        printf(" %ld %d\n", (long)syscall(SYS_getpgrp), errno);
        return 10;
    }
    self = argv[0];
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    refusals();
    printf("errors: %d\n", status_of(errors));
    printf("trap: %d\n", status_of(trap));
    printf("untrapped: %d\n", status_of(untrapped));
    printf("killed: %d, unknown: %d, untraced: %d, alone: %d\n", status_of(killed), status_of(unknown),
           status_of(untraced), status_of(alone));
    printf("strict: %d %d\n", status_of(strict), status_of(strictly_killed));
    printf("threads: %d\n", status_of(threads));
    printf("executed: %d\n", status_of(executed));
    return 0;
}
