/*
 * KVM_MEM_LOG_DIRTY_PAGES: which pages of a slot the guest has written.
 *
 * A slot that is logged has a memory hook on its stores, which makes them some ten times slower;
 * one that is not has none.  What we write for the processor (exception frames) is logged too.
 */
#include "machine.h"

#include <errno.h>
#include <stdlib.h>

enum { HOOK_WRITE = 1 << 11 };

static size_t log_words(const struct sk_slot *slot) { return (slot->size / SK_PAGE + 63) / 64; }

static void mark(struct sk_dirty_log *log, uint64_t gpa)
{
    uint64_t page = (gpa - log->gpa) / SK_PAGE;

    log->bits[page / 64] |= 1ull << page % 64;
}

static void mark_everything(struct sk_vm *vm)
{
    for (unsigned i = 0; i < vm->slot_count; i++)
        for (uint64_t gpa = vm->slots[i].gpa; vm->slots[i].dirty && gpa < vm->slots[i].gpa + vm->slots[i].size; gpa += SK_PAGE)
            mark(vm->slots[i].dirty, gpa);
}

static bool on_write(uc_engine *uc, int type, uint64_t gpa, int size, int64_t value, void *data)
{
    struct sk_dirty_log *log = data;

    (void)uc, (void)type, (void)value;
    mark(log, gpa);
    if ((gpa & (SK_PAGE - 1)) + (uint64_t)size > SK_PAGE)
        mark_everything(log->vm); /* where its second page lies is not told; too much is right, too little is not */
    return true;
}

bool sk_dirty_start(struct sk_vm *vm, struct sk_slot *slot)
{
    struct sk_dirty_log *log = calloc(1, sizeof *log + log_words(slot) * 8);

    if (!log)
        return false;
    log->vm = vm;
    log->gpa = slot->gpa;
    sk_uc.hook_add(vm->uc, &log->hook, HOOK_WRITE, (void *)on_write, log, slot->gpa, slot->gpa + slot->size - 1);
    slot->dirty = log;
    return true;
}

/* The engine drops a deleted hook when it next starts; until then the log must stay. */
void sk_dirty_stop(struct sk_vm *vm, struct sk_slot *slot)
{
    if (!slot->dirty)
        return;
    sk_uc.hook_del(vm->uc, slot->dirty->hook);
    slot->dirty->next = vm->old_logs;
    vm->old_logs = slot->dirty;
    slot->dirty = NULL;
}

/* A store of ours, within one page. */
void sk_dirty_mark(struct sk_vm *vm, uint64_t gpa)
{
    for (unsigned i = 0; i < vm->slot_count; i++)
        if (vm->slots[i].dirty && gpa >= vm->slots[i].gpa && gpa - vm->slots[i].gpa < vm->slots[i].size)
            mark(vm->slots[i].dirty, gpa);
}

/* Copies the slot's bits to `bits`, which has room for `words` words, and clears them. */
int sk_dirty_take(struct sk_vm *vm, uint32_t id, uint64_t *bits, size_t words)
{
    for (unsigned i = 0; i < vm->slot_count; i++)
        if (vm->slots[i].id == id && vm->slots[i].dirty) {
            if (words < log_words(&vm->slots[i]))
                return -EINVAL;
            memcpy(bits, vm->slots[i].dirty->bits, log_words(&vm->slots[i]) * 8);
            memset(vm->slots[i].dirty->bits, 0, log_words(&vm->slots[i]) * 8);
            return 0;
        }
    return -ENOENT;
}

void sk_dirty_free(struct sk_vm *vm)
{
    for (unsigned i = 0; i < vm->slot_count; i++)
        free(vm->slots[i].dirty);
    while (vm->old_logs) {
        struct sk_dirty_log *next = vm->old_logs->next;

        free(vm->old_logs);
        vm->old_logs = next;
    }
}
