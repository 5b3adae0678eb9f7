/*
 * Keeps translated code honest.
 *
 * The engine notices stores to translated code only through the virtual page that was executed, so
 * a store through another mapping (the kernel's direct map, text patching, a recycled page) would
 * leave stale translations.  It does check every store to a page that any memory hook covers.  So
 * each page that code is translated from gets covered by a hook that is never called.  The engine
 * walks the list of ranges on each checked store: few ranges, rounded and merged, beat exact ones.
 */
#include "machine.h"

#include <stdlib.h>

enum { CHUNK = 1 << 20 }; /* each new one costs a TLB flush: 64 KiB took 10 % of a boot more */

static bool never(uc_engine *uc, int type, uint64_t address, int size, int64_t value, void *data)
{
    (void)uc, (void)type, (void)address, (void)size, (void)value, (void)data;
    return false;
}

static void cover(struct sk_vm *vm, unsigned i)
{
    sk_uc.hook_add(vm->uc, &vm->code.ranges[i].hook, UC_HOOK_MEM_READ_UNMAPPED, (void *)never, NULL, vm->code.ranges[i].begin,
                   vm->code.ranges[i].end - 1);
}

static void remove_range(struct sk_code_pages *code, unsigned i)
{
    code->count--;
    memmove(&code->ranges[i], &code->ranges[i + 1], (code->count - i) * sizeof code->ranges[0]);
}

/* The two neighbours with the smallest gap become one. */
static void merge_closest(struct sk_vm *vm)
{
    struct sk_code_pages *code = &vm->code;
    unsigned best = 1;

    for (unsigned i = 2; i < code->count; i++)
        if (code->ranges[i].begin - code->ranges[i - 1].end < code->ranges[best].begin - code->ranges[best - 1].end)
            best = i;
    sk_uc.hook_del(vm->uc, code->ranges[best - 1].hook);
    sk_uc.hook_del(vm->uc, code->ranges[best].hook);
    code->ranges[best - 1].end = code->ranges[best].end;
    remove_range(code, best);
    cover(vm, best - 1);
}

static void watch(struct sk_vm *vm, uint64_t gpa)
{
    struct sk_code_pages *code = &vm->code;
    uint64_t begin = gpa & ~(uint64_t)(CHUNK - 1), end = begin + CHUNK;
    unsigned i = 0;

    while (i < code->count && code->ranges[i].end < begin)
        i++;
    if (i < code->count && code->ranges[i].begin <= begin && code->ranges[i].end >= end)
        return;
    if (i < code->count && code->ranges[i].begin <= end) { /* touches: grow it */
        sk_uc.hook_del(vm->uc, code->ranges[i].hook);
        if (begin < code->ranges[i].begin)
            code->ranges[i].begin = begin;
        if (end > code->ranges[i].end)
            code->ranges[i].end = end;
        if (i + 1 < code->count && code->ranges[i + 1].begin <= code->ranges[i].end) {
            sk_uc.hook_del(vm->uc, code->ranges[i + 1].hook);
            if (code->ranges[i + 1].end > code->ranges[i].end)
                code->ranges[i].end = code->ranges[i + 1].end;
            remove_range(code, i + 1);
        }
    } else {
        if (code->count == SK_CODE_RANGES) {
            merge_closest(vm);
            watch(vm, gpa);
            return;
        }
        memmove(&code->ranges[i + 1], &code->ranges[i], (code->count - i) * sizeof code->ranges[0]);
        code->count++;
        code->ranges[i].begin = begin;
        code->ranges[i].end = end;
    }
    cover(vm, i);
    sk_uc.ctl(vm->uc, UC_CTL_FLUSH_TLB);
}

static void note_page(struct sk_vcpu *v, uint64_t linear)
{
    struct sk_code_pages *code = &v->vm->code;
    uint64_t gpa, page;

    if (!sk_translate(v, linear, (struct sk_access){0}, &gpa, NULL))
        return;
    page = gpa / SK_PAGE;
    if (page >= code->pages || sk_code_at(v->vm, gpa))
        return;
    code->bitmap[page / 8] |= (uint8_t)(1u << page % 8);
    watch(v->vm, gpa);
}

static void on_translated(uc_engine *uc, uc_tb *block, uc_tb *previous, void *data)
{
    struct sk_vcpu *v = ((struct sk_vm *)data)->current;

    (void)uc, (void)previous;
    sk_image_load(v);
    note_page(v, block->pc);
    sk_string_note(v, block->pc, block->size);
    if (block->size && (block->pc ^ (block->pc + block->size - 1)) & ~(SK_PAGE - 1))
        note_page(v, block->pc + block->size - 1);
}

bool sk_code_at(const struct sk_vm *vm, uint64_t gpa)
{
    uint64_t page = gpa / SK_PAGE;

    return page < vm->code.pages && __atomic_load_n(&vm->code.bitmap[page / 8], __ATOMIC_RELAXED) & 1u << page % 8;
}

void sk_code_install(struct sk_vm *vm)
{
    uc_hook hook;

    sk_uc.hook_add(vm->uc, &hook, UC_HOOK_EDGE_GENERATED, (void *)on_translated, vm, 1, 0);
}

bool sk_code_resize(struct sk_vm *vm, uint64_t pages)
{
    uint8_t *bitmap;

    if (pages <= vm->code.pages)
        return true;
    bitmap = realloc(vm->code.bitmap, pages / 8 + 1);
    if (!bitmap)
        return false;
    memset(bitmap + vm->code.pages / 8 + (vm->code.pages != 0), 0, pages / 8 + 1 - (vm->code.pages / 8 + (vm->code.pages != 0)));
    vm->code.bitmap = bitmap;
    vm->code.pages = pages;
    return true;
}

/* Whether translations were made from a range. Any thread that keeps the slots as they are may ask. */
bool sk_code_within(const struct sk_vm *vm, uint64_t gpa, uint64_t size)
{
    for (uint64_t page = gpa / SK_PAGE; size && page <= (gpa + size - 1) / SK_PAGE && page < vm->code.pages; page++)
        if (sk_code_at(vm, page * SK_PAGE))
            return true;
    return false;
}

void sk_code_flush(struct sk_vm *vm)
{
    for (unsigned i = 0; i < vm->code.count; i++)
        sk_uc.hook_del(vm->uc, vm->code.ranges[i].hook);
    vm->code.count = 0;
    if (vm->code.bitmap)
        memset(vm->code.bitmap, 0, vm->code.pages / 8 + 1);
    sk_uc.ctl(vm->uc, UC_CTL_FLUSH_TB);
    sk_uc.ctl(vm->uc, UC_CTL_FLUSH_TLB);
}
