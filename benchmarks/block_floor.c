/* The floor under a disk: the device's part of plain reads and writes, as a loop in C.
 *
 * What is checked is what any device must check: heads, links and buffers against the one region of
 * the table, the header against the disk. No errors are made, no objects. Nanoseconds per request.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "floor.h"

#include <string.h>
#include <sys/uio.h>

enum { SIZE = 128, NEXT = 1, WRITE = 2, MAX_PIECES = 8 };

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* One request: header, data in one piece or several, status. Returns the bytes written. */
static uint32_t carry_out(const char *descriptors, uint16_t head, int fd, uint64_t disk)
{
    struct iovec pieces[MAX_PIECES];
    struct header header = {0};
    uint64_t bytes = 0;
    uint32_t written = 0;
    unsigned count = 0, index = head;
    ssize_t moved;

    for (;;) {
        struct descriptor descriptor;
        if (index >= SIZE || count == MAX_PIECES)
            __builtin_trap();
        memcpy(&descriptor, descriptors + 16 * index, sizeof descriptor);
        __asm__ volatile("" ::: "memory");
        pieces[count++] = (struct iovec){at(descriptor.address, descriptor.size), descriptor.size};
        if (descriptor.flags & WRITE)
            written += descriptor.size;
        if (!(descriptor.flags & NEXT))
            break;
        index = descriptor.next;
    }
    if (count < 3 || pieces[0].iov_len != sizeof header || pieces[count - 1].iov_len != 1)
        __builtin_trap();
    memcpy(&header, pieces[0].iov_base, sizeof header);
    for (unsigned i = 1; i < count - 1; i++)
        bytes += pieces[i].iov_len;
    if (header.type > 1 || header.sector > disk / 512 || bytes > disk - 512 * header.sector)
        __builtin_trap();
    moved = header.type ? pwritev(fd, pieces + 1, (int)count - 2, 512 * (off_t)header.sector)
                        : preadv(fd, pieces + 1, (int)count - 2, 512 * (off_t)header.sector);
    *(char *)pieces[count - 1].iov_base = moved == (ssize_t)bytes ? 0 : 1;
    return written;
}

/* Everything that is available; returns nanoseconds for all of it. */
double floor_device(const uint64_t *table, const uint64_t *areas, int fd, uint64_t disk)
{
    uint16_t *avail, *used, next;
    const char *descriptors;
    double began = now();

    use_memory(table);
    descriptors = at(areas[0], 16 * SIZE);
    avail = (uint16_t *)at(areas[1], 6 + 2 * SIZE);
    used = (uint16_t *)at(areas[2], 6 + 8 * SIZE);
    next = used[1];
    while (next != __atomic_load_n(&avail[1], __ATOMIC_ACQUIRE)) {
        uint16_t head = avail[2 + next % SIZE];
        uint32_t element[2] = {head, carry_out(descriptors, head, fd, disk)};
        memcpy(used + 2 + 4 * (next % SIZE), element, sizeof element);
        __atomic_store_n(&used[1], ++next, __ATOMIC_RELEASE);
    }
    return now() - began;
}

/* The transfers alone. */
double floor_transfers(const uint64_t *table, uint64_t data, uint64_t stride, uint64_t bytes,
                       int count, int write, int fd)
{
    double began = now();

    use_memory(table);
    for (int i = 0; i < count; i++) {
        struct iovec piece = {at(data + stride * (uint64_t)i, bytes), bytes};
        off_t offset = (off_t)(bytes * (uint64_t)i);
        if ((write ? pwritev(fd, &piece, 1, offset) : preadv(fd, &piece, 1, offset))
            != (ssize_t)bytes)
            __builtin_trap();
    }
    return now() - began;
}
