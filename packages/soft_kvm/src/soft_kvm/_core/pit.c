/*
 * The 8254 interval timer and the bits of port 61 that belong to it (data sheet 231244).
 *
 * May assume: the caller holds the interrupt lock; `port` is 40-43 or 61.  Checks: every byte that the guest or a
 * restored record brings.  A channel is a count, the ticks elapsed and whether time adds to them; everything else is
 * computed from these when asked, so nothing runs between accesses and no pause costs more than one division.
 *
 * Deviations, all but the first as KVM: channel 0's OUT edge is a pulse on GSI 0; ticks that fell due together are one,
 * and no two are closer than 200 us; BCD counts as binary; a count written to a running periodic channel takes effect
 * at once, not at the end of its period; there is no clock between writing a count and loading it.
 */
#include "irqchip_internal.h"

#include <string.h>

#define HZ 1193182u
#define NS 1000000000ull
#define MINIMUM_TICKS 239u /* 200 us */
#define UNPROGRAMMED 0xff  /* the mode before any control word, as KVM reports it */

enum { BYTE_LOW = 1, BYTE_HIGH = 2, WORD_LOW = 3, WORD_HIGH = 4 }; /* whose turn it is in a read or write of the count */

static uint64_t to_ticks(uint64_t ns)
{
    return ns / NS * HZ + ns % NS * HZ / NS;
}

static uint64_t to_ns(uint64_t ticks)
{
    return ticks / HZ * NS + (ticks % HZ * NS + HZ - 1) / HZ;
}

static bool by_trigger(const struct sk_pit_channel *channel)
{
    return channel->state.mode == 1 || channel->state.mode == 5;
}

static bool is_periodic(const struct sk_pit_channel *channel)
{
    return channel->state.mode == 2 || channel->state.mode == 3;
}

static uint64_t elapsed(const struct sk_pit_channel *channel, uint64_t now)
{
    if (!channel->running || now < channel->since)
        return channel->elapsed;
    return channel->elapsed + to_ticks(now - channel->since);
}

static bool out(const struct sk_pit_channel *channel, uint64_t now)
{
    uint64_t ticks = elapsed(channel, now);
    uint32_t count = channel->state.count;

    switch (channel->state.mode) {
    case 0:
        return channel->loaded && ticks >= count;
    case 1: /* high until triggered; `running` stays set after the shot */
        return !channel->running || ticks >= count;
    case 2:
        return !channel->running || ticks % count != count - 1;
    case 3:
        return !channel->running || ticks % count < (count + 1) / 2;
    case 4:
    case 5:
        return !channel->running || ticks != count;
    default:
        return false;
    }
}

static uint16_t counting(const struct sk_pit_channel *channel, uint64_t now)
{
    uint64_t ticks = elapsed(channel, now);
    uint32_t count = channel->state.count;

    if (channel->state.mode == 2)
        return (uint16_t)(count - ticks % count);
    if (channel->state.mode == 3) /* two at a time */
        return (uint16_t)((count - 2 * ticks % count) & ~1u);
    return (uint16_t)(count - ticks);
}

/* Channel 0's gate is tied high: only modes 0, 2, 3 and 4 ever end a count, and `elapsed` is 0. */
static void arm(struct sk_pit *pit, uint64_t now)
{
    const struct sk_pit_channel *channel = &pit->channel[0];
    uint64_t step = channel->state.count, target;

    pit->deadline = SK_NO_DEADLINE;
    if (!channel->loaded || !channel->running || by_trigger(channel))
        return;
    if (is_periodic(channel)) {
        step *= (MINIMUM_TICKS + step - 1) / step;
        target = (elapsed(channel, now) / step + 1) * step;
    } else {
        target = step + (channel->state.mode == 4); /* mode 4 strobes low for one clock first */
        if (elapsed(channel, now) >= target)
            return;
    }
    pit->deadline = sk_after(channel->since, to_ns(target));
}

bool sk_pit_expire(struct sk_pit *pit, uint64_t now)
{
    if (pit->deadline == SK_NO_DEADLINE || pit->deadline > now)
        return false;
    arm(pit, now);
    return true;
}

/* --------------------------------------------------------------------------------------------- programming */

static void start(struct sk_pit_channel *channel, uint64_t now)
{
    channel->elapsed = 0;
    channel->since = now;
    channel->running = true;
}

