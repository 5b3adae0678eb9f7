/*
 * Running a vCPU, and stopping it from another thread.
 *
 * A runner ties a vCPU's file descriptor to its mapped `struct kvm_run`.  The caller keeps the
 * mapping alive until runner_close() has returned 0; after that no function here touches it.
 */
#ifndef KVM_IOCTLS_RUNNER_H
#define KVM_IOCTLS_RUNNER_H

#include "_newer.h"
#include "_zones.h"

#include <pthread.h>
#include <sys/types.h>

struct kvm_runner {
    pthread_mutex_t lock;  /* guards everything below; never held across KVM_RUN */
    struct kvm_run *page;  /* NULL when closed */
    pid_t thread;          /* the kernel's id of the thread inside KVM_RUN, or 0 */
    int fd;
    uint64_t size;           /* of the mapping */
    struct kvm_zone *zones;  /* changed only while no thread is inside */
    unsigned zone_count;
};

/* The signal that kicks vCPU threads; installs its handler at the first call. -errno on failure. */
int kvm_kick_signal(void);

/* Answers of the functions below that are not the kernel's: KVM_RUN's are 0 or -errno. */
#define KVM_RUNNER_CLOSED 1
#define KVM_RUNNER_BUSY 2

void kvm_runner_open(struct kvm_runner *runner, int fd, void *page, uint64_t size);

/* Runs the guest until an exit that no zone retires. */
int kvm_runner_run(struct kvm_runner *runner);

/* Exchanges the zones with those in `*zones`; KVM_RUNNER_BUSY, and nothing, while a thread runs. */
int kvm_runner_set_zones(struct kvm_runner *runner, struct kvm_zone **zones, unsigned count);
int kvm_runner_kick(struct kvm_runner *runner);
int kvm_runner_close(struct kvm_runner *runner);

#endif
