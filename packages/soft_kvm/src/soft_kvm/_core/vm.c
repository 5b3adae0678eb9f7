/* One VM: its engine, its interrupt controllers, and the file descriptors that feed them. */
#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct sk_vm *sk_vm_new(const struct sk_layout *layout, int cpu_model)
{
    struct sk_vm *vm = calloc(1, sizeof *vm);

    if (!vm)
        return NULL;
    vm->layout = layout;
    vm->tsc_origin = sk_now();
    pthread_mutex_init(&vm->irq_lock, NULL);
    pthread_mutex_init(&vm->baton_lock, NULL);
    pthread_cond_init(&vm->baton_free, NULL);
    if (sk_uc.open(UC_ARCH_X86, UC_MODE_64, &vm->uc) != UC_OK) {
        free(vm);
        return NULL;
    }
    if (sk_uc.ctl(vm->uc, UC_CTL_SET_CPU_MODEL, cpu_model) != UC_OK ||
        sk_uc.ctl(vm->uc, UC_CTL_SET_TCG_BUFFER, 256u << 20) != UC_OK ||
        sk_uc.ctl(vm->uc, UC_CTL_EXITS_ENABLE, 1) != UC_OK || /* an `until` address would corrupt CR2 and error codes */
        !sk_hooks_install(vm) || !sk_intercept_install(vm)) {
        sk_vm_free(vm);
        return NULL;
    }
    return vm;
}

void sk_vm_free(struct sk_vm *vm)
{
    sk_uc.close(vm->uc);
    for (unsigned i = 0; i < vm->irqfd_count; i++)
        close(vm->irqfds[i].fd);
    for (unsigned i = 0; i < vm->ioevent_count; i++)
        close(vm->ioevents[i].fd);
    for (unsigned i = 0; i < vm->hole_count; i++)
        free(vm->holes[i]);
    if (vm->chip)
        sk_irqchip_free(vm->chip);
    sk_dirty_free(vm);
    free(vm->private_memory);
    free(vm->code.bitmap);
    free(vm);
}

/* Waits until no vCPU executes; a vCPU parked in an I/O exit does not. */
static void hold_still(struct sk_vm *vm)
{
    pthread_mutex_lock(&vm->baton_lock);
    while (vm->holder && !vm->holder->parked) {
        __atomic_store_n(&vm->holder->budget, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&vm->holder->slice_end, 0, __ATOMIC_RELAXED);
        atomic_fetch_add(&vm->waiting, 1);
        pthread_cond_wait(&vm->baton_free, &vm->baton_lock);
        atomic_fetch_sub(&vm->waiting, 1);
    }
}

static void go_on(struct sk_vm *vm)
{
    pthread_cond_broadcast(&vm->baton_free);
    pthread_mutex_unlock(&vm->baton_lock);
}

int sk_vm_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
    int result;

    hold_still(vm);
    result = sk_set_memory(vm, id, flags, gpa, size, host, vm->holder != NULL);
    go_on(vm);
    return result;
}

int sk_vm_take_dirty(struct sk_vm *vm, uint32_t id, uint64_t *bits, size_t words)
{
    int result;

    hold_still(vm);
    result = sk_dirty_take(vm, id, bits, words);
    go_on(vm);
    return result;
}

/*
 * Called for whatever a device fills, which is seldom code; then nobody has to stand still.  A page that a
 * guest gave to a device was marked before that, if ever, and marks go with the translations themselves.
 */
int sk_vm_invalidate(struct sk_vm *vm, uint64_t gpa, uint64_t size)
{
    bool code;

    pthread_mutex_lock(&vm->baton_lock); /* the slots stay */
    code = sk_code_within(vm, gpa, size);
    pthread_mutex_unlock(&vm->baton_lock);
    if (!code)
        return 0;
    hold_still(vm);
    if (vm->holder)
        vm->holder->stale = true; /* in the middle of an instruction: seen to when its block has ended */
    else
        sk_code_flush(vm);
    go_on(vm);
    return 0;
}