static void stop(struct sk_pit_channel *channel, uint64_t now)
{
    channel->elapsed = elapsed(channel, now);
    channel->running = false;
}

/* Modes 1 and 5 wait for the gate's edge; the others count while it is high. */
static void load(struct sk_pit_channel *channel, uint32_t count, uint64_t now)
{
    channel->state.count = count ? count : 0x10000;
    channel->loaded = true;
    if (by_trigger(channel))
        return;
    start(channel, now);
    channel->running = channel->state.gate;
}

static void set_gate(struct sk_pit_channel *channel, bool gate, uint64_t now)
{
    bool rising = gate && !channel->state.gate, falling = !gate && channel->state.gate;

    channel->state.gate = gate;
    if (!channel->loaded)
        return;
    if (falling && !by_trigger(channel))
        stop(channel, now);
    if (!rising)
        return;
    if (by_trigger(channel) || is_periodic(channel))
        channel->elapsed = 0;
    channel->since = now;
    channel->running = true;
}

static void write_count(struct sk_pit_channel *channel, uint8_t value, uint64_t now)
{
    struct kvm_pit_channel_state *state = &channel->state;

    switch (state->write_state) {
    case BYTE_LOW:
        load(channel, value, now);
        return;
    case BYTE_HIGH:
        load(channel, (uint32_t)value << 8, now);
        return;
    case WORD_LOW:
        state->write_latch = value;
        state->write_state = WORD_HIGH;
        if (state->mode == 0) { /* half a count stops the old one */
            stop(channel, now);
            channel->loaded = false;
        }
        return;
    case WORD_HIGH:
        state->write_state = WORD_LOW;
        load(channel, (uint32_t)value << 8 | state->write_latch, now);
        return;
    default: /* no control word yet */
        return;
    }
}

static uint8_t read_half(uint16_t value, uint8_t *turn)
{
    switch (*turn) {
    case BYTE_HIGH:
        return (uint8_t)(value >> 8);
    case WORD_LOW:
        *turn = WORD_HIGH;
        return (uint8_t)value;
    case WORD_HIGH:
        *turn = WORD_LOW;
        return (uint8_t)(value >> 8);
    default:
        return (uint8_t)value;
    }
}

/* A latched status comes first, then a latched count in one or two reads, then the count as it runs. */
static uint8_t read_count(struct sk_pit_channel *channel, uint64_t now)
{
    struct kvm_pit_channel_state *state = &channel->state;
    uint8_t turn = state->count_latched, value;

    if (state->status_latched) {
        state->status_latched = 0;
        return state->status;
    }
    if (!turn)
        return read_half(counting(channel, now), &state->read_state);
    value = read_half(state->latched_count, &turn);
    state->count_latched = turn == WORD_HIGH ? WORD_HIGH : 0;
    return value;
}

/* A second latch before the first was read changes nothing. */
static void latch_count(struct sk_pit_channel *channel, uint64_t now)
{
    if (channel->state.count_latched)
        return;
    channel->state.latched_count = counting(channel, now);
    channel->state.count_latched = channel->state.rw_mode;
}

static void latch_status(struct sk_pit_channel *channel, uint64_t now)
{
    struct kvm_pit_channel_state *state = &channel->state;

    if (state->status_latched)
        return;
    state->status = (uint8_t)(out(channel, now) << 7 | !channel->loaded << 6 | (state->rw_mode & 3) << 4 |
                              (state->mode & 7) << 1 | (state->bcd & 1));
    state->status_latched = 1;
}

static void read_back(struct sk_pit *pit, uint8_t command, uint64_t now)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(command & 2u << i))
            continue;
        if (!(command & 0x20))
            latch_count(&pit->channel[i], now);
        if (!(command & 0x10))
            latch_status(&pit->channel[i], now);
    }
}

static void write_control(struct sk_pit *pit, uint8_t value, uint64_t now)
{
    struct sk_pit_channel *channel;
    struct kvm_pit_channel_state *state;

    if (value >> 6 == 3) {
        read_back(pit, value, now);
        return;
    }
    channel = &pit->channel[value >> 6];
    state = &channel->state;
    if (!(value & 0x30)) {
        latch_count(channel, now);
        return;
    }
    stop(channel, now);
    channel->loaded = false;
    state->rw_mode = state->read_state = state->write_state = value >> 4 & 3;
    state->mode = value >> 1 & 7;
    if (state->mode > 5)
        state->mode -= 4; /* the top bit of modes 2 and 3 is "don't care" */
    state->bcd = value & 1;
    state->count_latched = state->status_latched = 0;
}

