/* One vCPU's creation, reset state and the small pieces of its state that are not registers. */
#include "api.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STACK = 1 << 20 };

/* SDM vol. 3 table 9-1; an application processor starts from the same state at its SIPI. */
void sk_reset(struct sk_vcpu *v)
{
    struct sk_image *m = &v->image;
    struct sk_segment data = {.limit = 0xffff, .flags = SK_DESC_P | SK_DESC_S | SK_DESC_RW | SK_DESC_A}, table = {.limit = 0xffff}, cs = data;

    for (unsigned i = 0; i < 16; i++)
        image_set_gpr(m, i, 0);
    image_set_gpr(m, SK_RDX, 0x600);
    cs.flags |= SK_DESC_CODE;
    cs.selector = 0xf000;
    cs.base = 0xffff0000;
    for (unsigned i = 0; i < 6; i++)
        image_set_segment(m, i, i == SK_CS ? cs : data);
    image_set_segment_at(m, m->at->gdt, table);
    image_set_segment_at(m, m->at->idt, table);
    table.flags = SK_DESC_P | 2 << 8;
    image_set_segment_at(m, m->at->ldt, table);
    table.flags = SK_DESC_P | 11 << 8;
    image_set_segment_at(m, m->at->tr, table);
    image_set_u64(m, m->at->cr, 0x60000010);
    for (unsigned i = 1; i < 5; i++)
        image_set_u64(m, m->at->cr + 8 * i, 0);
    image_set_u64(m, m->at->efer, 0);
    image_set_u64(m, m->at->eip, 0xfff0);
    image_set_rflags(m, 2);
    image_update_hflags(m);
    image_set_u32(m, m->at->hflags, image_hflags(m) & ~(uint32_t)SK_HF_INHIBIT_IRQ);
    sk_intercept_reset(v);
    v->flush = true;
}

