/*
 * Guest-physical memory: KVM's slots over the caller's memory, and MMIO everywhere else.
 *
 * The engine's map always covers 2^SK_PHYS_BITS bytes: what no slot backs is an MMIO hole, so an
 * access there becomes an exit, as on KVM, and needs no memory hook (a hook on RAM would slow every store).
 * The caller keeps each slot's memory alive until the slot is deleted or the VM is closed.
 */
#include "machine.h"

#include <errno.h>
#include <stdlib.h>

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

/* ---- holes ----------------------------------------------------------------------------------- */

/*
 * Unmapping costs the engine some 30 ns a page, so holes are pieces: no larger than the largest
 * power of two that divides their place, at least 1 GiB where there is room.
 */
static uint64_t piece_end(uint64_t gpa, uint64_t limit)
{
    uint64_t size = 1ull << 30;

    while (size < gpa)
        size <<= 1;
    if (size < gpa + 1 && gpa)
        size <<= 1;
    size = gpa ? size / 2 : size;
    if (size < 1ull << 30)
        size = 1ull << 30;
    return (gpa / size + 1) * size < limit ? (gpa / size + 1) * size : limit;
}

static bool map_piece(struct sk_vm *vm, uint64_t gpa, uint64_t end)
{
    struct sk_hole *hole = vm->hole_count < SK_MAX_HOLES ? malloc(sizeof *hole) : NULL;

    if (!hole)
        return false;
    *hole = (struct sk_hole){vm, gpa, end - gpa};
    if (sk_uc.mmio_map(vm->uc, gpa, end - gpa, (void *)sk_mmio_read, hole, (void *)sk_mmio_write, hole) != UC_OK) {
        free(hole);
        return false;
    }
    vm->holes[vm->hole_count++] = hole;
    return true;
}

static void unmap_overlapping(struct sk_vm *vm, uint64_t gpa, uint64_t size)
{
    for (unsigned i = 0; i < vm->hole_count;) {
        struct sk_hole *hole = vm->holes[i];

        if (hole->gpa >= gpa + size || hole->gpa + hole->size <= gpa) {
            i++;
            continue;
        }
        sk_uc.mem_unmap(vm->uc, hole->gpa, hole->size);
        free(hole);
        vm->holes[i] = vm->holes[--vm->hole_count];
    }
}

/* The first mapped thing that ends behind `gpa`: its bounds, or the end of the address space twice. */
static void next_mapped(const struct sk_vm *vm, uint64_t gpa, uint64_t *begin, uint64_t *end)
{
    *begin = *end = 1ull << SK_PHYS_BITS;
    for (unsigned i = 0; i < vm->slot_count; i++)
        if (vm->slots[i].gpa + vm->slots[i].size > gpa && vm->slots[i].gpa < *begin) {
            *begin = vm->slots[i].gpa;
            *end = vm->slots[i].gpa + vm->slots[i].size;
        }
    for (unsigned i = 0; i < vm->hole_count; i++)
        if (vm->holes[i]->gpa + vm->holes[i]->size > gpa && vm->holes[i]->gpa < *begin) {
            *begin = vm->holes[i]->gpa;
            *end = vm->holes[i]->gpa + vm->holes[i]->size;
        }
}

static bool map_holes(struct sk_vm *vm)
{
    uint64_t gpa = 0, begin, end;

    while (gpa < 1ull << SK_PHYS_BITS) {
        next_mapped(vm, gpa, &begin, &end);
        while (gpa < begin) {
            uint64_t piece = piece_end(gpa, begin);

            if (!map_piece(vm, gpa, piece))
                return false;
            gpa = piece;
        }
        gpa = end;
    }
    return true;
}

static bool same_place(const struct sk_slot *a, const struct sk_slot *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->host == b->host;
}

static bool is_among(const struct sk_slot *slot, const struct sk_slot *slots, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (same_place(slot, &slots[i]))
            return true;
    return false;
}

bool sk_sync_map(struct sk_vm *vm)
{
    for (unsigned i = 0; i < vm->mapped_count; i++)
        if (!is_among(&vm->mapped[i], vm->slots, vm->slot_count))
            sk_uc.mem_unmap(vm->uc, vm->mapped[i].gpa, vm->mapped[i].size);
    for (unsigned i = 0; i < vm->slot_count; i++) {
        const struct sk_slot *slot = &vm->slots[i];

        if (is_among(slot, vm->mapped, vm->mapped_count))
            continue;
        unmap_overlapping(vm, slot->gpa, slot->size);
        if (sk_uc.mem_map_ptr(vm->uc, slot->gpa, slot->size, UC_PROT_ALL, slot->host) != UC_OK)
            return false;
    }
    memcpy(vm->mapped, vm->slots, vm->slot_count * sizeof vm->slots[0]);
    vm->mapped_count = vm->slot_count;
    vm->map_changed = false;
    sk_code_flush(vm);
    return map_holes(vm);
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
    sk_dirty_stop(vm, &vm->slots[i]);
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
    if ((slot.flags & KVM_MEM_LOG_DIRTY_PAGES) && !sk_dirty_start(vm, &slot))
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
    if (slot.size && (slot.size != previous.size || slot.host != previous.host))
        return -EINVAL; /* KVM moves slots, it does not resize or rebind them */
    remove_slot(vm, (unsigned)old);
    if (!slot.size)
        return 0;
    result = insert_slot(vm, slot);
    previous.dirty = NULL;
    if (result)
        insert_slot(vm, previous);
    return result;
}

/*
 * KVM_SET_USER_MEMORY_REGION; the caller holds the VM still.  The engine learns of it at once only when
 * no vCPU is in the middle of an instruction, else (1 is returned) when that has ended: until then it
 * may still use the old memory.  Before the first run it learns of all slots together.
 */
int sk_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host, bool in_instruction)
{
    int result;

    if ((flags & ~(uint32_t)KVM_MEM_LOG_DIRTY_PAGES) || id >= 0x8000 || ((gpa | size | (uintptr_t)host) & (SK_PAGE - 1)) || gpa + size < gpa || gpa + size > 1ull << SK_PHYS_BITS)
        return -EINVAL; /* KVM_MEM_READONLY is not offered, see KVM_CAP_READONLY_MEM */
    result = change_slot(vm, (struct sk_slot){gpa, size, host, id, flags, NULL});
    vm->map_changed = true;
    if (in_instruction)
        return result ? result : 1;
    return vm->mapped_count && !sk_sync_map(vm) ? -ENOMEM : result;
}
