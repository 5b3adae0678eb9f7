/*
 * Running a vCPU, and stopping it from another thread.
 *
 * A runner ties a vCPU's file descriptor to its mapped `struct kvm_run`.  The caller keeps the
 * mapping alive until kvm_runner_close() has returned 0; after that no function here touches it.
 */
#ifndef KVM_IOCTLS_RUNNER_H
#define KVM_IOCTLS_RUNNER_H

#include "_newer.h"
#include "_zones.h"

#include <pthread.h>
#include <sys/types.h>

/* Which signals wait while the guest runs: bit n - 1 stands for signal n. */
struct kvm_signal_set {
    uint64_t bits;
    int given; /* if 0 there is none: they are the thread's own */
};

struct kvm_runner {
    pthread_mutex_t lock;  /* guards what follows; never held across KVM_RUN */
    struct kvm_run *page;  /* NULL when closed */
    pid_t thread;          /* the kernel's id of the thread that has the vCPU, or 0 */
    int inside;            /* whether it is at KVM_RUN: then a kick is also a signal */
    int signalled;         /* whether it has been sent one since it entered */
    struct kvm_signal_set mask; /* what set_signal_mask() wants */

    int fd;
    uint64_t size;      /* of the mapping */
    unsigned forks;     /* of the process when the vCPU was made: a child has one more */

    /* Of the thread that has the vCPU. */
    struct kvm_zone *zones;
    unsigned zone_count;
    struct kvm_signal_set wanted;  /* `mask` when it entered */
    struct kvm_signal_set applied; /* what the kernel has */
};

/* The signal that kicks vCPU threads; installs its handler at the first call. -errno on failure. */
int kvm_kick_signal(void);

/* Answers of the functions below that are not the kernel's: those are 0 or -errno. */
#define KVM_RUNNER_CLOSED 1
#define KVM_RUNNER_BUSY 2

void kvm_runner_open(struct kvm_runner *runner, int fd, void *page, uint64_t size);

/* Takes the vCPU for this thread.  After 0, and only then, it runs and leaves it. */
int kvm_runner_enter(struct kvm_runner *runner);

/*
 * Runs the guest until an exit that no zone retires; then the page is the caller's until it leaves.
 * After -EAGAIN the vCPU wants to be run again, once the caller has looked after its signals.
 */
int kvm_runner_run(struct kvm_runner *runner);
void kvm_runner_leave(struct kvm_runner *runner);

int kvm_runner_kick(struct kvm_runner *runner);

/* Exchanges the zones with those in `*zones`, if no thread has the vCPU. */
int kvm_runner_set_zones(struct kvm_runner *runner, struct kvm_zone **zones, unsigned count);

/* Counts from the next run on. */
void kvm_runner_set_mask(struct kvm_runner *runner, struct kvm_signal_set mask);

int kvm_runner_close(struct kvm_runner *runner);

#endif
