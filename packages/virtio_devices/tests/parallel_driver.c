/* A driver that runs at the same time as the device: called through ctypes, so without the GIL.
 *
 * It keeps the ring full of one-byte requests and kicks only when the device asked for it, as
 * the rules say; `kicks` counts. Order of accesses: virtio 1.2 §2.7.13, §2.7.10.1; §2.8.21.
 */
#include <stdint.h>
#include <time.h>

enum { LOST = -1, WRONG = -2 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* avail: flags, idx, ring, used_event; used: flags, idx, elements, avail_event. */
int drive_split(uint16_t *avail, uint16_t *used, uint16_t size, uint32_t count, int event_idx,
                uint32_t *kicks)
{
    uint16_t *avail_event = used + 2 + 4 * size;
    uint32_t added = 0, returned = 0;
    double deadline = now() + 20;

    while (returned < count) {
        uint16_t index = __atomic_load_n(&used[1], __ATOMIC_ACQUIRE);
        for (; (uint16_t)returned != index; returned++)
            if (used[2 + 4 * (returned % size)] != returned % size)
                return WRONG;
        if (added < count && added - returned < size) {
            uint16_t old = (uint16_t)added++;
            avail[2 + old % size] = old % size;
            __atomic_store_n(&avail[1], (uint16_t)added, __ATOMIC_RELEASE);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            if (event_idx ? __atomic_load_n(avail_event, __ATOMIC_RELAXED) == old
                          : !(__atomic_load_n(&used[0], __ATOMIC_RELAXED) & 1))
                __atomic_fetch_add(kicks, 1, __ATOMIC_SEQ_CST);
        } else if (now() > deadline)
            return LOST;
    }
    return 0;
}

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t id, flags;
};

int drive_packed(struct descriptor *ring, uint32_t *device_event, uint16_t size, uint32_t count,
                 int event_idx, uint32_t *kicks)
{
    uint32_t added = 0, returned = 0;
    double deadline = now() + 20;

    while (returned < count) {
        struct descriptor *next = &ring[returned % size];
        uint16_t used = returned / size % 2 ? 0 : 0x8080;
        if (returned < added && (__atomic_load_n(&next->flags, __ATOMIC_ACQUIRE) & 0x8080) == used) {
            if (next->id != returned % size)
                return WRONG;
            returned++;
        } else if (added < count && added - returned < size) {
            uint16_t index = (uint16_t)(added % size), wrap = added / size % 2 == 0;
            uint32_t event;
            ring[index].id = index;
            ring[index].size = 1;
            __atomic_store_n(&ring[index].flags, wrap ? 0x80 : 0x8000, __ATOMIC_RELEASE);
            added++;
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            event = __atomic_load_n(device_event, __ATOMIC_ACQUIRE);
            if (event >> 16 == 2 ? event_idx && (uint16_t)event == (uint16_t)(index | wrap << 15)
                                 : event >> 16 == 0)
                __atomic_fetch_add(kicks, 1, __ATOMIC_SEQ_CST);
        } else if (now() > deadline)
            return LOST;
    }
    return 0;
}

/* Offers the whole ring again and again; when the first descriptor is back, the last one must be. */
int watch_packed(struct descriptor *ring, uint16_t size, uint32_t laps)
{
    double deadline = now() + 20;

    for (uint32_t lap = 0; lap < laps; lap++) {
        uint16_t available = lap % 2 ? 0x8000 : 0x80, used = lap % 2 ? 0 : 0x8080;
        for (uint16_t index = size; index-- > 0;) {
            ring[index].id = index;
            __atomic_store_n(&ring[index].flags, available, __ATOMIC_RELEASE);
        }
        while ((__atomic_load_n(&ring[0].flags, __ATOMIC_ACQUIRE) & 0x8080) != used)
            if (now() > deadline)
                return LOST;
        if ((__atomic_load_n(&ring[size - 1].flags, __ATOMIC_ACQUIRE) & 0x8080) != used)
            return WRONG;
    }
    return 0;
}
