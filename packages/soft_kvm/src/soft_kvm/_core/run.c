/*
 * KVM_RUN: the vCPU's own stack, its turns with the engine, and its exits.
 *
 * The engine runs on a stack of its own, so that an I/O exit can leave in the middle of an
 * instruction and come back to finish it; stopping and re-executing would repeat side effects.
 * A vCPU that left that way keeps the baton until it runs again: the engine cannot be entered
 * for another vCPU on top of a half-done instruction.
 */
#include "machine.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { SLICE_NS = 500000, SK_REPLACED = -1 };

void sk_leave(struct sk_vcpu *v, enum sk_outcome outcome)
{
    v->outcome = outcome;
    swapcontext(&v->engine, &v->caller);
}

/* ---- on the engine's stack ------------------------------------------------------------------- */

/* An exit at rest: the caller may do anything to the machine before the next run, change its code too. */
static void give_exit(struct sk_vcpu *v, uint32_t reason)
{
    v->run->exit_reason = reason;
    v->stale = true;
    sk_leave(v, SK_EXIT);
}

static void give_internal_error(struct sk_vcpu *v, int code)
{
    snprintf(v->error, sizeof v->error, "%s at rip 0x%llx", sk_uc.strerror(code),
             (unsigned long long)image_u64(&v->image, v->image.at->eip));
    v->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    v->run->internal.ndata = 0;
    give_exit(v, KVM_EXIT_INTERNAL_ERROR);
}

static void give_shutdown(struct sk_vcpu *v)
{
    v->dead = true;
    give_exit(v, KVM_EXIT_SHUTDOWN);
}

static int emulate(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;
    int code;

    if ((vm->map_changed || !vm->hole_count) && !sk_sync_map(vm))
        return UC_ERR_NOMEM;
    v->stop = SK_STOP_NONE;
    v->unchecked = false;
    v->budget = 1;
    sk_image_store(v);
    if (v->stale)
        sk_code_flush(vm);
    else if (v->flush)
        sk_uc.ctl(vm->uc, UC_CTL_FLUSH_TLB);
    v->flush = v->stale = false;
    code = sk_uc.emu_start(vm->uc, image_u64(&v->image, v->image.at->eip), 0, 0, 0);
    if (v->replaced) {
        v->replaced = false;
        v->flush = true;
        return SK_REPLACED;
    }
    sk_image_load(v);
    image_set_rflags(&v->image, sk_rflags(v)); /* at rest nothing is lazy */
    return code;
}

static void after_emulation(struct sk_vcpu *v, int code)
{
    if (code == SK_REPLACED || (code == UC_OK && v->stop == SK_STOP_SETTLE))
        return;
    if (code != UC_OK)
        give_internal_error(v, code);
    else if (v->stop == SK_STOP_SHUTDOWN)
        give_shutdown(v);
    else if (v->stop == SK_STOP_INTERRUPTED)
        sk_leave(v, SK_INTERRUPTED);
    else if (v->stop == SK_STOP_YIELD)
        sk_leave(v, SK_YIELD);
    else if (v->stop == SK_STOP_WINDOW)
        give_exit(v, KVM_EXIT_IRQ_WINDOW_OPEN);
    else if (v->vm->chip)
        sk_leave(v, SK_HALTED);
    else
        give_exit(v, KVM_EXIT_HLT);
}

static void engine_main(unsigned high, unsigned low)
{
    struct sk_vcpu *v = (struct sk_vcpu *)((uintptr_t)high << 32 | low); /* makecontext passes only ints */

    for (;;) {
        if (v->dead) {
            give_exit(v, KVM_EXIT_SHUTDOWN);
        } else if (v->unchecked && sk_refuses_entry(v)) {
            v->run->fail_entry.hardware_entry_failure_reason = 0x80000021; /* SDM vol. 3 app. C: invalid guest state */
            v->run->fail_entry.cpu = v->id;
            give_exit(v, KVM_EXIT_FAIL_ENTRY);
        } else if (sk_has_event(v) && sk_inject(v) == SK_TRIPLE_FAULT) {
            give_shutdown(v);
        } else {
            after_emulation(v, emulate(v));
        }
    }
}

