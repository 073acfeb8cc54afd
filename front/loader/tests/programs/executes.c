// A dynamically linked program that executes the program that it is given, in every way that there is.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#ifdef __GLIBC__
int execveat(int, const char *, char *const[], char *const[], int);
#else
static int execveat(int at, const char *path, char *const words[], char *const environment[], int flags) {
    return syscall(SYS_execveat, at, path, words, environment, flags);
}
#endif

static void finish(const char *way, pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    printf("%s: %d\n", way, WIFEXITED(status) ? WEXITSTATUS(status) : -status);
    fflush(stdout);
}

#define WAY(call) \
    do { \
        pid_t child = fork(); \
        if (!child) { \
            call; \
            _exit(100 + errno); \
        } \
        finish(#call, child); \
    } while (0)

int main(int argc, char **argv) {
    (void)argc;
    char *path = argv[1], *name = basename(strdup(path)), *directory = dirname(strdup(path));
    char *words[] = {name, "a", "b", "c", "d", "e", "f", NULL};
    setenv("PATH", directory, 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC), at = open(directory, O_RDONLY | O_CLOEXEC);
    int copy = memfd_create("copy", MFD_CLOEXEC);
    char buffer[65536];
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
        if (write(copy, buffer, n) != n)
            return 1;
    WAY(execve(path, words, environ));
    WAY(execv(path, words));
    WAY(execvp(name, words));
    WAY(execvpe(name, words, environ));
    WAY(execl(path, name, NULL));
    WAY(execl(path, name, "a", "b", "c", "d", "e", "f", NULL));
    WAY(execlp(name, name, "a", NULL));
    WAY(execle(path, name, "a", "b", "c", "d", "e", NULL, environ));
    WAY(fexecve(fd, words, environ));
    WAY(fexecve(copy, words, environ));
    WAY(execveat(at, name, words, environ, 0));
    WAY(execveat(copy, "", words, environ, AT_EMPTY_PATH));
    WAY(execv("/nowhere/program", words));
    pid_t child = -1;
    int failed = posix_spawn(&child, path, NULL, NULL, words, environ);
    finish(failed ? "not spawned" : "posix_spawn", child);
    failed = posix_spawnp(&child, name, NULL, NULL, words, environ);
    finish(failed ? "not spawned" : "posix_spawnp", child);
    child = vfork();
    if (!child) {
        execve(path, words, environ);
        _exit(100);
    }
    finish("vfork", child);
    return 0;
}
