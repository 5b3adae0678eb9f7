/*
 * What reaches a vCPU from outside: signals and kicks, irqfds, timers, interrupts.
 *
 * Signals are blocked while the engine runs and looked for at block boundaries, so a signal ends
 * run() with EINTR exactly as it ends KVM_RUN.
 */
#include "machine.h"

#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

uint64_t sk_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

bool sk_wants_stop(const struct sk_vcpu *v, bool ask_kernel)
{
    sigset_t pending;

    if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
        return true;
    if (!ask_kernel || sigpending(&pending) || sigisemptyset(&pending))
        return false;
    for (int n = 1; n < NSIG; n++) /* only those that the caller has not blocked itself */
        if (sigismember(&pending, n) == 1 && sigismember(&v->caller_mask, n) == 0)
            return true;
    return false;
}

/* ---- lines and messages ---------------------------------------------------------------------- */

static void drive_route(struct sk_vm *vm, const struct kvm_irq_routing_entry *route, bool level)
{
    if (route->type == KVM_IRQ_ROUTING_IRQCHIP)
        sk_irqchip_set_pin(vm->chip, route->u.irqchip.irqchip, route->u.irqchip.pin, level);
    else if (level)
        sk_irqchip_send_msi(vm->chip, (uint64_t)route->u.msi.address_hi << 32 | route->u.msi.address_lo, route->u.msi.data);
}

void sk_drive_gsi(struct sk_vm *vm, uint32_t gsi, bool level)
{
    if (!vm->custom_routes) {
        if (gsi < SK_IOAPIC_PINS)
            sk_irqchip_set_gsi(vm->chip, gsi, level);
        return;
    }
    for (unsigned i = 0; i < vm->route_count; i++)
        if (vm->routes[i].gsi == gsi)
            drive_route(vm, &vm->routes[i], level);
}

/* Consumes what has come in on irqfds; irq_lock held. */
static void service_irqfds(struct sk_vm *vm)
{
    struct pollfd fds[SK_MAX_IRQFDS];
    uint64_t count;

    for (unsigned i = 0; i < vm->irqfd_count; i++)
        fds[i] = (struct pollfd){.fd = vm->irqfds[i].fd, .events = POLLIN};
    if (!vm->irqfd_count || poll(fds, vm->irqfd_count, 0) <= 0)
        return;
    for (unsigned i = 0; i < vm->irqfd_count; i++)
        if ((fds[i].revents & POLLIN) && read(fds[i].fd, &count, sizeof count) == sizeof count) {
            sk_drive_gsi(vm, vm->irqfds[i].gsi, true); /* an irqfd is an edge */
            sk_drive_gsi(vm, vm->irqfds[i].gsi, false);
        }
}

static void poll_locked(struct sk_vm *vm, uint64_t now)
{
    service_irqfds(vm);
    if (sk_irqchip_deadline(vm->chip) <= now)
        sk_irqchip_expire(vm->chip, now);
}

void sk_poll_inputs(struct sk_vm *vm, uint64_t now)
{
    pthread_mutex_lock(&vm->irq_lock);
    poll_locked(vm, now);
    if (vm->vcpu_count > 1)
        sk_wake_all(vm);
    pthread_mutex_unlock(&vm->irq_lock);
}

void sk_wake_all(struct sk_vm *vm)
{
    static const uint64_t one = 1;

    for (unsigned i = 0; i < SK_MAX_VCPUS; i++) {
        struct sk_vcpu *v = vm->vcpus[i];

        if (!v)
            continue;
        __atomic_store_n(&v->budget, 1, __ATOMIC_RELAXED);
        if (v->waiting && write(v->wake_fd, &one, sizeof one) < 0)
            continue; /* the counter is full: it is awake */
    }
}

/* ---- delivery -------------------------------------------------------------------------------- */

bool sk_has_event(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;
    bool has = v->pending_exception >= 0 || v->nmi_pending || v->user_interrupt >= 0;

    if (vm->chip && !has) {
        pthread_mutex_lock(&vm->irq_lock);
        has = sk_irqchip_has_interrupt(vm->chip, v->id);
        pthread_mutex_unlock(&vm->irq_lock);
    }
    return has;
}

bool sk_can_interrupt(const struct sk_vcpu *v)
{
    const struct sk_image *m = &v->image;

    return (image_u64(m, m->at->eflags) & SK_FL_IF) && !(image_hflags(m) & SK_HF_INHIBIT_IRQ);
}

