/*
 * Accesses of a guest that are retired without Python: between two KVM_RUN, with the GIL released.
 *
 * Whoever registers zones keeps their memory alive until they are replaced or the runner is closed.
 */
#ifndef KVM_IOCTLS_ZONES_H
#define KVM_IOCTLS_ZONES_H

#include "_newer.h"

#include <stdint.h>

#define KVM_ZONE_VOID 0   /* reads are all ones, writes have no effect */
#define KVM_ZONE_MEMORY 1 /* `memory` has the zone's bytes */
#define KVM_ZONE_LOG 2    /* writes are appended to the log in `memory`; reads are all ones */

struct kvm_zone {
    uint64_t first;
    uint64_t last;   /* included: a zone may be everything that there is */
    uint8_t *memory; /* MEMORY: a byte for each; LOG: header and log; VOID: none */
    uint32_t capacity; /* LOG: bytes behind the header */
    uint8_t kind;
    uint8_t pio;
};

/*
 * A ring of bytes with one writer, the thread inside KVM_RUN, and one reader at a time.  The counts
 * grow for ever; their difference is what is in the ring.
 */
struct kvm_zone_log {
    uint64_t written;
    uint64_t read;
    uint8_t bytes[];
};

/* Retires the exit in `page`, of `size` bytes, if it lies inside one of the zones; else returns 0. */
int kvm_zones_retire(const struct kvm_zone *zones, unsigned count, struct kvm_run *page,
                     uint64_t size);

/* How many bytes are in a log. */
unsigned long long kvm_zone_log_length(const void *log, uint32_t capacity);

/* Takes the `count` oldest bytes, which are there, into `out`. */
void kvm_zone_log_drain(void *log, uint32_t capacity, void *out, unsigned long long count);

#endif
