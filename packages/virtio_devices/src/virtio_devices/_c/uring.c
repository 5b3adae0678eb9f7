/* Several transfers at once, by io_uring: submitted together, and waited for until all are done.
 *
 * More is not used of it: it pays for nothing else (move.c). Nothing is under way between two
 * calls, so buffers are borrowed for a call.
 * Assumed: one thread at a time uses a ring. No Python here.
 */
#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct uring {
    int fd;
    unsigned *head, *tail, *mask, *array; /* of submissions */
    unsigned *done_head, *done_tail, *done_mask;
    struct io_uring_sqe *entries;
    struct io_uring_cqe *done;
    unsigned char *rings;
    size_t rings_size, entries_size;
};

static size_t larger(size_t one, size_t other) { return one > other ? one : other; }

/* Submissions and completions lie in one mapping (IORING_FEAT_SINGLE_MMAP, Linux 5.4). */
static int map(Uring *uring, const struct io_uring_params *parameters)
{
    const struct io_sqring_offsets *sq = &parameters->sq_off;
    const struct io_cqring_offsets *cq = &parameters->cq_off;
    int access = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;

    uring->rings_size = larger(sq->array + parameters->sq_entries * sizeof(unsigned),
                               cq->cqes + parameters->cq_entries * sizeof *uring->done);
    uring->entries_size = parameters->sq_entries * sizeof *uring->entries;
    uring->rings = mmap(NULL, uring->rings_size, access, flags, uring->fd, IORING_OFF_SQ_RING);
    if (uring->rings == MAP_FAILED)
        return -1;
    uring->entries = mmap(NULL, uring->entries_size, access, flags, uring->fd, IORING_OFF_SQES);
    if (uring->entries == MAP_FAILED) {
        munmap(uring->rings, uring->rings_size);
        return -1;
    }
    uring->head = (void *)(uring->rings + sq->head);
    uring->tail = (void *)(uring->rings + sq->tail);
    uring->mask = (void *)(uring->rings + sq->ring_mask);
    uring->array = (void *)(uring->rings + sq->array);
    uring->done_head = (void *)(uring->rings + cq->head);
    uring->done_tail = (void *)(uring->rings + cq->tail);
    uring->done_mask = (void *)(uring->rings + cq->ring_mask);
    uring->done = (void *)(uring->rings + cq->cqes);
    return 0;
}

Uring *uring_open(unsigned entries)
{
    struct io_uring_params parameters = {0};
    Uring *uring = malloc(sizeof *uring);

    if (uring == NULL)
        return NULL;
    uring->fd = (int)syscall(SYS_io_uring_setup, entries, &parameters);
    if (uring->fd >= 0 && parameters.features & IORING_FEAT_SINGLE_MMAP
        && map(uring, &parameters) == 0)
        return uring;
    if (uring->fd >= 0)
        close(uring->fd);
    free(uring);
    return NULL;
}

void uring_close(Uring *uring)
{
    munmap(uring->entries, uring->entries_size);
    munmap(uring->rings, uring->rings_size);
    close(uring->fd);
    free(uring);
}

static void put(Uring *uring, unsigned tail, const Operation *operation, int fd, uint64_t number)
{
    unsigned index = tail & *uring->mask;

    uring->entries[index] = (struct io_uring_sqe){
        .opcode = operation->write ? IORING_OP_WRITEV : IORING_OP_READV,
        .fd = fd,
        .addr = (uintptr_t)operation->vector,
        .len = operation->count,
        .off = operation->offset,
        .user_data = number,
    };
    uring->array[index] = index;
}

/* Take the results that are there; how many. */
static unsigned reap(Uring *uring, Operation *operations)
{
    unsigned head = *uring->done_head, first = head;
    unsigned tail = __atomic_load_n(uring->done_tail, __ATOMIC_ACQUIRE);

    for (; head != tail; head++) {
        const struct io_uring_cqe *entry = &uring->done[head & *uring->done_mask];
        operations[entry->user_data].result = entry->res;
    }
    __atomic_store_n(uring->done_head, head, __ATOMIC_RELEASE);
    return head - first;
}

/* How many were submitted; what the kernel does not take now it shall never take. */
static unsigned submit(Uring *uring, unsigned count)
{
    unsigned first = *uring->tail - count, taken;
    long result;

    do
        result = syscall(SYS_io_uring_enter, uring->fd, count, count, IORING_ENTER_GETEVENTS, NULL,
                         0);
    while (result < 0 && errno == EINTR);
    taken = __atomic_load_n(uring->head, __ATOMIC_ACQUIRE) - first;
    __atomic_store_n(uring->tail, first + taken, __ATOMIC_RELEASE);
    return taken;
}

void uring_run(Uring *uring, int fd, Operation *operations, unsigned count)
{
    unsigned tail = *uring->tail, left;

    for (unsigned i = 0; i < count; i++) {
        operations[i].result = -EAGAIN;
        put(uring, tail + i, &operations[i], fd, i);
    }
    __atomic_store_n(uring->tail, tail + count, __ATOMIC_RELEASE);
    left = submit(uring, count);
    left -= reap(uring, operations);
    while (left) { /* to the end, whatever happens: the kernel has the buffers */
        if (syscall(SYS_io_uring_enter, uring->fd, 0, left, IORING_ENTER_GETEVENTS, NULL, 0) < 0
            && errno != EINTR)
            nanosleep(&(struct timespec){0, 100000}, NULL);
        left -= reap(uring, operations);
    }
}

#else /* made with headers of a kernel before 5.1 */

Uring *uring_open(unsigned Py_UNUSED(entries)) { return NULL; }
void uring_close(Uring *Py_UNUSED(uring)) { abort(); }
void uring_run(Uring *Py_UNUSED(uring), int Py_UNUSED(fd), Operation *Py_UNUSED(operations),
               unsigned Py_UNUSED(count))
{
    abort();
}

#endif
