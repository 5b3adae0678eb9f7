/*
 * Retiring registered accesses.  The page belongs to the kernel and the vCPU's thread: nothing in it
 * changes while we look.  What it says is checked against the zone before any byte is touched.
 */
#include "_zones.h"

#include <string.h>

static const struct kvm_zone *find(const struct kvm_zone *zones, unsigned count, int pio,
                                   uint64_t address, uint64_t size)
{
    for (const struct kvm_zone *zone = zones; zone < zones + count; zone++) {
        if (zone->pio == pio && size > 0 && address >= zone->first && address <= zone->last
            && size - 1 <= zone->last - address)
            return zone;
    }
    return NULL;
}

/* Appends all of `data` or nothing. */
static int append(const struct kvm_zone *zone, const uint8_t *data, uint64_t size)
{
    struct kvm_zone_log *log = (void *)zone->memory;
    uint64_t written = log->written;
    uint64_t read = __atomic_load_n(&log->read, __ATOMIC_ACQUIRE);

    if (written - read > zone->capacity || size > zone->capacity - (written - read))
        return 0;
    for (uint64_t n = 0; n < size; n++)
        log->bytes[(written + n) % zone->capacity] = data[n];
    __atomic_store_n(&log->written, written + size, __ATOMIC_RELEASE);
    return 1;
}

/* One access of `count` elements of `size` bytes at the same place. */
static int access_zone(const struct kvm_zone *zone, uint64_t address, uint8_t *data, uint64_t size,
                       uint64_t count, int is_write)
{
    uint8_t *memory = zone->memory + (address - zone->first);

    if (zone->kind == KVM_ZONE_LOG && is_write)
        return append(zone, data, size * count);
    if (zone->kind != KVM_ZONE_MEMORY) {
        if (!is_write)
            memset(data, 0xff, size * count);
        return 1;
    }
    for (uint64_t n = 0; n < count; n++)
        if (is_write)
            memcpy(memory, data + n * size, size);
        else
            memcpy(data + n * size, memory, size);
    return 1;
}

int kvm_zones_retire(const struct kvm_zone *zones, unsigned count, struct kvm_run *page,
                     uint64_t size)
{
    if (page->exit_reason == KVM_EXIT_IO) {
        uint64_t length = (uint64_t)page->io.size * page->io.count, offset = page->io.data_offset;
        const struct kvm_zone *zone = find(zones, count, 1, page->io.port, page->io.size);
        if (zone == NULL || offset > size || length > size - offset)
            return 0;
        return access_zone(zone, page->io.port, (uint8_t *)page + offset, page->io.size,
                           page->io.count, page->io.direction == KVM_EXIT_IO_OUT);
    }
    if (page->exit_reason == KVM_EXIT_MMIO) {
        const struct kvm_zone *zone = find(zones, count, 0, page->mmio.phys_addr, page->mmio.len);
        if (zone == NULL || page->mmio.len > sizeof page->mmio.data)
            return 0;
        return access_zone(zone, page->mmio.phys_addr, page->mmio.data, page->mmio.len, 1,
                           page->mmio.is_write);
    }
    return 0;
}

unsigned long long kvm_zone_log_length(const void *memory, uint32_t capacity)
{
    const struct kvm_zone_log *log = memory;
    uint64_t length = __atomic_load_n(&log->written, __ATOMIC_ACQUIRE) - log->read;

    return length <= capacity ? length : capacity;
}

void kvm_zone_log_drain(void *memory, uint32_t capacity, void *out, unsigned long long count)
{
    struct kvm_zone_log *log = memory;
    uint64_t read = log->read;

    for (uint64_t n = 0; n < count; n++)
        ((uint8_t *)out)[n] = log->bytes[(read + n) % capacity];
    __atomic_store_n(&log->read, read + count, __ATOMIC_RELEASE);
}
