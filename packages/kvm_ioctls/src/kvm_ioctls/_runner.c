/*
 * KVM_RUN, and the kick that ends it.
 *
 * A kick must neither be lost nor count twice.  The two dangers are a kick that arrives just before
 * KVM_RUN is entered, and one that arrives when KVM_RUN has just ended by itself:
 *
 *   - kvm_run.immediate_exit makes KVM_RUN return EINTR before it enters the guest, and the signal
 *     makes it return EINTR when it is already there (Documentation/virt/kvm/api.rst, "KVM_RUN").
 *     The kick sets the flag first, so whichever moment the thread is in, one of the two stops it.
 *   - Flag and signal are written under the lock, and the thread announces that it enters and that
 *     it has left under the same lock.  So a signal is only ever sent to a thread that is between
 *     the two, and the flag is cleared by the very run that reports the interruption: a kick that
 *     meets a thread on its way out for another reason stays in the flag for the next run.
 *
 * The signal's handler does nothing: its delivery is the message.
 */
#define _GNU_SOURCE
#include "_runner.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t signal_lock = PTHREAD_MUTEX_INITIALIZER;
static int kick_signal; /* 0 until chosen */

/* The thread's own id, and whether it lets the kick signal through: looked up once per thread. */
static __thread pid_t own_id;

static void ignore_signal(int number)
{
    (void)number;
}

/* The first real-time signal that nobody in this process has given a meaning to. */
static int choose_signal(void)
{
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
        struct sigaction current;
        if (sigaction(number, NULL, &current) != 0)
            return -errno;
        if ((current.sa_flags & SA_SIGINFO) || current.sa_handler != SIG_DFL)
            continue;
        /* SA_RESTART: a kick that lands after KVM_RUN must not disturb other system calls. */
        struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        if (sigaction(number, &action, NULL) != 0)
            return -errno;
        return number;
    }
    return -EBUSY;
}

int kvm_kick_signal(void)
{
    pthread_mutex_lock(&signal_lock);
    if (kick_signal <= 0)
        kick_signal = choose_signal();
    int number = kick_signal;
    pthread_mutex_unlock(&signal_lock);
    return number;
}

static pid_t enter_thread(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kvm_kick_signal());
    /* A thread inherits its creator's mask; a blocked kick would leave a busy guest running. */
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return (pid_t)syscall(SYS_gettid);
}

/* After a fork the child's thread has an id of its own; the parent's is somebody else's. */
static void forget_thread(void)
{
    own_id = 0;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_thread);
}

void kvm_runner_open(struct kvm_runner *runner, int fd, void *page, uint64_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    memcpy(&runner->lock, &lock, sizeof lock);
    runner->page = page;
    runner->thread = 0;
    runner->fd = fd;
    runner->size = size;
    runner->zones = NULL;
    runner->zone_count = 0;
}

static int run_once(const struct kvm_runner *runner)
{
    return ioctl(runner->fd, KVM_RUN, 0) < 0 ? -errno : 0;
}

/* Whether the guest can go on without anybody having looked at the exit. */
static int goes_on(const struct kvm_runner *runner, int result)
{
    if (result == 0 && runner->zone_count > 0)
        return kvm_zones_retire(runner->zones, runner->zone_count, runner->page, runner->size);
    /* EAGAIN: the vCPU changed its state (an AP met its SIPI) and wants to be run again. */
    return result == -EAGAIN;
}

int kvm_runner_run(struct kvm_runner *runner)
{
    int result;

    if (own_id == 0)
        own_id = enter_thread();

    pthread_mutex_lock(&runner->lock);
    if (runner->page == NULL || runner->thread != 0) {
        result = runner->page == NULL ? KVM_RUNNER_CLOSED : KVM_RUNNER_BUSY;
        pthread_mutex_unlock(&runner->lock);
        return result;
    }
    runner->thread = own_id;
    pthread_mutex_unlock(&runner->lock);

    do
        result = run_once(runner);
    while (goes_on(runner, result));

    pthread_mutex_lock(&runner->lock);
    runner->thread = 0;
    if (result == -EINTR)
        __atomic_store_n(&runner->page->immediate_exit, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&runner->lock);
    return result;
}

int kvm_runner_kick(struct kvm_runner *runner)
{
    int result = 0;

    pthread_mutex_lock(&runner->lock);
    if (runner->page == NULL) {
        result = KVM_RUNNER_CLOSED;
    } else {
        __atomic_store_n(&runner->page->immediate_exit, 1, __ATOMIC_SEQ_CST);
        /* The thread cannot end while it is announced: it takes the lock before it leaves. */
        if (runner->thread != 0
            && syscall(SYS_tgkill, getpid(), runner->thread, kick_signal) != 0)
            result = -errno;
    }
    pthread_mutex_unlock(&runner->lock);
    return result;
}

int kvm_runner_set_zones(struct kvm_runner *runner, struct kvm_zone **zones, unsigned count)
{
    int result = 0;

    pthread_mutex_lock(&runner->lock);
    if (runner->thread != 0) {
        result = KVM_RUNNER_BUSY;
    } else {
        struct kvm_zone *former = runner->zones;
        runner->zones = *zones;
        runner->zone_count = count;
        *zones = former;
    }
    pthread_mutex_unlock(&runner->lock);
    return result;
}

int kvm_runner_close(struct kvm_runner *runner)
{
    int result = 0;

    pthread_mutex_lock(&runner->lock);
    if (runner->thread != 0)
        result = KVM_RUNNER_BUSY;
    else
        runner->page = NULL;
    pthread_mutex_unlock(&runner->lock);
    return result;
}
