/*
 * Port and memory-mapped I/O: who answers an access.
 *
 * In this order: the interrupt controllers, an ioeventfd, the caller of run().  Runs inside an engine
 * callback, in the middle of the instruction; an exit leaves from here and comes back to finish it.
 */
#include "machine.h"

#include <errno.h>
#include <unistd.h>

/* ioeventfd, as KVM matches it: length 0 is any length, otherwise length (and datamatch) must agree. */
static bool signal_ioevent(const struct sk_vm *vm, uint32_t space, uint64_t address, unsigned size, uint64_t value)
{
    static const uint64_t one = 1;

    for (unsigned i = 0; i < vm->ioevent_count; i++) {
        const struct sk_ioevent *e = &vm->ioevents[i];

        if ((e->flags & KVM_IOEVENTFD_FLAG_PIO) != space || e->address != address || (e->length && e->length != size))
            continue;
        if ((e->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) && e->datamatch != value)
            continue;
        return write(e->fd, &one, sizeof one) == sizeof one || errno == EAGAIN; /* EAGAIN: the counter is full, the signal is there */
    }
    return false;
}

/* After an access to an interrupt controller there may be something to deliver. */
static void touched_chip(struct sk_vcpu *v)
{
    v->budget = 1;
}

/* Between two I/O instructions of one block there is no other stop point than the second one. */
static void stop_before_io(struct sk_vcpu *v)
{
    if (v->replaced || !__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
        return;
    v->in_hook = true;
    sk_leave(v, SK_INTERRUPTED);
    v->in_hook = false;
}

/*
 * The caller has set other registers at an I/O exit.  The block that is under way cannot be left, but
 * it can be kept from doing anything: with page tables that map nothing, its next access to memory
 * faults, and until then it changes only registers, which are dropped.
 */
static void give_up_block(struct sk_vcpu *v)
{
    struct sk_image *m = &v->image;
    uint8_t wanted[SK_MAX_IMAGE];

    memcpy(wanted, m->bytes, m->at->size);
    sk_image_load(v);
    image_set_u64(m, m->at->cr, image_cr(m, 0) | SK_CR0_PG | SK_CR0_PE);
    image_set_u64(m, m->at->cr + 24, SK_EMPTY_TABLES);
    image_set_u64(m, m->at->cr + 32, image_cr(m, 4) | SK_CR4_PAE);
    sk_image_store(v);
    memcpy(m->bytes, wanted, m->at->size);
    sk_uc.ctl(v->vm->uc, UC_CTL_FLUSH_TLB);
    sk_uc.emu_stop(v->vm->uc);
}

static void leave_for_io(struct sk_vcpu *v)
{
    if (v->replaced)
        return;
    v->in_hook = true;
    sk_leave(v, SK_EXIT);
    v->in_hook = false;
    if (v->replaced)
        give_up_block(v);
    else if (v->stale || v->vm->map_changed)
        v->budget = 1; /* both are seen to between blocks */
}

/* SDM vol. 1 §19.5: whether the TSS lets a program below the I/O privilege level at all of these ports. */
static bool bitmap_permits(struct sk_vcpu *v, uint32_t port, unsigned size)
{
    const struct sk_image *m = &v->image;
    struct sk_segment tr = image_segment_at(m, m->at->tr);
    uint16_t base, bits;

    if (!(tr.flags & SK_DESC_P) || !(tr.flags & SK_DESC_CODE) || tr.limit < 0x67) /* type 9 or 11 */
        return false;
    if (!sk_read_linear(v, tr.base + 0x66, &base, 2, NULL) || base + port / 8 + 1 > tr.limit)
        return false;
    if (!sk_read_linear(v, tr.base + base + port / 8, &bits, 2, NULL))
        return false;
    return !(bits >> port % 8 & ((1u << size) - 1));
}

/* The engine does not ask, so we do; where it is not permitted, the block under way is given up for #GP. */
static bool permitted(struct sk_vcpu *v, uint32_t port, int size)
{
    const struct sk_image *m = &v->image;
    uint64_t eflags, rip;

    if (v->replaced)
        return false;
    sk_image_load(v);
    eflags = image_u64(m, m->at->eflags);
    if (!(image_cr(m, 0) & SK_CR0_PE) || (!(eflags & SK_FL_VM) && image_cpl(m) <= (eflags & SK_FL_IOPL) >> 12) ||
        bitmap_permits(v, port, (unsigned)size))
        return true;
    rip = image_u64(m, m->at->eip);
    v->dead = !sk_deliver(v, (struct sk_event){13, SK_EXCEPTION, true, 0, rip, rip});
    v->replaced = true;
    give_up_block(v);
    return false;
}

static uint8_t *prepare_pio(struct sk_vcpu *v, uint8_t direction, uint32_t port, int size)
{
    v->run->exit_reason = KVM_EXIT_IO;
    v->run->io.direction = direction;
    v->run->io.size = (uint8_t)size;
    v->run->io.port = (uint16_t)port;
    v->run->io.count = 1;
    v->run->io.data_offset = SK_PAGE;
    return (uint8_t *)v->run + SK_PAGE;
}

uint32_t sk_in(uc_engine *uc, uint32_t port, int size, void *data)
{
    struct sk_vcpu *v = ((struct sk_vm *)data)->current;
    struct sk_vm *vm = v->vm;
    uint32_t value = 0;
    uint8_t *page;

    (void)uc;
    if (!permitted(v, port, size))
        return 0;
    if (vm->chip) {
        bool ours;

        pthread_mutex_lock(&vm->irq_lock);
        ours = sk_irqchip_pio_read(vm->chip, (uint16_t)port, (unsigned)size, &value, sk_now());
        pthread_mutex_unlock(&vm->irq_lock);
        if (ours)
            return value;
    }
    stop_before_io(v);
    page = prepare_pio(v, KVM_EXIT_IO_IN, port, size);
    memset(page, 0, 4);
    leave_for_io(v);
    memcpy(&value, page, (size_t)size);
    return value;
}

void sk_out(uc_engine *uc, uint32_t port, int size, uint32_t value, void *data)
{
    struct sk_vcpu *v = ((struct sk_vm *)data)->current;
    struct sk_vm *vm = v->vm;

    (void)uc;
    if (!permitted(v, port, size))
        return;
    if (size < 4)
        value &= (1u << 8 * size) - 1;
    if (vm->chip) {
        bool ours;

        pthread_mutex_lock(&vm->irq_lock);
        ours = sk_irqchip_pio_write(vm->chip, (uint16_t)port, (unsigned)size, value, sk_now());
        pthread_mutex_unlock(&vm->irq_lock);
        if (ours) {
            touched_chip(v);
            return;
        }
    }
    if (signal_ioevent(vm, KVM_IOEVENTFD_FLAG_PIO, port, (unsigned)size, value))
        return;
    stop_before_io(v);
    memcpy(prepare_pio(v, KVM_EXIT_IO_OUT, port, size), &value, 4);
    leave_for_io(v);
}

static bool chip_mmio(struct sk_vcpu *v, uint64_t gpa, unsigned size, uint64_t *value, bool write)
{
    struct sk_vm *vm = v->vm;
    bool ours;

    if (!vm->chip)
        return false;
    pthread_mutex_lock(&vm->irq_lock);
    if (write) {
        ours = sk_irqchip_mmio_write(vm->chip, v->id, gpa, size, *value, sk_now());
        if (ours)
            sk_wake_all(vm); /* an inter-processor interrupt may be for a sleeping vCPU */
    } else {
        ours = sk_irqchip_mmio_read(vm->chip, v->id, gpa, size, value, sk_now());
    }
    pthread_mutex_unlock(&vm->irq_lock);
    if (ours && write)
        touched_chip(v);
    return ours;
}

/*
 * One MMIO access, by whoever claims it.  The engine hands a 64-bit access over as two of 32 bits, the
 * low half first (a memory hook would know better, but the first one makes every load of the guest slow).
 */
static void access_mmio(struct sk_vcpu *v, uint64_t gpa, unsigned size, uint64_t *value, bool write)
{
    struct kvm_run *run = v->run;

    if (chip_mmio(v, gpa, size, value, write) || (write && signal_ioevent(v->vm, 0, gpa, size, *value)))
        return;
    stop_before_io(v);
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = gpa;
    run->mmio.len = size;
    run->mmio.is_write = write;
    memset(run->mmio.data, 0, sizeof run->mmio.data);
    if (write)
        memcpy(run->mmio.data, value, size);
    leave_for_io(v);
    if (write)
        return;
    *value = 0;
    memcpy(value, run->mmio.data, size);
}

uint64_t sk_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *data)
{
    const struct sk_hole *hole = data;
    struct sk_vcpu *v = hole->vm->current;
    uint64_t value = 0;

    (void)uc;
    access_mmio(v, hole->gpa + offset, size, &value, false);
    return value;
}

void sk_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    const struct sk_hole *hole = data;
    struct sk_vcpu *v = hole->vm->current;

    (void)uc;
    if (size < 8)
        value &= (1ull << 8 * size) - 1;
    access_mmio(v, hole->gpa + offset, size, &value, true);
}
