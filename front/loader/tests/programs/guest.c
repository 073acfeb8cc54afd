// A client of KVM's: a guest of a few instructions, whose output it prints.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int calls;

static void ignore(int signal) {
    (void)signal;
    calls++;
}

// A signal that the thread blocks, and a run lets in, ends the run, and stays pending.
static int let_in(int vcpu, unsigned char *memory) {
    struct {
        struct kvm_signal_mask head;
        unsigned long set;
    } __attribute__((packed)) mask = {{.len = 8}, 0};
    memcpy(memory, "\xeb\xfe", 2);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGALRM, ignore);
    if (ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask))
        return 10;
    for (int i = 0; i < 3; i++) {
        struct itimerval once = {{0, 0}, {0, 5000}};
        setitimer(ITIMER_REAL, &once, NULL);
        int signal;
        if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EINTR)
            return 11;
        // Pending, it ends the next one, too.
        if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EINTR)
            return 12;
        if (sigwait(&set, &signal) || signal != SIGALRM || calls)
            return 13;
    }
    return ioctl(vcpu, KVM_SET_SIGNAL_MASK, NULL) ? 14 : 0;
}

// One that is handled ends it as well, after its handler has run.
static int interrupted(int vcpu) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    for (int i = 0; i < 3; i++) {
        struct itimerval once = {{0, 0}, {0, 5000}};
        setitimer(ITIMER_REAL, &once, NULL);
        if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EINTR || calls != i + 1)
            return 20;
    }
    return 0;
}

static const char text[] = "Hi from a guest\n";

int main(void) {
    struct stat stat_of;
    if (access("/dev/kvm", R_OK | W_OK) || stat("/dev/kvm", &stat_of) || !S_ISCHR(stat_of.st_mode))
        return 1;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    unsigned char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = 4096, .userspace_addr = (unsigned long)memory};
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
        return 2;
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rflags = 2};
    ioctl(vcpu, KVM_SET_REGS, &regs);
    int wrong = let_in(vcpu, memory);
    if (wrong || (wrong = interrupted(vcpu)))
        return wrong;
    // mov si, 0x100; mov cx, length; mov dx, 0x3f8; rep outsb; hlt
    unsigned char code[] = {0xbe, 0, 1, 0xb9, sizeof text - 1, 0, 0xba, 0xf8, 3, 0xf3, 0x6e, 0xf4};
    memcpy(memory, code, sizeof code);
    memcpy(memory + 0x100, text, sizeof text);
    ioctl(vcpu, KVM_SET_REGS, &regs);
    while (!ioctl(vcpu, KVM_RUN, 0)) {
        if (run->exit_reason == KVM_EXIT_IO)
            fwrite((char *)run + run->io.data_offset, run->io.size, run->io.count, stdout);
        else
            break;
    }
    return run->exit_reason == KVM_EXIT_HLT ? 0 : 3;
}