/* ---- interrupt controllers ------------------------------------------------------------------- */

int sk_vm_create_irqchip(struct sk_vm *vm)
{
    if (vm->chip)
        return -EEXIST;
    if (vm->vcpu_count)
        return -EINVAL;
    vm->chip = sk_irqchip_new();
    return vm->chip ? 0 : -ENOMEM;
}

int sk_vm_create_pit(struct sk_vm *vm)
{
    if (!vm->chip)
        return -ENOENT;
    if (vm->has_pit)
        return -EEXIST;
    pthread_mutex_lock(&vm->irq_lock);
    sk_irqchip_add_pit(vm->chip, sk_now());
    vm->has_pit = true;
    pthread_mutex_unlock(&vm->irq_lock);
    return 0;
}

int sk_vm_irq_line(struct sk_vm *vm, uint32_t gsi, int level)
{
    if (!vm->chip)
        return -ENXIO;
    pthread_mutex_lock(&vm->irq_lock);
    sk_drive_gsi(vm, gsi, level != 0);
    sk_wake_all(vm);
    pthread_mutex_unlock(&vm->irq_lock);
    return 0;
}

int sk_vm_signal_msi(struct sk_vm *vm, uint64_t address, uint32_t data)
{
    int reached;

    if (!vm->chip)
        return -EINVAL;
    pthread_mutex_lock(&vm->irq_lock);
    reached = sk_irqchip_send_msi(vm->chip, address, data);
    sk_wake_all(vm);
    pthread_mutex_unlock(&vm->irq_lock);
    return reached;
}

static int assign_irqfd(struct sk_vm *vm, int fd, uint32_t gsi)
{
    int own;

    for (unsigned i = 0; i < vm->irqfd_count; i++)
        if (vm->irqfds[i].given == fd)
            return -EBUSY;
    if (vm->irqfd_count == SK_MAX_IRQFDS)
        return -ENOSPC;
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the caller may close its own, as with KVM */
    if (own < 0)
        return -errno;
    vm->irqfds[vm->irqfd_count++] = (struct sk_irqfd){own, fd, gsi};
    return 0;
}

static int deassign_irqfd(struct sk_vm *vm, int fd, uint32_t gsi)
{
    for (unsigned i = 0; i < vm->irqfd_count; i++)
        if (vm->irqfds[i].given == fd && vm->irqfds[i].gsi == gsi) {
            close(vm->irqfds[i].fd);
            vm->irqfds[i] = vm->irqfds[--vm->irqfd_count];
            return 0;
        }
    return 0; /* KVM does not mind */
}

int sk_vm_irqfd(struct sk_vm *vm, int fd, uint32_t gsi, int assign)
{
    int result;

    if (!vm->chip || gsi >= SK_MAX_ROUTES)
        return -EINVAL;
    pthread_mutex_lock(&vm->irq_lock);
    result = assign ? assign_irqfd(vm, fd, gsi) : deassign_irqfd(vm, fd, gsi);
    sk_wake_all(vm); /* sleepers poll the new set */
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}

int sk_vm_set_routes(struct sk_vm *vm, const struct kvm_irq_routing_entry *entries, uint32_t count)
{
    if (!vm->chip || count > SK_MAX_ROUTES)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        bool pin = entries[i].type == KVM_IRQ_ROUTING_IRQCHIP && entries[i].u.irqchip.irqchip <= KVM_IRQCHIP_IOAPIC &&
                   entries[i].u.irqchip.pin < (entries[i].u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC ? SK_IOAPIC_PINS : 8);

        if (entries[i].gsi >= SK_MAX_ROUTES || entries[i].flags || !(pin || entries[i].type == KVM_IRQ_ROUTING_MSI))
            return -EINVAL;
    }
    pthread_mutex_lock(&vm->irq_lock);
    memcpy(vm->routes, entries, count * sizeof *entries);
    vm->route_count = count;
    vm->custom_routes = true;
    pthread_mutex_unlock(&vm->irq_lock);
    return 0;
}

