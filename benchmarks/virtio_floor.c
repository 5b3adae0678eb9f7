/* The floor under a virtqueue: the device's part of the same work, as a loop in C.
 *
 * What is checked is what any device must check: heads, links, buffers and tables against the
 * one region of the table. No errors are made, no objects, no calls back. Nanoseconds per chain.
 */
#include "floor.h"

#include <string.h>

enum { CHAINS = 64, PER_CHAIN = 3, NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { SIZE = 256, TABLE = 0x1000, AVAILABLE = 0x2000, USED = 0x3000 };
enum { RING = 0x4000, EVENTS = 0x5000, PACKED_SIZE = 192, AVAIL_F = 1 << 7, USED_F = 1 << 15 };

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t third, fourth;
};

static volatile uint64_t sink;

static struct descriptor copy_of(const char *from)
{
    struct descriptor copy;

    memcpy(&copy, from, sizeof copy);
    __asm__ volatile("" ::: "memory");
    return copy;
}

static uint64_t take(struct descriptor descriptor, int writable)
{
    at(descriptor.address, descriptor.size);
    return descriptor.address + descriptor.size + (uint64_t)writable;
}

static uint64_t walk_split(char *table, uint16_t head)
{
    uint64_t sum = 0;
    unsigned left = SIZE, entries = SIZE, index = head;

    for (;;) {
        struct descriptor descriptor;
        if (index >= entries || left-- == 0)
            __builtin_trap();
        descriptor = copy_of(table + 16 * index);
        if (descriptor.third & INDIRECT) {
            table = at(descriptor.address, descriptor.size);
            entries = descriptor.size / 16;
            index = 0;
            continue;
        }
        sum += take(descriptor, descriptor.third & WRITE);
        if (!(descriptor.third & NEXT))
            return sum;
        index = descriptor.fourth;
    }
}

/* One round: everything that is available, given back; the driver's part is not in the time. */
static double round_split(uint16_t *avail, uint16_t *used, int event_idx)
{
    uint16_t next = used[1], asked = 0;
    double began;

    if (event_idx)
        avail[2 + SIZE] = (uint16_t)(avail[1] + CHAINS - 1);
    __atomic_store_n(&avail[1], (uint16_t)(avail[1] + CHAINS), __ATOMIC_RELEASE);
    began = now();
    while (next != __atomic_load_n(&avail[1], __ATOMIC_ACQUIRE)) {
        uint16_t head = avail[2 + next % SIZE];
        uint32_t element[2] = {head, 4097};
        sink += walk_split(at(TABLE, 16 * SIZE), head);
        memcpy(used + 2 + 4 * (next % SIZE), element, sizeof element);
        __atomic_store_n(&used[1], ++next, __ATOMIC_RELEASE);
        if (event_idx) {
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            asked += (uint16_t)(next - avail[2 + SIZE] - 1) < 1;
        }
    }
    if (event_idx && asked != 1)
        __builtin_trap();
    return now() - began;
}

double floor_split(const uint64_t *table, int event_idx, int rounds)
{
    double spent = 0;

    use_memory(table);
    for (int i = 0; i < rounds; i++)
        spent += round_split((uint16_t *)at(AVAILABLE, 6 + 2 * SIZE),
                             (uint16_t *)at(USED, 6 + 8 * SIZE), event_idx);
    return spent / rounds / CHAINS;
}

/* `laps`: the ring as the driver fills it in a lap with wrap counter 0, and with 1. */
double floor_packed(const uint64_t *table, const char *laps, int rounds)
{
    double spent = 0;
    char *ring;

    use_memory(table);
    ring = at(RING, 16 * PACKED_SIZE);
    for (int i = 0; i < rounds; i++) {
        int wrap = !(i & 1);
        uint16_t available = wrap ? AVAIL_F : USED_F;
        double began;
        memcpy(ring, laps + wrap * 16 * PACKED_SIZE, 16 * PACKED_SIZE);
        began = now();
        for (unsigned index = 0; index < PACKED_SIZE;) {
            unsigned first = index;
            struct descriptor descriptor;
            if ((__atomic_load_n((uint16_t *)(ring + 16 * index + 14), __ATOMIC_ACQUIRE)
                 & (AVAIL_F | USED_F)) != available)
                __builtin_trap();
            do {
                if (index >= PACKED_SIZE)
                    __builtin_trap();
                descriptor = copy_of(ring + 16 * index++);
                sink += take(descriptor, descriptor.fourth & WRITE);
            } while (descriptor.fourth & NEXT);
            *(uint32_t *)(ring + 16 * first + 8) = 4097;
            *(uint16_t *)(ring + 16 * first + 12) = descriptor.third;
            __atomic_store_n((uint16_t *)(ring + 16 * first + 14),
                             (uint16_t)(wrap ? AVAIL_F | USED_F | WRITE : WRITE),
                             __ATOMIC_RELEASE);
        }
        spent += now() - began;
    }
    return spent / rounds / CHAINS;
}
