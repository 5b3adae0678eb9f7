/*
 * Guest-physical memory: KVM's slots over the caller's memory, and MMIO everywhere else.
 *
 * The engine's map always covers 2^SK_PHYS_BITS bytes: what no slot backs is an MMIO hole, so an
 * access there becomes an exit, as on KVM, and needs no memory hook (a hook on RAM would slow every store).
 * The caller keeps each slot's memory alive until the slot is deleted or the VM is closed.
 */
#include "machine.h"

#include <errno.h>

static const struct sk_slot *find(const struct sk_vm *vm, uint64_t gpa)
{
    unsigned low = 0, high = vm->slot_count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (gpa - vm->slots[middle].gpa < vm->slots[middle].size && gpa >= vm->slots[middle].gpa)
            return &vm->slots[middle];
        if (gpa < vm->slots[middle].gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint8_t *sk_host(const struct sk_vm *vm, uint64_t gpa, uint64_t size)
{
    const struct sk_slot *slot = find(vm, gpa);

    if (!slot || size > slot->size - (gpa - slot->gpa))
        return NULL;
    return slot->host + (gpa - slot->gpa);
}

bool sk_host_writable(const struct sk_vm *vm, uint64_t gpa)
{
    const struct sk_slot *slot = find(vm, gpa);

    return slot && !(slot->flags & KVM_MEM_READONLY);
}

/* ---- the engine's map ------------------------------------------------------------------------ */

static void unmap_holes(struct sk_vm *vm)
{
    for (unsigned i = 0; i < vm->hole_count; i++)
        sk_uc.mem_unmap(vm->uc, vm->holes[i].gpa, vm->holes[i].size);
    vm->hole_count = 0;
}

static bool map_hole(struct sk_vm *vm, uint64_t gpa, uint64_t end)
{
    struct sk_hole *hole = &vm->holes[vm->hole_count];

    if (gpa == end)
        return true;
    *hole = (struct sk_hole){vm, gpa, end - gpa};
    vm->hole_count++;
    return sk_uc.mmio_map(vm->uc, gpa, end - gpa, (void *)sk_mmio_read, hole, (void *)sk_mmio_write, hole) == UC_OK;
}

static bool map_holes(struct sk_vm *vm)
{
    uint64_t gpa = 0;
    bool ok = true;

    for (unsigned i = 0; i < vm->slot_count; i++) {
        ok = ok && map_hole(vm, gpa, vm->slots[i].gpa);
        gpa = vm->slots[i].gpa + vm->slots[i].size;
    }
    return ok && map_hole(vm, gpa, 1ull << SK_PHYS_BITS);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static int slot_index(const struct sk_vm *vm, uint32_t id)
{
    for (unsigned i = 0; i < vm->slot_count; i++)
        if (vm->slots[i].id == id)
            return (int)i;
    return -1;
}

static void remove_slot(struct sk_vm *vm, unsigned i)
{
    sk_uc.mem_unmap(vm->uc, vm->slots[i].gpa, vm->slots[i].size);
    vm->slot_count--;
    memmove(&vm->slots[i], &vm->slots[i + 1], (vm->slot_count - i) * sizeof vm->slots[0]);
}

static int insert_slot(struct sk_vm *vm, struct sk_slot slot)
{
    unsigned i = 0;

    if (vm->slot_count == SK_MAX_SLOTS || !sk_code_resize(vm, (slot.gpa + slot.size) / SK_PAGE))
        return -ENOMEM;
    while (i < vm->slot_count && vm->slots[i].gpa < slot.gpa)
        i++;
    if ((i < vm->slot_count && slot.gpa + slot.size > vm->slots[i].gpa) ||
        (i && vm->slots[i - 1].gpa + vm->slots[i - 1].size > slot.gpa))
        return -EEXIST;
    if (sk_uc.mem_map_ptr(vm->uc, slot.gpa, slot.size, UC_PROT_ALL, slot.host) != UC_OK)
        return -ENOMEM;
    memmove(&vm->slots[i + 1], &vm->slots[i], (vm->slot_count - i) * sizeof vm->slots[0]);
    vm->slots[i] = slot;
    vm->slot_count++;
    return 0;
}

static int change_slot(struct sk_vm *vm, struct sk_slot slot)
{
    int old = slot_index(vm, slot.id), result;
    struct sk_slot previous;

    if (old < 0)
        return slot.size ? insert_slot(vm, slot) : -EINVAL;
    previous = vm->slots[old];
    if (slot.size && (slot.size != previous.size || slot.host != previous.host || slot.flags != previous.flags))
        return -EINVAL; /* KVM moves slots, it does not resize or rebind them */
    remove_slot(vm, (unsigned)old);
    if (!slot.size)
        return 0;
    result = insert_slot(vm, slot);
    if (result)
        insert_slot(vm, previous);
    return result;
}

/* KVM_SET_USER_MEMORY_REGION; the engine is not running (the caller holds the VM still). */
int sk_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
    int result;

    if (flags || id >= 0x8000 || ((gpa | size | (uintptr_t)host) & (SK_PAGE - 1)) || gpa + size < gpa || gpa + size > 1ull << SK_PHYS_BITS)
        return -EINVAL; /* no KVM_MEM_* flag is offered: see KVM_CHECK_EXTENSION */
    unmap_holes(vm);
    result = change_slot(vm, (struct sk_slot){gpa, size, host, id, flags});
    if (!map_holes(vm))
        result = -ENOMEM;
    sk_code_flush(vm);
    return result;
}
