/*
 * 64-bit MMIO as one access.
 *
 * The engine hands a 64-bit access to an MMIO region over as two of 32 bits.  A memory hook on the
 * holes (never on RAM, where it would slow every store) is told of the whole access first: it makes
 * the exit, and the two halves that follow find their answer here.
 */
#include "machine.h"

enum { HOOK_READ = 1 << 10, HOOK_WRITE = 1 << 11, MEM_WRITE = 17 };

static bool begin_wide(uc_engine *uc, int type, uint64_t gpa, int size, int64_t value, void *data)
{
    struct sk_vm *vm = data;
    struct sk_vcpu *v = vm->current;

    (void)uc;
    if (size != 8)
        return true;
    v->wide.gpa = gpa;
    v->wide.value = (uint64_t)value;
    if (type == MEM_WRITE)
        sk_mmio(v, gpa, 8, &v->wide.value, true);
    else
        sk_mmio(v, gpa, 8, &v->wide.value, false);
    v->wide.halves = 2;
    return true;
}

/* Whether an access of 4 bytes is half of one that has been made; if so, its bytes are in `value`. */
bool sk_wide_half(struct sk_vcpu *v, uint64_t gpa, unsigned size, uint64_t *value)
{
    if (!v->wide.halves)
        return false;
    v->wide.halves--;
    if (size != 4 || (gpa != v->wide.gpa && gpa != v->wide.gpa + 4)) {
        v->wide.halves = 0; /* not what was announced: an ordinary access */
        return false;
    }
    *value = v->wide.value >> (gpa == v->wide.gpa ? 0 : 32) & 0xffffffff;
    return true;
}

/* One pair of hooks per gap between slots. */
void sk_wide_watch(struct sk_vm *vm)
{
    uint64_t gpa = 0;

    for (unsigned i = 0; i < vm->wide_hook_count; i++)
        sk_uc.hook_del(vm->uc, vm->wide_hooks[i]);
    vm->wide_hook_count = 0;
    for (unsigned i = 0; i <= vm->slot_count; i++) {
        uint64_t end = i < vm->slot_count ? vm->slots[i].gpa : 1ull << SK_PHYS_BITS;

        if (gpa < end)
            sk_uc.hook_add(vm->uc, &vm->wide_hooks[vm->wide_hook_count++], HOOK_READ | HOOK_WRITE, (void *)begin_wide, vm, gpa, end - 1);
        if (i < vm->slot_count)
            gpa = vm->slots[i].gpa + vm->slots[i].size;
    }
}