static int next_vector(struct sk_vcpu *v)
{
    int vector = v->user_interrupt;

    v->user_interrupt = -1;
    if (vector < 0 && v->vm->chip) {
        pthread_mutex_lock(&v->vm->irq_lock);
        vector = sk_irqchip_acknowledge(v->vm->chip, v->id);
        pthread_mutex_unlock(&v->vm->irq_lock);
    }
    return vector;
}

/* Delivers the most urgent pending event into the loaded image. */
enum sk_injection sk_inject(struct sk_vcpu *v)
{
    uint64_t rip = image_u64(&v->image, v->image.at->eip);
    struct sk_event event = {.kind = SK_EXTERNAL_INTERRUPT, .return_rip = rip, .faulting_rip = rip};
    int vector;

    if (v->pending_exception >= 0) {
        event.kind = SK_EXCEPTION;
        event.vector = (uint8_t)v->pending_exception;
        event.has_error = v->pending_has_error;
        event.error = v->pending_error;
        v->pending_exception = -1;
    } else if (v->nmi_pending && !(image_hflags(&v->image) & SK_HF_INHIBIT_IRQ)) {
        event.vector = 2;
        v->nmi_pending = false;
    } else if (sk_can_interrupt(v) && (vector = next_vector(v)) >= 0) {
        event.vector = (uint8_t)vector;
    } else {
        return SK_NOTHING;
    }
    return sk_deliver(v, event) ? SK_INJECTED : SK_TRIPLE_FAULT;
}

/* ---- sleeping -------------------------------------------------------------------------------- */

static bool take_events(struct sk_vcpu *v)
{
    uint8_t sipi_vector = 0;
    unsigned events = sk_irqchip_take_events(v->vm->chip, v->id, &sipi_vector);

    if (events & SK_EVENT_NMI)
        v->nmi_pending = true;
    if (events & SK_EVENT_INIT) {
        v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
    }
    if ((events & SK_EVENT_SIPI) && v->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
        sk_reset(v);
        image_set_segment(&v->image, SK_CS, (struct sk_segment){.selector = (uint32_t)sipi_vector << 8, .base = (uint64_t)sipi_vector << 12, .limit = 0xffff,
                                                                .flags = SK_DESC_P | SK_DESC_S | SK_DESC_CODE | SK_DESC_RW | SK_DESC_A});
        image_set_u64(&v->image, v->image.at->eip, 0);
        v->mp_state = KVM_MP_STATE_RUNNABLE;
    }
    return v->mp_state == KVM_MP_STATE_RUNNABLE;
}

static bool ready(struct sk_vcpu *v)
{
    bool runnable = take_events(v);

    if (v->mp_state != KVM_MP_STATE_HALTED)
        return runnable;
    if (!v->nmi_pending && !((image_u64(&v->image, v->image.at->eflags) & SK_FL_IF) && sk_irqchip_has_interrupt(v->vm->chip, v->id)))
        return false;
    v->mp_state = KVM_MP_STATE_RUNNABLE;
    return true;
}

/* Sleeps until a timer, an irqfd, a waker or a signal; irq_lock held, dropped while asleep. */
static int sleep_once(struct sk_vcpu *v, uint64_t now)
{
    struct sk_vm *vm = v->vm;
    struct pollfd fds[SK_MAX_IRQFDS + 1];
    uint64_t deadline = sk_irqchip_deadline(vm->chip), left = deadline > now ? deadline - now : 0, count;
    struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    unsigned n = vm->irqfd_count;
    int result;

    for (unsigned i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = vm->irqfds[i].fd, .events = POLLIN};
    fds[n] = (struct pollfd){.fd = v->wake_fd, .events = POLLIN};
    v->waiting = true;
    pthread_mutex_unlock(&vm->irq_lock);
    result = ppoll(fds, n + 1, deadline == SK_NO_DEADLINE ? NULL : &timeout, &v->caller_mask);
    if (result < 0)
        result = -errno;
    pthread_mutex_lock(&vm->irq_lock);
    v->waiting = false;
    if (result > 0 && (fds[n].revents & POLLIN) && read(v->wake_fd, &count, sizeof count) < 0)
        return -errno;
    return result < 0 ? result : 0;
}

int sk_wait_halted(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;
    int result = 0;

    pthread_mutex_lock(&vm->irq_lock);
    for (;;) {
        uint64_t now = sk_now();

        poll_locked(vm, now);
        if (ready(v)) {
            result = 0;
            break;
        }
        if (result || sk_wants_stop(v, false)) {
            result = -EINTR;
            break;
        }
        result = sleep_once(v, now);
    }
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}
