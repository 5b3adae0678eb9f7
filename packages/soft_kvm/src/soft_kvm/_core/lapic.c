/*
 * The local APIC in xAPIC mode (Intel SDM vol. 3 ch. 11), version 0x14 with six LVT entries, as KVM offers it;
 * all but its timer.
 *
 * May assume: the caller holds the interrupt lock; `offset` < 4096 and `size` <= 8.  Checks: everything that the
 * guest writes; every register keeps only its defined bits, so the rest of this file trusts them.  Bounded work per call.
 *
 * Not here: x2APIC; the APR and RRD registers (read 0); SMI (dropped); level-triggered LINT pins (taken as edges);
 * the focus processor.  As in KVM the bootstrap CPU's LINT0 comes out of reset as unmasked ExtINT, so that a PIC-only
 * guest needs no APIC set-up.
 */
#include "lapic_registers.h"

#include <string.h>

/* The slots that hold a register: 02-03, 08-28, 30-39, 3e. */
#define EXISTING_SLOTS ((3ull << 0x02) | (((1ull << 0x21) - 1) << 0x08) | (0x3ffull << 0x30) | (1ull << 0x3e))

#define VERSION_VALUE 0x50014u /* highest LVT entry 5; version 0x14 */
#define SVR_ENABLE 0x100u
#define FIRST_LEGAL_VECTOR 16

/* Error status bits, SDM vol. 3 §11.5.3. */
#define ERROR_SEND_VECTOR 0x20u
#define ERROR_RECEIVED_VECTOR 0x40u
#define ERROR_REGISTER 0x80u

/* ------------------------------------------------------------------------------- the 256-bit vector registers */

static void set_vector(struct sk_lapic *lapic, unsigned bank, uint8_t vector)
{
    lapic->slot[bank + vector / 32] |= 1u << (vector % 32);
}

static void clear_vector(struct sk_lapic *lapic, unsigned bank, uint8_t vector)
{
    lapic->slot[bank + vector / 32] &= ~(1u << (vector % 32));
}

static bool test_vector(const struct sk_lapic *lapic, unsigned bank, uint8_t vector)
{
    return lapic->slot[bank + vector / 32] >> (vector % 32) & 1;
}

static int highest_vector(const struct sk_lapic *lapic, unsigned bank)
{
    for (int word = 7; word >= 0; word--)
        if (lapic->slot[bank + word])
            return word * 32 + 31 - __builtin_clz(lapic->slot[bank + word]);
    return -1;
}

/* --------------------------------------------------------------------------------------- reset and questions */

/* The state after INIT, which is that of power-on but for the APIC id (SDM vol. 3 §11.4.7.3). */
static void reset(struct sk_lapic *lapic)
{
    uint32_t id = lapic->slot[ID];

    memset(lapic->slot, 0, sizeof lapic->slot);
    lapic->slot[ID] = id;
    lapic->slot[VERSION] = VERSION_VALUE;
    lapic->slot[DFR] = 0xffffffff;
    lapic->slot[SVR] = 0xff;
    for (unsigned lvt = LVT_TIMER; lvt <= LVT_ERROR; lvt++)
        lapic->slot[lvt] = LVT_MASKED;
    if (lapic->bootstrap)
        lapic->slot[LVT_LINT0] = SK_MODE_EXTINT << 8;
    lapic->errors = 0;
    lapic->error_armed = true;
    lapic->timer_deadline = SK_NO_DEADLINE;
}

void sk_lapic_add(struct sk_lapic *lapic, unsigned cpu)
{
    memset(lapic, 0, sizeof *lapic);
    lapic->present = lapic->enabled = true;
    lapic->bootstrap = cpu == 0;
    lapic->slot[ID] = (uint32_t)cpu << 24;
    reset(lapic);
}

bool sk_lapic_software_enabled(const struct sk_lapic *lapic)
{
    return lapic->enabled && lapic->slot[SVR] & SVR_ENABLE;
}

/* SDM vol. 3 §11.8.3.1: the higher class of TPR and the highest vector in service; TPR keeps its sub-class. */
uint8_t sk_lapic_processor_priority(const struct sk_lapic *lapic)
{
    int serviced = highest_vector(lapic, ISR);
    uint8_t task = (uint8_t)lapic->slot[TPR];
    uint8_t service = serviced < 0 ? 0 : (uint8_t)(serviced & 0xf0);

    return (task & 0xf0) >= service ? task : service;
}

