// A client of KVM's: a guest of a few instructions, whose output it prints.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
    // mov si, 0x100; mov cx, length; mov dx, 0x3f8; rep outsb; hlt
    unsigned char code[] = {0xbe, 0, 1, 0xb9, sizeof text - 1, 0, 0xba, 0xf8, 3, 0xf3, 0x6e, 0xf4};
    memcpy(memory, code, sizeof code);
    memcpy(memory + 0x100, text, sizeof text);
    struct kvm_sregs sregs;
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rflags = 2};
    ioctl(vcpu, KVM_SET_REGS, &regs);
    while (!ioctl(vcpu, KVM_RUN, 0)) {
        if (run->exit_reason == KVM_EXIT_IO)
            fwrite((char *)run + run->io.data_offset, run->io.size, run->io.count, stdout);
        else
            break;
    }
    return run->exit_reason == KVM_EXIT_HLT ? 0 : 3;
}