static bool allocate(struct sk_vcpu *v)
{
    v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    v->stack = mmap(NULL, STACK + SK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (v->stack == MAP_FAILED)
        v->stack = NULL;
    return v->stack && v->wake_fd >= 0 && !mprotect(v->stack, SK_PAGE, PROT_NONE) && /* guard */
           sk_uc.context_alloc(v->vm->uc, &v->context) == UC_OK;
}

static void release(struct sk_vcpu *v)
{
    if (v->context)
        sk_uc.context_free(v->context);
    if (v->stack)
        munmap(v->stack, STACK + SK_PAGE);
    if (v->wake_fd >= 0)
        close(v->wake_fd);
    free(v);
}

struct sk_vcpu *sk_vcpu_new(struct sk_vm *vm, uint32_t id, void *run, int *error)
{
    struct sk_vcpu *v;

    *error = id >= SK_MAX_VCPUS ? -EINVAL : vm->vcpus[id] ? -EEXIST : 0;
    if (*error)
        return NULL;
    v = calloc(1, sizeof *v);
    *error = -ENOMEM;
    if (!v)
        return NULL;
    v->vm = vm;
    v->id = id;
    v->run = run;
    v->wake_fd = v->pending_exception = v->user_interrupt = -1;
    v->mp_state = id && vm->chip ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
    v->apic_base = 0xfee00800 | (id ? 0 : 0x100);
    pthread_mutex_init(&v->mutex, NULL);
    if (!allocate(v)) {
        release(v);
        return NULL;
    }
    sk_prepare_stack(v, STACK + SK_PAGE);
    v->image = (struct sk_image){vm->layout, (uint8_t *)v->context};
    sk_image_load(v);
    sk_reset(v);
    if (vm->chip) {
        pthread_mutex_lock(&vm->irq_lock);
        sk_irqchip_add_cpu(vm->chip, id);
        pthread_mutex_unlock(&vm->irq_lock);
    }
    vm->vcpus[id] = v;
    vm->vcpu_count++;
    *error = 0;
    return v;
}

void sk_vcpu_free(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;

    pthread_mutex_lock(&vm->irq_lock);
    vm->vcpus[v->id] = NULL;
    pthread_mutex_unlock(&vm->irq_lock);
    pthread_mutex_lock(&vm->baton_lock);
    if (vm->holder == v)
        vm->holder = NULL; /* parked in an exit that nobody will finish */
    if (vm->current == v)
        vm->current = NULL;
    pthread_cond_broadcast(&vm->baton_free);
    pthread_mutex_unlock(&vm->baton_lock);
    vm->vcpu_count--;
    release(v);
}

/* From any thread: the current or else the next run() ends.  The caller has set run->immediate_exit. */
void sk_vcpu_kick(struct sk_vcpu *v)
{
    static const uint64_t one = 1;

    __atomic_store_n(&v->budget, 1, __ATOMIC_RELAXED);
    if (write(v->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: it is awake */
}

const char *sk_vcpu_error(const struct sk_vcpu *v) { return v->error; }

int sk_vcpu_set_cpuid(struct sk_vcpu *v, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
    if (count > SK_MAX_CPUID)
        return -E2BIG;
    pthread_mutex_lock(&v->mutex);
    memcpy(v->cpuid, entries, count * sizeof *entries);
    v->cpuid_count = count;
    pthread_mutex_unlock(&v->mutex);
    return 0;
}

int sk_vcpu_get_mp_state(struct sk_vcpu *v) { return (int)v->mp_state; }

int sk_vcpu_set_mp_state(struct sk_vcpu *v, uint32_t state)
{
    if (state > (v->vm->chip ? KVM_MP_STATE_SIPI_RECEIVED : KVM_MP_STATE_RUNNABLE))
        return -EINVAL;
    pthread_mutex_lock(&v->mutex);
    v->mp_state = state;
    pthread_mutex_unlock(&v->mutex);
    return 0;
}

int sk_vcpu_interrupt(struct sk_vcpu *v, uint32_t vector)
{
    int result = vector > 255 ? -EINVAL : v->vm->chip ? -ENXIO : 0;

    if (result)
        return result;
    pthread_mutex_lock(&v->mutex);
    if (v->user_interrupt >= 0)
        result = -EEXIST;
    else
        v->user_interrupt = (int)vector;
    pthread_mutex_unlock(&v->mutex);
    return result;
}

int sk_vcpu_nmi(struct sk_vcpu *v)
{
    v->nmi_pending = true;
    sk_vcpu_kick(v);
    return 0;
}

int sk_vcpu_get_lapic(struct sk_vcpu *v, struct kvm_lapic_state *state)
{
    int result;

    if (!v->vm->chip)
        return -EINVAL;
    pthread_mutex_lock(&v->vm->irq_lock);
    result = sk_irqchip_get_lapic(v->vm->chip, v->id, state, sk_now());
    pthread_mutex_unlock(&v->vm->irq_lock);
    return result;
}

int sk_vcpu_set_lapic(struct sk_vcpu *v, const struct kvm_lapic_state *state)
{
    int result;

    if (!v->vm->chip)
        return -EINVAL;
    pthread_mutex_lock(&v->vm->irq_lock);
    result = sk_irqchip_set_lapic(v->vm->chip, v->id, state, sk_now());
    sk_wake_all(v->vm);
    pthread_mutex_unlock(&v->vm->irq_lock);
    return result;
}

int sk_vcpu_get_events(struct sk_vcpu *v, struct kvm_vcpu_events *events)
{
    memset(events, 0, sizeof *events);
    pthread_mutex_lock(&v->mutex);
    events->exception.injected = v->pending_exception >= 0;
    events->exception.nr = v->pending_exception >= 0 ? (uint8_t)v->pending_exception : 0;
    events->exception.has_error_code = v->pending_has_error;
    events->exception.error_code = v->pending_error;
    events->interrupt.injected = v->user_interrupt >= 0;
    events->interrupt.nr = v->user_interrupt >= 0 ? (uint8_t)v->user_interrupt : 0;
    events->nmi.pending = v->nmi_pending;
    pthread_mutex_unlock(&v->mutex);
    return 0;
}

int sk_vcpu_set_events(struct sk_vcpu *v, const struct kvm_vcpu_events *events)
{
    if (events->exception.injected && (events->exception.nr > 31 || events->exception.nr == 2))
        return -EINVAL;
    pthread_mutex_lock(&v->mutex);
    v->pending_exception = events->exception.injected ? events->exception.nr : -1;
    v->pending_has_error = events->exception.has_error_code;
    v->pending_error = events->exception.error_code;
    v->user_interrupt = events->interrupt.injected ? events->interrupt.nr : -1;
    if (events->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
        v->nmi_pending = events->nmi.pending;
    pthread_mutex_unlock(&v->mutex);
    return 0;
}
