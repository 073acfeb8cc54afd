// What a program finds when it begins, and how it makes others. Its output is the same with and without ring3.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int status_of(pid_t child) {
    int status = -1;
    if (waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void beginning(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        printf("argument %s\n", argv[i]);
    for (char **e = environ; *e; e++)
        if (strncmp(*e, "RING3_", 6) && strncmp(*e, "_=", 2))
            printf("environment %s\n", *e);
    char name[16] = "", exe[4096] = "";
    prctl(PR_GET_NAME, name);
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = 0;
    printf("name %s, program %s\n", name, exe);
    char head[4] = "";
    int fd = open("/proc/self/exe", O_RDONLY);
    printf("it is ELF: %d\n", read(fd, head, 4) == 4 && !memcmp(head, ELFMAG, 4));
    close(fd);
    char line[4096] = "";
    fd = open("/proc/self/cmdline", O_RDONLY);
    len = read(fd, line, sizeof line);
    close(fd);
    for (ssize_t i = 0; i < len; i++)
        putchar(line[i] ? line[i] : ' ');
    printf("\npage %ld, base %ld, random %d, executed as %s\n", getauxval(AT_PAGESZ), getauxval(AT_BASE),
           getauxval(AT_RANDOM) != 0, (char *)getauxval(AT_EXECFN));
    const Elf64_Phdr *headers = (const void *)getauxval(AT_PHDR);
    int loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        loads += headers[i].p_type == PT_LOAD;
    printf("loaded parts: %d\n", loads > 1);
}

static void memory(void) {
    // The C libraries differ in what they let a program do with the end of its data.
    char *start = (char *)syscall(SYS_brk, 0);
    char *end = (char *)syscall(SYS_brk, start + 100000);
    memset(start, 1, 100000);
    end = (char *)syscall(SYS_brk, start) == start ? end : NULL;
    printf("data grows and shrinks: %d\n", end == start + 100000);
    static char zeroes[1 << 20];
    int sum = 0;
    for (size_t i = 0; i < sizeof zeroes; i++)
        sum += zeroes[i];
    printf("zeroes: %d\n", sum);
    char *all = malloc(10 << 20);
    memset(all, 2, 10 << 20);
    free(all);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("map: %d, ", page != MAP_FAILED && !page[5]);
    printf("unmap: %d\n", munmap(page, 4096));
    printf("bad open: %d %s\n", open((char *)8, O_RDONLY), strerror(errno));
    printf("bad read: %ld %s\n", (long)read(-1, page, 1), strerror(errno));
    printf("no such call: %ld %s\n", syscall(9999), strerror(errno));
}

static void children(char *self) {
    fflush(stdout);
    pid_t parent = getpid();
    pid_t child = fork();
    if (!child)
        _exit(getppid() == parent && getpid() != parent ? 7 : 1);
    printf("forked: %d\n", status_of(child));

    volatile int shared = 0;
    child = vfork();
    if (!child) {
        shared = 5;
        _exit(8);
    }
    printf("vforked: %d, shared %d\n", status_of(child), shared);

    char *words[] = {self, "again", NULL};
    fflush(stdout);
    child = vfork();
    if (!child) {
        execv("/proc/self/exe", words);
        _exit(1);
    }
    printf("executed: %d\n", status_of(child));

    char *shell[] = {"sh", "-c", "exit 9", NULL};
    int failed = posix_spawn(&child, "/bin/sh", NULL, NULL, shell, environ);
    printf("spawned: %d %d\n", failed, failed ? 0 : status_of(child));
    failed = posix_spawn(&child, "/nowhere/sh", NULL, NULL, shell, environ);
    printf("not spawned: %s\n", strerror(failed));
    printf("by a shell: %d\n", WEXITSTATUS(system("exit 10")));

    int memfd = memfd_create("copy", MFD_CLOEXEC), own = open("/proc/self/exe", O_RDONLY);
    char buffer[65536];
    for (ssize_t n; (n = read(own, buffer, sizeof buffer)) > 0;)
        if (write(memfd, buffer, n) != n)
            abort();
    fflush(stdout);
    child = fork();
    if (!child) {
        fexecve(memfd, words, environ);
        _exit(1);
    }
    printf("executed by descriptor: %d\n", status_of(child));
    execl("/nowhere", "nowhere", NULL);
    printf("not executed: %s\n", strerror(errno));
    execl("/etc/passwd", "passwd", NULL);
    printf("not executable: %s\n", strerror(errno));
    fflush(stdout);
    child = syscall(SYS_clone, SIGCHLD | CLONE_FS, 0, 0, 0, 0);
    if (!child)
        syscall(SYS_exit, 11);
    printf("cloned: %d\n", status_of(child));
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "again")) {
        printf("again: %s %d\n", argv[0], getpid() > 0);
        return 6;
    }
    beginning(argc, argv);
    memory();
    children(argv[0]);
    return 3;
}