/* Port 61: gate 2, speaker, the refresh toggle (every 15 us) and OUT 2. */
static uint8_t read_port61(const struct sk_pit *pit, uint64_t now)
{
    return (uint8_t)(pit->channel[2].state.gate | pit->speaker << 1 | (now / 15085 & 1) << 4 |
                     out(&pit->channel[2], now) << 5);
}

uint8_t sk_pit_read(struct sk_pit *pit, uint16_t port, uint64_t now)
{
    if (port == 0x61)
        return read_port61(pit, now);
    return port == 0x43 ? 0xff : read_count(&pit->channel[port & 3], now);
}

void sk_pit_write(struct sk_pit *pit, uint16_t port, uint8_t value, uint64_t now)
{
    if (port == 0x61) {
        pit->speaker = value >> 1 & 1;
        set_gate(&pit->channel[2], value & 1, now);
        return;
    }
    if (port == 0x43)
        write_control(pit, value, now);
    else
        write_count(&pit->channel[port & 3], value, now);
    arm(pit, now);
}

/* --------------------------------------------------------------------------------------------------- state */

void sk_pit_reset(struct sk_pit *pit, uint64_t now)
{
    memset(pit, 0, sizeof *pit);
    pit->present = true;
    pit->deadline = SK_NO_DEADLINE;
    for (unsigned i = 0; i < 3; i++) {
        pit->channel[i].state.mode = UNPROGRAMMED;
        pit->channel[i].state.count = 0x10000;
        pit->channel[i].state.gate = i != 2;
        pit->channel[i].since = now;
    }
}

/*
 * KVM's record has one time per channel, the moment when the count would have started had it run ever since.  A
 * channel without a running start (no count yet, or not triggered) has time 0 there, and count 0 when its mode was
 * set but no count written.
 */
void sk_pit_save(const struct sk_pit *pit, struct kvm_pit_state2 *state, uint64_t now)
{
    memset(state, 0, sizeof *state);
    state->flags = pit->speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
    for (unsigned i = 0; i < 3; i++) {
        const struct sk_pit_channel *channel = &pit->channel[i];
        uint64_t ago = to_ns(elapsed(channel, now));

        state->channels[i] = channel->state;
        if (!channel->loaded)
            state->channels[i].count = channel->state.mode == UNPROGRAMMED ? 0x10000 : 0;
        else if (channel->running || !by_trigger(channel))
            state->channels[i].count_load_time = now > ago ? (int64_t)(now - ago) : 1;
    }
}

static void restore_channel(struct sk_pit_channel *channel, const struct kvm_pit_channel_state *from, uint64_t now)
{
    struct kvm_pit_channel_state *state = &channel->state;
    uint64_t since = from->count_load_time > 0 ? (uint64_t)from->count_load_time : now;

    *state = *from;
    state->rw_mode &= 3;
    state->read_state = from->read_state <= WORD_HIGH ? from->read_state : 0;
    state->write_state = from->write_state <= WORD_HIGH ? from->write_state : 0;
    state->count_latched = from->count_latched <= WORD_HIGH ? from->count_latched : 0;
    state->mode = from->mode <= 5 ? from->mode : UNPROGRAMMED;
    state->gate = from->gate != 0;
    state->bcd &= 1;
    state->count = from->count && from->count <= 0x10000 ? from->count : 0x10000;
    channel->loaded = (from->count || from->count_load_time) && state->mode != UNPROGRAMMED;
    start(channel, since < now ? since : now);
    if (!channel->loaded || (by_trigger(channel) ? !from->count_load_time : !state->gate))
        stop(channel, now);
    state->count_load_time = 0;
}

/* Channel 0 starts its count anew, as KVM: a tick may come late after a long pause, never not at all. */
void sk_pit_restore(struct sk_pit *pit, const struct kvm_pit_state2 *state, uint64_t now)
{
    pit->speaker = state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    for (unsigned i = 0; i < 3; i++)
        restore_channel(&pit->channel[i], &state->channels[i], now);
    pit->channel[0].state.gate = pit->channel[1].state.gate = 1;
    if (pit->channel[0].loaded)
        load(&pit->channel[0], pit->channel[0].state.count, now);
    arm(pit, now);
}