/* SDM vol. 3 §11.6.2.1 and §11.6.2.2; all ones is everybody in each of the three models. */
bool sk_lapic_matches(const struct sk_lapic *lapic, uint8_t destination, bool logical)
{
    uint8_t own = (uint8_t)(lapic->slot[LDR] >> 24);

    if (destination == 0xff)
        return true;
    if (!logical)
        return destination == lapic->slot[ID] >> 24;
    switch (lapic->slot[DFR] >> 28) {
    case 0xf: /* flat */
        return destination & own;
    case 0x0: /* cluster */
        return destination >> 4 == own >> 4 && destination & own & 0xf;
    default:
        return false;
    }
}

bool sk_lapic_accepts_pic(const struct sk_lapic *lapic)
{
    uint32_t lvt = lapic->slot[LVT_LINT0];

    if (!lapic->enabled)
        return lapic->bootstrap;
    return !(lvt & LVT_MASKED) && (lvt >> 8 & 7) == SK_MODE_EXTINT;
}

/*
 * What is already in the IRR stays dispatchable after the guest disables the APIC by software: it is "held" and
 * wants to be handled (SDM vol. 3 §11.4.7.2); nothing new is accepted then.
 */
int sk_lapic_pending(const struct sk_lapic *lapic)
{
    int vector = highest_vector(lapic, IRR);

    if (!lapic->enabled || vector < 0 || (vector & 0xf0) <= (sk_lapic_processor_priority(lapic) & 0xf0))
        return -1;
    return vector;
}

int sk_lapic_acknowledge(struct sk_lapic *lapic)
{
    int vector = sk_lapic_pending(lapic);

    if (vector >= 0) {
        clear_vector(lapic, IRR, (uint8_t)vector);
        set_vector(lapic, ISR, (uint8_t)vector);
    }
    return vector;
}

/* ------------------------------------------------------------------------------------------------- acceptance */

/* Logs an error; the first since the guest's last ESR write raises the LVT error interrupt (SDM vol. 3 §11.5.3). */
static void log_error(struct sk_lapic *lapic, uint32_t error)
{
    uint32_t lvt = lapic->slot[LVT_ERROR];

    lapic->errors |= error;
    if (!lapic->error_armed)
        return;
    lapic->error_armed = false;
    if (lvt & LVT_MASKED || !sk_lapic_software_enabled(lapic))
        return;
    if ((lvt & 0xff) < FIRST_LEGAL_VECTOR) {
        lapic->errors |= ERROR_RECEIVED_VECTOR;
        return;
    }
    clear_vector(lapic, TMR, (uint8_t)lvt);
    set_vector(lapic, IRR, (uint8_t)lvt);
}

static bool accept_vector(struct sk_lapic *lapic, uint8_t vector, bool level)
{
    if (!sk_lapic_software_enabled(lapic))
        return false;
    if (vector < FIRST_LEGAL_VECTOR) {
        log_error(lapic, ERROR_RECEIVED_VECTOR);
        return false;
    }
    if (level)
        set_vector(lapic, TMR, vector);
    else
        clear_vector(lapic, TMR, vector);
    set_vector(lapic, IRR, vector);
    return true;
}

bool sk_lapic_accept(struct sk_lapic *lapic, const struct sk_message *message)
{
    switch (message->mode) {
    case SK_MODE_FIXED:
    case SK_MODE_LOWEST_PRIORITY:
        return accept_vector(lapic, message->vector, message->level);
    case SK_MODE_NMI:
        lapic->events |= SK_EVENT_NMI;
        return true;
    case SK_MODE_INIT: /* what waited for the old state of the CPU is void */
        reset(lapic);
        lapic->events = SK_EVENT_INIT;
        return true;
    case SK_MODE_SIPI: /* whether the CPU waits for one is the engine's knowledge */
        lapic->sipi_vector = message->vector;
        lapic->events |= SK_EVENT_SIPI;
        return true;
    default: /* SMI; ExtINT, which only LINT0 brings; reserved modes */
        return false;
    }
}

void sk_lapic_deliver_local(struct sk_lapic *lapic, uint32_t lvt)
{
    struct sk_message message = {.vector = (uint8_t)lvt, .mode = lvt >> 8 & 7};

    if (!(lvt & LVT_MASKED) && (message.mode == SK_MODE_FIXED || message.mode == SK_MODE_NMI))
        sk_lapic_accept(lapic, &message);
}