int sk_vm_get_irqchip(struct sk_vm *vm, struct kvm_irqchip *state)
{
    int result;

    if (!vm->chip)
        return -ENXIO;
    pthread_mutex_lock(&vm->irq_lock);
    result = sk_irqchip_get(vm->chip, state);
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}

int sk_vm_set_irqchip(struct sk_vm *vm, const struct kvm_irqchip *state)
{
    int result;

    if (!vm->chip)
        return -ENXIO;
    pthread_mutex_lock(&vm->irq_lock);
    result = sk_irqchip_set(vm->chip, state);
    sk_wake_all(vm);
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}

int sk_vm_get_pit(struct sk_vm *vm, struct kvm_pit_state2 *state)
{
    int result;

    if (!vm->has_pit)
        return -ENXIO;
    pthread_mutex_lock(&vm->irq_lock);
    result = sk_irqchip_get_pit(vm->chip, state, sk_now());
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}

int sk_vm_set_pit(struct sk_vm *vm, const struct kvm_pit_state2 *state)
{
    int result;

    if (!vm->has_pit)
        return -ENXIO;
    pthread_mutex_lock(&vm->irq_lock);
    result = sk_irqchip_set_pit(vm->chip, state, sk_now());
    sk_wake_all(vm);
    pthread_mutex_unlock(&vm->irq_lock);
    return result;
}

/* ---- ioeventfd and clock --------------------------------------------------------------------- */

enum { IOEVENT_MATCH = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH };

static bool same_ioevent(const struct sk_ioevent *a, const struct sk_ioevent *b)
{
    return a->address == b->address && a->length == b->length && a->flags == b->flags &&
           (!(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) || a->datamatch == b->datamatch);
}

static int change_ioevents(struct sk_vm *vm, struct sk_ioevent event, bool remove)
{
    for (unsigned i = 0; i < vm->ioevent_count; i++)
        if (same_ioevent(&vm->ioevents[i], &event) && (!remove || vm->ioevents[i].given == event.given)) {
            if (!remove)
                return -EEXIST;
            close(vm->ioevents[i].fd);
            vm->ioevents[i] = vm->ioevents[--vm->ioevent_count];
            return 0;
        }
    if (remove)
        return -ENOENT;
    if (vm->ioevent_count == SK_MAX_IOEVENTS)
        return -ENOSPC;
    event.fd = fcntl(event.given, F_DUPFD_CLOEXEC, 0);
    if (event.fd < 0)
        return -errno;
    vm->ioevents[vm->ioevent_count++] = event;
    return 0;
}

int sk_vm_ioevent(struct sk_vm *vm, uint64_t datamatch, uint64_t address, uint32_t length, int fd, uint32_t flags)
{
    bool size_ok = length == 0 || length == 1 || length == 2 || length == 4 || length == 8;
    int result;

    if (!size_ok || (flags & ~(uint32_t)(IOEVENT_MATCH | KVM_IOEVENTFD_FLAG_DEASSIGN)) || address + length < address ||
        (!length && (flags & KVM_IOEVENTFD_FLAG_DATAMATCH)))
        return -EINVAL;
    hold_still(vm);
    result = change_ioevents(vm, (struct sk_ioevent){address, datamatch, length, flags & IOEVENT_MATCH, -1, fd}, flags & KVM_IOEVENTFD_FLAG_DEASSIGN);
    go_on(vm);
    return result;
}

int sk_vm_get_clock(struct sk_vm *vm, uint64_t *ns)
{
    *ns = sk_now() - vm->tsc_origin;
    return 0;
}

int sk_vm_set_clock(struct sk_vm *vm, uint64_t ns)
{
    hold_still(vm);
    vm->tsc_origin = sk_now() - ns;
    go_on(vm);
    return 0;
}
