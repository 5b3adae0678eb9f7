/*
 * REP STOS and REP MOVS in bulk.
 *
 * The engine runs each iteration as a block of its own, some 60 ns (a stock kernel clears 5 MiB of BSS that
 * way).  A block that is nothing but such an instruction is recognised when it is translated; when it
 * is about to run, what remains is done here, page by page, within the limits that keep it exactly what
 * the processor would do: 64-bit code, upwards, plain memory, no translated code in the target.
 * Whatever is not so is left to the engine, faults above all.
 */
#include "machine.h"

enum { LIMIT = 1 << 16 }; /* bytes at a time, so that interrupts do not wait */

static unsigned slot_of(uint64_t linear) { return (unsigned)(linear ^ linear >> 12) & (SK_STRING_BITS - 1); }

/* F3 [REX] and STOS or MOVS: the element's size, 0 for anything else. */
static unsigned element(const uint8_t *code, unsigned size, bool *move)
{
    unsigned i = 1;
    bool wide = false;

    if (size < 2 || code[0] != 0xf3)
        return 0;
    if (size == 3 && (code[1] & 0xf8) == 0x48) {
        wide = true;
        i = 2;
    }
    if (i + 1 != size || !(code[i] == 0xaa || code[i] == 0xab || code[i] == 0xa4 || code[i] == 0xa5))
        return 0;
    *move = code[i] < 0xa8;
    return !(code[i] & 1) ? 1 : wide ? 8 : 4;
}

void sk_string_note(struct sk_vcpu *v, uint64_t linear, unsigned size)
{
    uint8_t code[3];
    bool move;

    if (size >= 2 && size <= 3 && sk_read_linear(v, linear, code, size, NULL) && element(code, size, &move))
        v->vm->strings[slot_of(linear) / 8] |= (uint8_t)(1u << slot_of(linear) % 8);
}

bool sk_string_maybe(const struct sk_vm *vm, uint64_t linear)
{
    return vm->strings[slot_of(linear) / 8] & 1u << slot_of(linear) % 8;
}

/* Host memory for as much of [linear, linear + size) as lies in one page; NULL when the engine has to see the access. */
static uint8_t *page_part(struct sk_vcpu *v, uint64_t linear, bool write, uint64_t *size, uint64_t *gpa)
{
    const struct sk_image *m = &v->image;
    bool ac = image_u64(m, m->at->eflags) & SK_FL_AC;
    struct sk_access access = {.write = write, .user = image_cpl(m) == 3, .implicit = !ac};
    uint64_t left = SK_PAGE - (linear & (SK_PAGE - 1));

    if (*size > left)
        *size = left;
    if (!sk_translate(v, linear, access, gpa, NULL) || (write && sk_code_at(v->vm, *gpa)))
        return NULL;
    return sk_host(v->vm, *gpa, *size);
}

static void fill(uint8_t *to, uint64_t value, unsigned width, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += width)
        memcpy(to + i, &value, width);
}

/* One part: as many whole elements as lie in one page of the target (and of the source).  0: not for us. */
static uint64_t do_part(struct sk_vcpu *v, bool move, unsigned width, uint64_t size)
{
    struct sk_image *m = &v->image;
    uint64_t rdi = image_gpr(m, SK_RDI), rsi = image_gpr(m, SK_RSI), gpa, source_gpa;
    uint8_t *to, *from = NULL;

    to = page_part(v, rdi, true, &size, &gpa);
    if (!to || (move && !(from = page_part(v, rsi, false, &size, &source_gpa))))
        return 0;
    if (move && from < to && to < from + size)
        return 0; /* an overlap that repeats a pattern */
    size -= size % width;
    if (move)
        memmove(to, from, size);
    else if (width == 1 || !image_gpr(m, SK_RAX))
        memset(to, (int)(image_gpr(m, SK_RAX) & 0xff), size);
    else
        fill(to, image_gpr(m, SK_RAX), width, size);
    if (size)
        sk_dirty_mark(v->vm, gpa);
    image_set_gpr(m, SK_RDI, rdi + size);
    if (move)
        image_set_gpr(m, SK_RSI, rsi + size);
    image_set_gpr(m, SK_RCX, image_gpr(m, SK_RCX) - size / width);
    return size;
}

/* Does what it can of the instruction at `linear`, about to run; true when it did something, in the loaded image. */
bool sk_string_run(struct sk_vcpu *v, uint64_t linear, unsigned size)
{
    struct sk_image *m = &v->image;
    uint64_t done = 0, part;
    unsigned width;
    uint8_t code[3];
    bool move;

    sk_image_load(v);
    if (!(image_hflags(m) & SK_HF_CS64) || (image_u64(m, m->at->eflags) & SK_FL_TF) || image_u32(m, m->at->df) != 1 || !sk_read_linear(v, linear, code, size, NULL))
        return false;
    width = element(code, size, &move);
    if (!width || image_gpr(m, SK_RCX) > UINT64_MAX / 8)
        return false;
    while (done < LIMIT && image_gpr(m, SK_RCX)) {
        part = do_part(v, move, width, image_gpr(m, SK_RCX) * width);
        if (!part)
            break;
        done += part;
    }
    v->budget -= (int32_t)(done >> 11); /* it takes the time of many blocks */
    if (done && !image_gpr(m, SK_RCX))
        image_set_u64(m, m->at->eip, image_u64(m, m->at->eip) + size);
    return done != 0;
}
