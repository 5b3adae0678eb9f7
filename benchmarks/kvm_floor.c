/*
 * The floor of benchmarks/kvm_ioctls.py: the same guests, run by C alone.
 *
 * usage: kvm_floor MEASUREMENT EXITS, prints one line `name value` per measure.  Every failure ends
 * it with 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 0x10000, CODE = 0x1000, OFFLOADED = 50000, CALLS = 20000, MACHINES = 51 };

static int kvm, vm, vcpu, run_size;
static struct kvm_run *run;
static uint8_t *memory;

static void need(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void open_vcpu(void)
{
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    need(kvm >= 0, "/dev/kvm");
    run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    need(vm >= 0, "KVM_CREATE_VM");
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(vcpu >= 0, "KVM_CREATE_VCPU");
    run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    need(run != MAP_FAILED, "mmap");
}

static void close_vcpu(void)
{
    munmap(run, (size_t)run_size);
    close(vcpu);
    close(vm);
    close(kvm);
}

static void load(const char *code, size_t size, uint64_t ds_base)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rax = 0x41};

    memcpy(memory + CODE, code, size);
    need(ioctl(vcpu, KVM_GET_SREGS, &sregs) == 0, "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.ds.base = ds_base;
    need(ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0, "KVM_SET_SREGS");
    need(ioctl(vcpu, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
}

static uint64_t one_exit(uint32_t reason)
{
    need(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
    need(run->exit_reason == reason, "another exit");
    if (reason == KVM_EXIT_IO)
        return run->io.port + *((uint8_t *)run + run->io.data_offset);
    if (!run->mmio.is_write)
        run->mmio.data[0] = 0x5a;
    return run->mmio.phys_addr + run->mmio.data[0];
}

static void exits(const char *name, long count, uint32_t reason, const char *code, size_t size)
{
    uint64_t sum = 0;

    load(code, size, 0x20000);
    for (long n = 0; n < count / 20; n++)
        sum += one_exit(reason);
    double start = now();
    for (long n = 0; n < count; n++)
        sum += one_exit(reason);
    double seconds = now() - start;
    need(sum != 0, "sum");
    printf("%s %.9g\n", name, (double)count / seconds);
}

/* mov dx, 0x3f8; mov ecx, OFFLOADED; 1: out dx, al; dec ecx; jnz 1b; hlt */
static const char loop_code[] = "\xba\xf8\x03\x66\xb9\x50\xc3\x00\x00\xee\x66\x49\x75\xfb\xf4";

static void report_offload(const char *name, double start)
{
    printf("%s %.9g\n", name, (now() - start) / OFFLOADED * 1e9);
}

/* What the guest itself takes for a round of that loop: here its instructions are emulated. */
static void offload_nothing(void)
{
    char code[sizeof loop_code];

    memcpy(code, loop_code, sizeof code);
    code[9] = '\x90'; /* nop instead of out */
    load(code, sizeof code, 0);
    double start = now();
    need(ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_HLT, "KVM_RUN");
    report_offload("guest_ns", start);
}

static void offload_user(void)
{
    uint64_t sum = 0;

    load(loop_code, sizeof loop_code, 0);
    double start = now();
    for (;;) {
        need(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
        if (run->exit_reason == KVM_EXIT_HLT)
            break;
        sum += *((uint8_t *)run + run->io.data_offset);
    }
    need(sum == 0x41ull * OFFLOADED, "sum");
    report_offload("loop_ns", start);
}

static void offload_eventfd(void)
{
    uint64_t count;
    int event = eventfd(0, 0);
    struct kvm_ioeventfd what = {.addr = 0x3f8, .fd = event, .flags = KVM_IOEVENTFD_FLAG_PIO};

    need(ioctl(vm, KVM_IOEVENTFD, &what) == 0, "KVM_IOEVENTFD");
    load(loop_code, sizeof loop_code, 0);
    double start = now();
    need(ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_HLT, "KVM_RUN");
    report_offload("ioeventfd_ns", start);
    need(read(event, &count, 8) == 8 && count == OFFLOADED, "eventfd");
    what.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    need(ioctl(vm, KVM_IOEVENTFD, &what) == 0, "KVM_IOEVENTFD");
    close(event);
}

static void offload_coalesced(void)
{
    struct kvm_coalesced_mmio_zone zone = {.addr = 0x3f8, .size = 1, .pio = 1};
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)run + 2 * 4096);
    unsigned entries = (4096 - sizeof *ring) / sizeof ring->coalesced_mmio[0];
    uint64_t sum = 0;

    need(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone) == 0, "KVM_REGISTER_COALESCED_MMIO");
    load(loop_code, sizeof loop_code, 0);
    double start = now();
    do {
        need(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
        for (; ring->first != ring->last; ring->first = (ring->first + 1) % entries)
            sum += ring->coalesced_mmio[ring->first].data[0];
        if (run->exit_reason == KVM_EXIT_IO) /* the ring was full */
            sum += *((uint8_t *)run + run->io.data_offset);
    } while (run->exit_reason != KVM_EXIT_HLT);
    report_offload("coalesced_ns", start);
    need(sum == 0x41ull * OFFLOADED, "sum");
    need(ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone) == 0, "KVM_UNREGISTER_COALESCED_MMIO");
}

static void calls(const char *name, unsigned long request, void *argument)
{
    double start = now();
    for (int n = 0; n < CALLS; n++)
        need(ioctl(vcpu, request, argument) == 0, name);
    printf("%s %.9g\n", name, (now() - start) / CALLS * 1e9);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void machines(void)
{
    double took[MACHINES];

    for (int n = 0; n < MACHINES; n++) {
        double start = now();
        open_vcpu();
        took[n] = (now() - start) * 1e6;
        close_vcpu();
    }
    qsort(took, MACHINES, sizeof *took, by_value);
    printf("create_us %.9g\n", took[MACHINES / 2]);
}

static void registers(void)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;

    calls("get_regs_ns", KVM_GET_REGS, &regs);
    calls("set_regs_ns", KVM_SET_REGS, &regs);
    calls("get_sregs_ns", KVM_GET_SREGS, &sregs);
    calls("set_sregs_ns", KVM_SET_SREGS, &sregs);
}

static void measure(const char *name, long count)
{
    if (strcmp(name, "pio") == 0)
        exits("pio_rate", count, KVM_EXIT_IO, "\xba\xf8\x03\xee\xeb\xfd", 6);
    else if (strcmp(name, "mmio_write") == 0)
        exits("mmio_write_rate", count, KVM_EXIT_MMIO, "\xa2\x00\x00\xeb\xfb", 5);
    else if (strcmp(name, "mmio_read") == 0)
        exits("mmio_read_rate", count, KVM_EXIT_MMIO, "\xa0\x00\x00\xeb\xfb", 5);
    else if (strcmp(name, "loops") == 0)
        offload_nothing(), offload_user(), offload_eventfd(), offload_coalesced();
    else
        registers();
}

int main(int argc, char **argv)
{
    need(argc == 3, "two arguments");
    if (strcmp(argv[1], "create") == 0) {
        machines();
        return 0;
    }
    open_vcpu();
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {
        .memory_size = MEMORY, .userspace_addr = (uintptr_t)memory};
    need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "memory");
    measure(argv[1], atol(argv[2]));
    close_vcpu();
    return 0;
}