void sk_prepare_stack(struct sk_vcpu *v, size_t size)
{
    getcontext(&v->engine);
    v->engine.uc_stack.ss_sp = v->stack;
    v->engine.uc_stack.ss_size = size;
    v->engine.uc_link = NULL;
    sigfillset(&v->engine.uc_sigmask);
    makecontext(&v->engine, (void (*)(void))engine_main, 2, (unsigned)((uintptr_t)v >> 32), (unsigned)(uintptr_t)v);
}

/* ---- on the caller's stack ------------------------------------------------------------------- */

static void wait_a_little(pthread_cond_t *condition, pthread_mutex_t *lock)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000; /* signals are blocked here and must be looked for */
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(condition, lock, &until);
}

int sk_acquire(struct sk_vcpu *v, bool interruptible)
{
    struct sk_vm *vm = v->vm;

    pthread_mutex_lock(&vm->baton_lock);
    if (v->parked) {
        v->parked = false;
        pthread_mutex_unlock(&vm->baton_lock);
        return 0;
    }
    atomic_fetch_add(&vm->waiting, 1);
    while (vm->holder) {
        wait_a_little(&vm->baton_free, &vm->baton_lock);
        if (interruptible && vm->holder && sk_wants_stop(v, true)) {
            atomic_fetch_sub(&vm->waiting, 1);
            pthread_mutex_unlock(&vm->baton_lock);
            return -EINTR;
        }
    }
    atomic_fetch_sub(&vm->waiting, 1);
    vm->holder = v;
    pthread_mutex_unlock(&vm->baton_lock);
    v->slice_end = sk_now() + SLICE_NS;
    if (vm->current != v) {
        if (vm->current)
            sk_image_load(vm->current);
        vm->current = v;
        sk_image_store(v);
        v->flush = true;
    }
    return 0;
}

void sk_release(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;

    pthread_mutex_lock(&vm->baton_lock);
    if (v->in_hook)
        v->parked = true;
    else
        vm->holder = NULL;
    pthread_cond_broadcast(&vm->baton_free);
    pthread_mutex_unlock(&vm->baton_lock);
}

static int run_until_exit(struct sk_vcpu *v)
{
    for (;;) {
        int result;

        if (!v->in_hook) {
            if (sk_wants_stop(v, true))
                return -EINTR;
            if (v->vm->chip && v->mp_state != KVM_MP_STATE_RUNNABLE && (result = sk_wait_halted(v)))
                return result;
        }
        result = sk_acquire(v, true);
        if (result)
            return result;
        if (v->run->immediate_exit)
            v->budget = 1; /* a half-done instruction is finished first, as KVM does */
        swapcontext(&v->caller, &v->engine);
        sk_release(v);
        if (v->outcome == SK_EXIT)
            return 0;
        if (v->outcome == SK_INTERRUPTED)
            return -EINTR;
        if (v->outcome == SK_HALTED)
            v->mp_state = KVM_MP_STATE_HALTED;
        else
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); /* let the one who waits for the baton have it */
    }
}

/* What KVM_RUN tells a VMM that injects interrupts itself. */
static void report_window(struct sk_vcpu *v)
{
    bool open;

    if (v->in_hook)
        sk_image_load(v);
    open = sk_can_interrupt(v);
    v->run->if_flag = (sk_rflags(v) & SK_FL_IF) != 0;
    v->run->ready_for_interrupt_injection = open && v->user_interrupt < 0;
    v->run->apic_base = v->apic_base;
}

int sk_vcpu_run(struct sk_vcpu *v)
{
    sigset_t ours;
    int result;

    pthread_mutex_lock(&v->mutex);
    sigfillset(&ours);
    sigdelset(&ours, SIGSEGV);
    sigdelset(&ours, SIGBUS);
    sigdelset(&ours, SIGFPE);
    sigdelset(&ours, SIGILL);
    sigdelset(&ours, SIGTRAP);
    sigdelset(&ours, SIGABRT);
    pthread_sigmask(SIG_BLOCK, &ours, &v->caller_mask);
    result = run_until_exit(v);
    if (result == -EINTR)
        v->run->exit_reason = KVM_EXIT_INTR;
    if (!v->vm->chip)
        report_window(v);
    pthread_sigmask(SIG_SETMASK, &v->caller_mask, NULL);
    pthread_mutex_unlock(&v->mutex);
    return result;
}
