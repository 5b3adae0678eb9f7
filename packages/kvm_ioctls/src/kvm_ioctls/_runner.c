/*
 * KVM_RUN, and the kick that ends it.
 *
 * Who has the vCPU.  A thread takes it (kvm_runner_enter), runs it, makes an exit of what the run
 * page says, and leaves it (kvm_runner_leave).  All that time the vCPU is busy for every other
 * thread: a second run() would overwrite a page that the first has not read yet, close() would unmap
 * it.  Only the middle part, from kvm_runner_enter() to the end of kvm_runner_run(), is `inside`:
 * there the thread may be in the guest, and takes a signal to come out.
 *
 * A kick must neither be lost nor count twice, nor may a thousand of them do more than one.
 *
 *   - kvm_run.immediate_exit makes KVM_RUN return EINTR before it enters the guest, and the signal
 *     makes it return EINTR when it is already there (Documentation/virt/kvm/api.rst, "KVM_RUN").
 *     The kick sets the flag first, so whichever moment the thread is in, one of the two stops it.
 *   - Flag and signal are written under the lock, and `inside` changes under the same lock.  So a
 *     signal is only ever sent to a thread that is inside, and the flag is cleared by the very run
 *     that reports the interruption: a kick that meets a thread on its way out for another reason
 *     stays in the flag for the next run.
 *   - One signal is enough to come out, so more are not sent until the thread has entered anew:
 *     real-time signals queue up, until RLIMIT_SIGPENDING is used up (EAGAIN), and a thread that is
 *     sent them faster than it takes them does nothing else any more.
 *
 * Other signals.  A signal that arrives inside KVM_RUN ends it.  One that arrives just before is
 * delivered and leaves no trace, as with every system call that waits.  For a thread that goes to
 * KVM_RUN once per run() that window is some hundred instructions.  With zones it would be everywhere
 * between two entries of a guest that may never come out otherwise.  There the thread blocks all
 * signals and the kernel lets them through while the guest runs, atomically (KVM_SET_SIGNAL_MASK):
 * whenever a signal comes, the entry that it precedes fails with EINTR.  That costs two system calls
 * per run(), which is why a run() without zones goes without: it is a fifteenth of an exit.
 *
 * The kick's handler does nothing: its delivery is the message.
 *
 * After fork() the child has a copy of all this, and the parent's page: KVM refuses it (EIO), the
 * lock may have been held by a thread that it does not have, and a flag in the page would stop the
 * parent's vCPU.  It is told by the number of forks, and touches neither lock nor page.
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
static unsigned forks;  /* how many lie between the first process and this one */

/* The thread's own id, 0 until it has let the kick signal through. */
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
static void after_fork(void)
{
    own_id = 0;
    forks++;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, after_fork);
}

void kvm_runner_open(struct kvm_runner *runner, int fd, void *page, uint64_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    memset(runner, 0, sizeof *runner);
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    memcpy(&runner->lock, &lock, sizeof lock);
    runner->page = page;
    runner->fd = fd;
    runner->size = size;
    runner->forks = forks;
}

/* Whether a thread has the vCPU.  Under the lock, except for the end of it: see leave. */
static int is_taken(const struct kvm_runner *runner)
{
    return __atomic_load_n(&runner->thread, __ATOMIC_ACQUIRE) != 0;
}

int kvm_runner_enter(struct kvm_runner *runner)
{
    int result = 0;

    if (runner->forks != forks)
        return -EIO; /* what KVM would say */
    if (own_id == 0)
        own_id = enter_thread();
    pthread_mutex_lock(&runner->lock);
    if (runner->page == NULL) {
        result = KVM_RUNNER_CLOSED;
    } else if (is_taken(runner)) {
        result = KVM_RUNNER_BUSY;
    } else {
        runner->thread = own_id;
        runner->inside = 1;
        runner->signalled = 0;
        runner->wanted = runner->mask;
    }
    pthread_mutex_unlock(&runner->lock);
    return result;
}

/* Without the lock: whoever still sees the thread there is told that the vCPU is busy. */
void kvm_runner_leave(struct kvm_runner *runner)
{
    __atomic_store_n(&runner->thread, 0, __ATOMIC_RELEASE);
}

static int run_once(const struct kvm_runner *runner)
{
    return ioctl(runner->fd, KVM_RUN, 0) < 0 ? -errno : 0;
}

/* The bits of the first 64 signals, which are all that there are, without the kick. */
static uint64_t bits_of(const sigset_t *set)
{
    uint64_t bits = 0;

    for (int number = 1; number <= 64; number++)
        if (number != kick_signal && sigismember(set, number) == 1)
            bits |= UINT64_C(1) << (number - 1);
    return bits;
}

