// Says how many arguments it has, and ends with 7 if its /dev/kvm is ring3's, else with 8.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    printf("%s with %d arguments\n", argv[0], argc);
    fflush(stdout);
    int kvm = open("/dev/kvm", O_RDWR);
    char link[64], target[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", kvm);
    if (readlink(link, target, sizeof target - 1) < 0)
        return 8;
    return strstr(target, "memfd:") ? 7 : 8;
}
