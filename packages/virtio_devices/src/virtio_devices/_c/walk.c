/* From descriptors to the buffers of one chain, never trusting what the guest wrote.
 *
 * Assumed: the ring's own descriptors are memory, 16-byte aligned, and no region begins within
 * one (the layout was checked). Checked: everything that is in them.
 */
#include "core.h"

#include <stdarg.h>

static const uint64_t MAX_CHAIN_BYTES = UINT64_C(1) << 32; /* virtio 1.2 §2.7.5.2 */

static Descriptor decode(uint64_t low, uint64_t high)
{
    high = le64toh(high);
    return (Descriptor){le64toh(low), (uint32_t)high, (uint16_t)(high >> 32),
                        (uint16_t)(high >> 48)};
}

Descriptor read_descriptor(Ring *ring, uint32_t index)
{
    void *host = place(ring, DESCRIPTORS, (uint64_t)index * DESCRIPTOR_SIZE).host;
    uint64_t *words = host;

    return decode(__atomic_load_n(words, __ATOMIC_RELAXED),
                  __atomic_load_n(words + 1, __ATOMIC_RELAXED));
}

int read_table(Ring *ring, uint64_t table, uint32_t index, Descriptor *descriptor)
{
    uint64_t address = table + (uint64_t)index * DESCRIPTOR_SIZE, words[2];
    Row *row = guest_find(&ring->guest, address);

    if (row == ring->guest.open && row->size - (address - row->start) >= sizeof words) {
        memcpy(words, row->host + (address - row->start), sizeof words);
        __asm__ volatile("" ::: "memory"); /* the copy is what is used from here on */
    } else if (guest_read(&ring->guest, address, words, sizeof words) < 0)
        return -1;
    *descriptor = decode(words[0], words[1]);
    return 0;
}

int walk_fail(uint32_t start, const char *clause, const char *reason, ...)
{
    PyObject *text;
    va_list list;

    va_start(list, reason);
    text = PyUnicode_FromFormatV(reason, list);
    va_end(list);
    if (text)
        raise_error("InvalidChain", "(INs)", start, text, clause);
    return -1;
}

/* Room for one more buffer in `found`, which grows to the size of the queue and no further. */
static int make_room(Ring *ring, uint32_t count)
{
    uint32_t wanted = count ? 2 * count : 16;
    Buffer *found = PyMem_Realloc(ring->found, wanted * sizeof(Buffer));
    if (found == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    ring->found = found;
    ring->found_size = wanted;
    return 0;
}

int walk_append(Ring *ring, Walk *walk, uint32_t start, const Descriptor *descriptor, int writable)
{
    const Clauses *clauses = &ring->format->clauses;
    uint64_t address = descriptor->address, size = descriptor->size;

    if (walk->count == ring->size)
        return walk_fail(start, clauses->length, "has more than %u descriptors or loops",
                         (unsigned)ring->size);
    if (!writable && walk->count > walk->readable)
        return walk_fail(start, clauses->order, "has a readable descriptor after a writable one");
    if (walk->bytes[READABLE] + walk->bytes[WRITABLE] + size > MAX_CHAIN_BYTES)
        return walk_fail(start, clauses->total, "holds more than 2^32 bytes");
    if (!guest_holds(&ring->guest, address, size)) {
        raise_error("BufferOutsideMemory", "(IKKs)", start, (unsigned long long)address,
                    (unsigned long long)size, clauses->memory);
        return -1;
    }
    if (walk->count == ring->found_size && make_room(ring, walk->count) < 0)
        return -1;
    ring->found[walk->count++] = (Buffer){address, size};
    walk->bytes[writable ? WRITABLE : READABLE] += size;
    walk->readable += !writable;
    return 0;
}

int walk_check_table(Ring *ring, uint32_t start, const Descriptor *descriptor, int nested,
                     int linked)
{
    unsigned long long address = descriptor->address, size = descriptor->size;
    const char *reason = NULL;

    if (!ring->indirect)
        reason = "was not negotiated";
    else if (nested)
        reason = "stands inside another one";
    else if (linked)
        reason = "is linked with other descriptors";
    else if (size == 0 || size % DESCRIPTOR_SIZE)
        reason = "does not hold a whole number of descriptors";
    if (reason)
        raise_error("InvalidIndirectTable", "(IKKss)", start, address, size, reason,
                    ring->format->clauses.indirect);
    else if (!guest_holds(&ring->guest, address, size))
        raise_error("BufferOutsideMemory", "(IKKs)", start, address, size,
                    ring->format->clauses.memory);
    else
        return 0;
    return -1;
}