/* KVM_SET_SIGNAL_MASK, unless the kernel has it already. */
static int apply_mask(struct kvm_runner *runner, struct kvm_signal_set wanted)
{
    struct {
        uint32_t length;
        uint8_t bits[sizeof wanted.bits]; /* struct kvm_signal_mask, which ends in an open array */
    } argument = {.length = sizeof argument.bits};

    if (wanted.given == runner->applied.given && wanted.bits == runner->applied.bits)
        return 0;
    memcpy(argument.bits, &wanted.bits, sizeof argument.bits);
    if (ioctl(runner->fd, KVM_SET_SIGNAL_MASK, wanted.given ? &argument : NULL) < 0)
        return -errno;
    runner->applied = wanted;
    return 0;
}

/* Everything but what the thread brings upon itself. */
static void fill_blockable(sigset_t *set)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

    sigfillset(set);
    for (size_t n = 0; n < sizeof faults / sizeof *faults; n++)
        sigdelset(set, faults[n]);
}

/*
 * Runs with the thread's signals blocked outside the guest.  Afterwards the thread's mask is what it
 * was, without the kick: a signal that made KVM_RUN return is still pending, and is delivered here.
 */
static int run_with_zones(struct kvm_runner *runner)
{
    struct kvm_signal_set wanted = runner->wanted;
    sigset_t all, own;

    fill_blockable(&all);
    pthread_sigmask(SIG_BLOCK, &all, &own);
    if (!wanted.given)
        wanted = (struct kvm_signal_set){.bits = bits_of(&own), .given = 1};
    int result = apply_mask(runner, wanted);
    if (result == 0)
        /* EAGAIN: the vCPU changed its state (an AP met its SIPI) and wants to be run again. */
        do
            result = run_once(runner);
        while (result == -EAGAIN
               || (result == 0
                   && kvm_zones_retire(runner->zones, runner->zone_count, runner->page,
                                       runner->size)));
    sigdelset(&own, kick_signal);
    pthread_sigmask(SIG_SETMASK, &own, NULL);
    return result;
}

static int run_without_zones(struct kvm_runner *runner)
{
    int result = apply_mask(runner, runner->wanted);

    return result == 0 ? run_once(runner) : result;
}

int kvm_runner_run(struct kvm_runner *runner)
{
    if (!runner->inside) { /* again, after -EAGAIN; else the thread has just entered */
        pthread_mutex_lock(&runner->lock);
        runner->inside = 1;
        runner->signalled = 0;
        pthread_mutex_unlock(&runner->lock);
    }
    int result = runner->zone_count > 0 ? run_with_zones(runner) : run_without_zones(runner);
    pthread_mutex_lock(&runner->lock);
    runner->inside = 0;
    if (result == -EINTR)
        __atomic_store_n(&runner->page->immediate_exit, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&runner->lock);
    return result;
}

int kvm_runner_kick(struct kvm_runner *runner)
{
    int result = 0;

    if (runner->forks != forks)
        return -EIO;
    pthread_mutex_lock(&runner->lock);
    if (runner->page == NULL) {
        result = KVM_RUNNER_CLOSED;
    } else {
        __atomic_store_n(&runner->page->immediate_exit, 1, __ATOMIC_SEQ_CST);
        /* The thread cannot end while it is inside: it takes the lock before it comes out. */
        if (runner->inside && !runner->signalled) {
            if (syscall(SYS_tgkill, getpid(), runner->thread, kick_signal) == 0)
                runner->signalled = 1;
            else
                result = -errno;
        }
    }
    pthread_mutex_unlock(&runner->lock);
    return result;
}

int kvm_runner_set_zones(struct kvm_runner *runner, struct kvm_zone **zones, unsigned count)
{
    int result = 0;

    if (runner->forks != forks)
        return -EIO;
    pthread_mutex_lock(&runner->lock);
    if (runner->page == NULL) {
        result = KVM_RUNNER_CLOSED;
    } else if (is_taken(runner)) {
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

void kvm_runner_set_mask(struct kvm_runner *runner, struct kvm_signal_set mask)
{
    if (runner->forks != forks)
        return;
    pthread_mutex_lock(&runner->lock);
    runner->mask = mask;
    pthread_mutex_unlock(&runner->lock);
}

int kvm_runner_close(struct kvm_runner *runner)
{
    int result = 0;

    if (runner->forks != forks) {
        runner->page = NULL;
        return 0;
    }
    pthread_mutex_lock(&runner->lock);
    if (is_taken(runner))
        result = KVM_RUNNER_BUSY;
    else
        runner->page = NULL;
    pthread_mutex_unlock(&runner->lock);
    return result;
}