/* A rising edge of the PIC's output.  ExtINT is not an edge: sk_lapic_accepts_pic() lets the CPU see the line itself. */
void sk_lapic_pulse_lint0(struct sk_lapic *lapic)
{
    if (lapic->enabled)
        sk_lapic_deliver_local(lapic, lapic->slot[LVT_LINT0]);
}

/* -------------------------------------------------------------------------------------------------- registers */

static void end_of_interrupt(sk_irqchip *chip, struct sk_lapic *lapic)
{
    int vector = highest_vector(lapic, ISR);

    if (vector < 0)
        return;
    clear_vector(lapic, ISR, (uint8_t)vector);
    if (test_vector(lapic, TMR, (uint8_t)vector))
        sk_ioapic_eoi(chip, (uint8_t)vector);
}

/* SDM vol. 3 §11.6.1.  The trigger mode of an IPI means something for INIT alone. */
static void send_ipi(sk_irqchip *chip, unsigned cpu)
{
    struct sk_lapic *lapic = &chip->lapic[cpu];
    uint32_t low = lapic->slot[ICR_LOW];
    bool deassert = low & 0x8000 && !(low & 0x4000);
    struct sk_message message = {
        .vector = (uint8_t)low,
        .mode = low >> 8 & 7,
        .destination = (uint8_t)(lapic->slot[ICR_HIGH] >> 24),
        .logical = low & 0x800,
    };

    if (message.mode == SK_MODE_INIT && deassert)
        return; /* it synchronised arbitration ids, which no APIC since the Pentium 4 has */
    if (message.mode <= SK_MODE_LOWEST_PRIORITY && message.vector < FIRST_LEGAL_VECTOR) {
        log_error(lapic, ERROR_SEND_VECTOR);
        return;
    }
    sk_bus_deliver(chip, &message, low >> 18 & 3, cpu);
}

/* While the APIC is disabled by software its LVT entries cannot be unmasked (SDM vol. 3 §11.4.7.2). */
static void write_spurious(struct sk_lapic *lapic, uint32_t value)
{
    lapic->slot[SVR] = value & 0x3ff;
    if (!(value & SVR_ENABLE))
        for (unsigned lvt = LVT_TIMER; lvt <= LVT_ERROR; lvt++)
            lapic->slot[lvt] |= LVT_MASKED;
}

static void write_lvt(struct sk_lapic *lapic, unsigned slot, uint32_t value)
{
    static const uint32_t defined[] = {0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};

    lapic->slot[slot] = value & defined[slot - LVT_TIMER];
    if (!(lapic->slot[SVR] & SVR_ENABLE))
        lapic->slot[slot] |= LVT_MASKED;
}

static uint32_t read_slot(struct sk_lapic *lapic, unsigned slot, uint64_t now)
{
    switch (slot) {
    case PPR:
        return sk_lapic_processor_priority(lapic);
    case CURRENT_COUNT:
        return sk_lapic_current_count(lapic, now);
    default:
        return lapic->slot[slot];
    }
}

static void write_slot(sk_irqchip *chip, unsigned cpu, unsigned slot, uint32_t value, uint64_t now)
{
    struct sk_lapic *lapic = &chip->lapic[cpu];

    switch (slot) {
    case ID:
    case LDR:
        lapic->slot[slot] = value & 0xff000000;
        break;
    case DFR:
        lapic->slot[DFR] = value | 0x0fffffff;
        break;
    case TPR:
        lapic->slot[TPR] = value & 0xff;
        return;
    case EOI:
        end_of_interrupt(chip, lapic);
        return;
    case SVR:
        write_spurious(lapic, value);
        break;
    case ESR: /* the visible register takes what was logged since the last write */
        lapic->slot[ESR] = lapic->errors;
        lapic->errors = 0;
        lapic->error_armed = true;
        return;
    case ICR_LOW:
        lapic->slot[ICR_LOW] = value & 0xccfff; /* delivery status is always idle */
        send_ipi(chip, cpu);
        return;
    case ICR_HIGH:
        lapic->slot[ICR_HIGH] = value & 0xff000000;
        return;
    case LVT_TIMER:
    case LVT_THERMAL:
    case LVT_PERFORMANCE:
    case LVT_LINT0:
    case LVT_LINT1:
    case LVT_ERROR:
        write_lvt(lapic, slot, value);
        return;
    case INITIAL_COUNT:
        sk_lapic_write_initial_count(lapic, value, now);
        return;
    case DIVIDE:
        sk_lapic_write_divide(lapic, value, now);
        return;
    default: /* read-only */
        return;
    }
    sk_ioapic_retry(chip); /* this APIC may accept now what it did not before */
}

