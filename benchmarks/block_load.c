/* A guest's driver that keeps a number of block reads in flight, sleeps on the eventfd that is its
 * interrupt and kicks by another, as a guest with ioeventfd and irqfd does.
 *
 * The rings are where SplitDriver put them; request n uses descriptors 3n to 3n+2.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 128, NEXT = 1, WRITE = 2, NO_INTERRUPT = 1, NO_NOTIFY = 1 };
enum { HEADERS = 0x40000, STATUSES = 0x50000, DATA = 0x100000, STRIDE = 0x10000 };

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

struct load {
    char *host; /* of address 0 */
    struct descriptor *descriptors;
    uint16_t *avail, *used;
    uint64_t bytes, blocks, state, next_block;
    int random, kick;
    uint16_t offered, seen;
};

static uint64_t next_block(struct load *load)
{
    if (!load->random)
        return load->next_block++ % load->blocks;
    load->state ^= load->state >> 12;
    load->state ^= load->state << 25;
    load->state ^= load->state >> 27;
    return load->state * 0x2545F4914F6CDD1D % load->blocks;
}

static void offer(struct load *load, unsigned slot)
{
    uint64_t header = HEADERS + 16 * slot, status = STATUSES + slot;
    uint64_t sector = next_block(load) * load->bytes / 512;
    struct descriptor *first = &load->descriptors[3 * slot];

    memset(load->host + header, 0, 8);
    memcpy(load->host + header + 8, &sector, 8);
    load->host[status] = (char)0xFF;
    first[0] = (struct descriptor){header, 16, NEXT, (uint16_t)(3 * slot + 1)};
    first[1] = (struct descriptor){DATA + (uint64_t)STRIDE * slot, (uint32_t)load->bytes,
                                   NEXT | WRITE, (uint16_t)(3 * slot + 2)};
    first[2] = (struct descriptor){status, 1, WRITE, 0};
    load->avail[2 + load->offered++ % SIZE] = (uint16_t)(3 * slot);
}

static void publish(struct load *load)
{
    uint64_t one = 1;

    __atomic_store_n(&load->avail[1], load->offered, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&load->used[0], __ATOMIC_RELAXED) & NO_NOTIFY)
        && write(load->kick, &one, sizeof one) != sizeof one)
        __builtin_trap();
}

static int is_any_done(const struct load *load)
{
    return load->seen != __atomic_load_n(&load->used[1], __ATOMIC_ACQUIRE);
}

/* Ask for an interrupt, and sleep until it comes, unless something is done already. */
static void wait(struct load *load, int call)
{
    struct pollfd interrupt = {.fd = call, .events = POLLIN};
    uint64_t count;

    while (!is_any_done(load)) {
        __atomic_store_n(&load->avail[0], 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        /* A back-end may have made it non-blocking: to wait is one call, to read another. */
        if (!is_any_done(load)
            && (poll(&interrupt, 1, -1) != 1 || read(call, &count, sizeof count) != sizeof count))
            __builtin_trap();
        __atomic_store_n(&load->avail[0], NO_INTERRUPT, __ATOMIC_RELAXED);
    }
}

static unsigned collect(struct load *load, uint64_t *left)
{
    unsigned count = 0;

    while (is_any_done(load)) {
        uint32_t element[2];
        memcpy(element, load->used + 2 + 4 * (load->seen++ % SIZE), sizeof element);
        if (load->host[STATUSES + element[0] / 3] != 0)
            __builtin_trap();
        count++;
        if (*left) {
            offer(load, element[0] / 3);
            --*left;
        }
    }
    return count;
}

/* Nanoseconds for `requests` reads of `bytes`, `depth` of them in flight. */
double run_load(const uint64_t *table, const uint64_t *areas, int kick, int call, int depth,
                uint64_t requests, uint64_t bytes, uint64_t disk, int random)
{
    struct load load = {.host = (char *)(uintptr_t)table[6], .bytes = bytes,
                        .blocks = disk / bytes, .state = 0x9E3779B97F4A7C15, .random = random,
                        .kick = kick};
    uint64_t left = requests - (uint64_t)depth, done = 0;
    struct timespec began, ended;

    load.descriptors = (struct descriptor *)(load.host + areas[0]);
    load.avail = (uint16_t *)(load.host + areas[1]);
    load.used = (uint16_t *)(load.host + areas[2]);
    load.offered = load.avail[1];
    load.seen = load.used[1];
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int slot = 0; slot < depth; slot++)
        offer(&load, (unsigned)slot);
    publish(&load);
    while (done < requests) {
        unsigned count;
        wait(&load, call);
        count = collect(&load, &left);
        done += count;
        publish(&load);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    return 1e9 * (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec);
}
