/* The split format (virtio 1.2 §2.7): a table, a ring of available heads, a ring of used ones.
 *
 * Positions are free-running 16-bit indices.
 */
#include "core.h"

enum { NO_INTERRUPT = 1, NO_NOTIFY = 1 };
enum { FLAGS = 0, IDX = 2, RING = 4, USED_ELEMENT = 8 };

static int pending(Ring *ring, uint32_t Py_UNUSED(limit))
{
    uint16_t index = load16(ring, DRIVER, IDX);
    uint16_t count = (uint16_t)(index - ring->next_avail);

    if (count <= ring->size)
        return count;
    raise_error("InvalidAvailableIndex", "(III)", (unsigned)index, ring->next_avail, ring->size);
    return -1;
}

/* The next head: read once, checked as read; -1 with an error. */
static int read_head(Ring *ring)
{
    uint16_t head = load16(ring, DRIVER, RING + 2 * (ring->next_avail & (ring->size - 1)));

    if (head >= ring->size)
        raise_error("InvalidHead", "(IIss)", (unsigned)head, ring->size, "does not exist",
                    "2.7.13.2");
    else if (ring->held[head])
        raise_error("InvalidHead", "(IIss)", (unsigned)head, ring->size,
                    "is offered while the device holds it", "2.7.13.1");
    else
        return head;
    return -1;
}

/* Each round takes a buffer, which walk_append counts, but for the one that enters a table. */
static int follow(Ring *ring, Walk *walk)
{
    uint32_t index = walk->head, entries = ring->size;
    uint64_t table = 0;
    int nested = 0;

    for (;;) {
        Descriptor descriptor;
        if (!nested)
            descriptor = read_descriptor(ring, index);
        else if (read_table(ring, table, index, &descriptor) < 0)
            return -1;
        uint16_t flags = descriptor.third, next = descriptor.fourth;
        if (flags & INDIRECT) {
            if (walk_check_table(ring, walk->head, &descriptor, nested, flags & NEXT) < 0)
                return -1;
            table = descriptor.address;
            entries = descriptor.size / DESCRIPTOR_SIZE;
            nested = 1;
            index = 0;
            continue;
        }
        if (walk_append(ring, walk, walk->head, &descriptor, flags & WRITE) < 0)
            return -1;
        if (!(flags & NEXT))
            return 1;
        if (next >= entries)
            return walk_fail(walk->head, "2.7.5", "goes on at %u of a table of %u",
                             (unsigned)next, (unsigned)entries);
        index = next;
    }
}

static int walk_next(Ring *ring, Walk *walk)
{
    int head, available = pending(ring, 1);

    if (available <= 0)
        return available;
    head = read_head(ring);
    if (head < 0)
        return -1;
    *walk = (Walk){.head = (uint32_t)head, .position = ring->next_avail, .entries = 1};
    return follow(ring, walk);
}

static uint32_t advance(const Ring *Py_UNUSED(ring), uint32_t position, uint32_t entries)
{
    return (position + entries) & 0xFFFF;
}

static void use(Ring *ring, uint32_t head, uint32_t length, uint32_t Py_UNUSED(entries))
{
    uint64_t element = RING + USED_ELEMENT * (uint64_t)(ring->next_used & (ring->size - 1));

    store32(ring, DEVICE, element, head);
    store32(ring, DEVICE, element + 4, length);
}

/* After the elements (§2.7.8.2): the store is a release. */
static void publish(Ring *ring) { store16(ring, DEVICE, IDX, (uint16_t)ring->next_used); }

static int wants(Ring *ring, uint32_t added)
{
    if (ring->event_idx) {
        uint16_t event = load16(ring, DRIVER, RING + 2 * (uint64_t)ring->size);
        return crosses_event(event, ring->next_used, added);
    }
    return !(load16(ring, DRIVER, FLAGS) & NO_INTERRUPT);
}

/* With EVENT_IDX there is no way to ask for none: the event stays where it was, and once passed
 * it asks for nothing; the flags are 0 then (§2.7.10.2). */
static void ask(Ring *ring, int wish)
{
    if (!ring->event_idx)
        store16(ring, DEVICE, FLAGS, wish ? 0 : NO_NOTIFY);
    else if (wish)
        store16(ring, DEVICE, RING + USED_ELEMENT * (uint64_t)ring->size,
                (uint16_t)ring->next_avail);
}

const Format split_format = {
    .clauses = {.length = "2.7.5.3.1",
                .order = "2.7.4.2",
                .total = "2.7.5.2",
                .memory = "2.7.5",
                .indirect = "2.7.5.3.1"},
    .walk = walk_next,
    .advance = advance,
    .use = use,
    .publish = publish,
    .wants = wants,
    .ask = ask,
    .pending = pending,
};