static bool exists(struct sk_lapic *lapic, unsigned slot)
{
    if (slot < SK_LAPIC_SLOTS && EXISTING_SLOTS >> slot & 1)
        return true;
    log_error(lapic, ERROR_REGISTER);
    return false;
}

/* Reads inside one register's four bytes give those bytes, as KVM; what else the SDM leaves undefined reads 0. */
uint64_t sk_lapic_read(struct sk_lapic *lapic, unsigned offset, unsigned size, uint64_t now)
{
    unsigned byte = offset & 0xf;
    uint64_t value;

    sk_lapic_expire(lapic, now);
    if (!exists(lapic, offset >> 4) || byte + size > 4)
        return 0;
    value = read_slot(lapic, offset >> 4, now) >> byte * 8;
    return value & ((1ull << size * 8) - 1);
}

/* Only aligned 32-bit writes act (SDM vol. 3 §11.4.1). */
void sk_lapic_write(sk_irqchip *chip, unsigned cpu, unsigned offset, unsigned size, uint64_t value, uint64_t now)
{
    struct sk_lapic *lapic = &chip->lapic[cpu];

    sk_lapic_expire(lapic, now); /* what fell due under the old settings */
    if (size == 4 && (offset & 0xf) == 0 && exists(lapic, offset >> 4))
        write_slot(chip, cpu, offset >> 4, (uint32_t)value, now);
}

/* ------------------------------------------------------------------------------------------------------ state */

void sk_lapic_save(const struct sk_lapic *lapic, struct kvm_lapic_state *state, uint64_t now)
{
    memset(state, 0, sizeof *state);
    for (unsigned slot = 0; slot < SK_LAPIC_SLOTS; slot++) {
        uint32_t value = lapic->slot[slot];

        if (slot == PPR)
            value = sk_lapic_processor_priority(lapic);
        else if (slot == CURRENT_COUNT)
            value = sk_lapic_current_count(lapic, now);
        memcpy(state->regs + slot * 16, &value, sizeof value);
    }
}

/* Errors logged but not yet latched are not in KVM's record and are forgotten.  The timer goes on from its current count. */
void sk_lapic_restore(struct sk_lapic *lapic, const struct kvm_lapic_state *state, uint64_t now)
{
    uint32_t from[SK_LAPIC_SLOTS];

    for (unsigned slot = 0; slot < SK_LAPIC_SLOTS; slot++)
        memcpy(&from[slot], state->regs + slot * 16, sizeof from[slot]);
    reset(lapic);
    lapic->slot[ID] = from[ID] & 0xff000000;
    lapic->slot[TPR] = from[TPR] & 0xff;
    lapic->slot[LDR] = from[LDR] & 0xff000000;
    lapic->slot[DFR] = from[DFR] | 0x0fffffff;
    lapic->slot[SVR] = from[SVR] & 0x3ff;
    lapic->slot[ESR] = from[ESR] & 0xff;
    lapic->slot[ICR_LOW] = from[ICR_LOW] & 0xccfff;
    lapic->slot[ICR_HIGH] = from[ICR_HIGH] & 0xff000000;
    for (unsigned slot = ISR; slot < ESR; slot++)
        lapic->slot[slot] = slot % 8 ? from[slot] : from[slot] & 0xffff0000; /* no vectors 0-15 */
    for (unsigned slot = LVT_TIMER; slot <= LVT_ERROR; slot++) {
        write_lvt(lapic, slot, from[slot]);
        if (!(from[slot] & LVT_MASKED)) /* reset leaves LINT0 unmasked in a disabled APIC */
            lapic->slot[slot] &= ~LVT_MASKED;
    }
    lapic->slot[DIVIDE] = from[DIVIDE] & 0xb;
    lapic->slot[INITIAL_COUNT] = from[INITIAL_COUNT];
    sk_lapic_resume_timer(lapic, from[CURRENT_COUNT], now);
}
