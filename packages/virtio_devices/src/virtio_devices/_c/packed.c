/* The packed format (virtio 1.2 §2.8): one ring, in which used descriptors replace available ones.
 *
 * A position is 15 bits of index with the wrap counter above them.
 */
#include "core.h"

enum { AVAIL = 1 << 7, USED = 1 << 15, MARKS = AVAIL | USED };
enum { WRAP = 1 << 15 };
enum { EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC };
enum { LENGTH = 8, ID = 12, FLAGS = 14 }; /* in a descriptor */

static uint32_t index_of(uint32_t position) { return position & ~(uint32_t)WRAP; }

static uint32_t advance(const Ring *ring, uint32_t position, uint32_t entries)
{
    uint32_t index = index_of(position) + entries;

    if (index < ring->size)
        return (position & WRAP) | index;
    return ((position & WRAP) ^ WRAP) | (index - ring->size);
}

/* AVAIL matches the wrap counter and USED does not (§2.8.1). */
static int is_available(uint16_t flags, uint32_t position)
{
    return (flags & MARKS) == (position & WRAP ? AVAIL : USED);
}

static uint64_t offset_of(uint32_t position)
{
    return (uint64_t)index_of(position) * DESCRIPTOR_SIZE;
}

/* Chains by their first descriptors. */
static int pending(Ring *ring, uint32_t limit)
{
    uint32_t position = ring->next_avail, chains = 0, seen = 0;
    uint16_t flags = 0;

    do {
        int follows = flags & NEXT;
        flags = load16(ring, DESCRIPTORS, offset_of(position) + FLAGS);
        if (!is_available(flags, position))
            break;
        chains += !follows;
        position = advance(ring, position, 1);
    } while (chains < limit && ++seen < ring->size);
    return (int)chains;
}

/* All descriptors of a table, in order; only WRITE means something in them (§2.8.7). */
static int take_table(Ring *ring, Walk *walk, uint32_t start, const Descriptor *reference)
{
    for (uint32_t i = 0; i < reference->size / DESCRIPTOR_SIZE; i++) {
        Descriptor descriptor;
        if (read_table(ring, reference->address, i, &descriptor) < 0
            || walk_append(ring, walk, start, &descriptor, descriptor.fourth & WRITE) < 0)
            return -1;
    }
    return 1;
}

/* One list from next_avail on; at most as many descriptors as the device does not hold. */
static int follow(Ring *ring, Walk *walk)
{
    uint32_t position = walk->position, start = index_of(position);

    for (;;) {
        Descriptor descriptor;
        if (walk->entries == ring->size - ring->held_entries)
            return walk_fail(start, "2.8.16", "goes on in descriptors that the device holds");
        descriptor = read_descriptor(ring, index_of(position));
        uint16_t flags = descriptor.fourth;
        if (!is_available(flags, position))
            return walk_fail(start, "2.8.6", "goes on in a descriptor that is not available");
        walk->head = descriptor.third;
        walk->entries++;
        if (flags & INDIRECT) {
            int linked = walk->entries > 1 || flags & NEXT;
            if (walk_check_table(ring, start, &descriptor, 0, linked) < 0)
                return -1;
            return take_table(ring, walk, start, &descriptor);
        }
        if (walk_append(ring, walk, start, &descriptor, flags & WRITE) < 0)
            return -1;
        if (!(flags & NEXT))
            return 1;
        position = advance(ring, position, 1);
    }
}

static int walk_next(Ring *ring, Walk *walk)
{
    if (!pending(ring, 1))
        return 0;
    *walk = (Walk){.position = ring->next_avail};
    if (follow(ring, walk) < 0)
        return -1;
    if (ring->held[walk->head] == NULL)
        return 1;
    return walk_fail(index_of(walk->position), "2.8.21.1",
                     "has buffer id %u, which the device still holds", (unsigned)walk->head);
}

/* The flags of the first descriptor of a batch are left to `publish`: the driver looks there first,
 * and all of the buffers of a frame have to be there together (§5.1.6.4.1). */
static void use(Ring *ring, uint32_t head, uint32_t length, uint32_t Py_UNUSED(entries))
{
    uint64_t descriptor = offset_of(ring->next_used);
    uint16_t flags = ring->next_used & WRAP ? MARKS : 0;

    if (length)
        flags |= WRITE; /* §2.8.3 */
    store32(ring, DESCRIPTORS, descriptor + LENGTH, length);
    store16(ring, DESCRIPTORS, descriptor + ID, (uint16_t)head);
    if (ring->unpublished)
        store16(ring, DESCRIPTORS, descriptor + FLAGS, flags);
    else {
        ring->first_used = descriptor;
        ring->first_flags = flags;
        ring->unpublished = 1;
    }
}

/* After length and id of this and of all others (§2.8.15): the store is a release. */
static void publish(Ring *ring)
{
    if (ring->unpublished)
        store16(ring, DESCRIPTORS, ring->first_used + FLAGS, ring->first_flags);
    ring->unpublished = 0;
}

static int wants(Ring *ring, uint32_t added)
{
    uint32_t event = load32(ring, DRIVER, 0);
    uint32_t flags = event >> 16 & 3;

    if (flags == EVENT_DESC && ring->event_idx) {
        uint32_t offset = index_of(event & 0xFFFF);
        if ((event ^ ring->next_used) & WRAP) /* it is of the lap before */
            offset -= ring->size;
        /* After a whole lap the event was passed, wherever it was. */
        return added >= ring->size || crosses_event(offset, index_of(ring->next_used), added);
    }
    return flags != EVENT_DISABLE;
}

static void ask(Ring *ring, int wish)
{
    uint32_t flags = !wish ? EVENT_DISABLE : ring->event_idx ? EVENT_DESC : EVENT_ENABLE;

    store32(ring, DEVICE, 0, (wish ? ring->next_avail : 0) | flags << 16);
}

const Format packed_format = {
    .clauses = {.length = "2.8.17",
                .order = "2.8.17",
                .total = "2.8.4",
                .memory = "2.8.13",
                .indirect = "2.8.19"},
    .heads = 1 << 16, /* a buffer id is any 16-bit number */
    .walk = walk_next,
    .advance = advance,
    .use = use,
    .publish = publish,
    .wants = wants,
    .ask = ask,
    .pending = pending,
};
