/* A kernel that takes only a part of what is submitted to io_uring, around uring.c itself.
 *
 * The name of that file is URING. What a transfer results in is its offset.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

long kernel(long number, ...);
#define syscall kernel
#include URING

enum { ENTRIES = 16 };

static unsigned head, tail, mask = ENTRIES - 1, array[ENTRIES];
static unsigned done_head, done_tail, done_mask = 2 * ENTRIES - 1;
static struct io_uring_sqe entries[ENTRIES];
static struct io_uring_cqe done[2 * ENTRIES];
static unsigned interruptions, left, calls;

long kernel(long number, ...)
{
    unsigned wanted, taken = 0;
    va_list list;

    va_start(list, number);
    (void)va_arg(list, int); /* the descriptor */
    wanted = va_arg(list, unsigned);
    va_end(list);
    if (++calls > 1000) /* it waits for what will never come */
        abort();
    if (interruptions) {
        interruptions--;
        errno = EINTR;
        return -1;
    }
    for (; taken < wanted && left; taken++, left--) {
        const struct io_uring_sqe *entry = &entries[array[head++ & mask]];
        done[done_tail++ & done_mask] =
            (struct io_uring_cqe){.user_data = entry->user_data, .res = (int)entry->off};
    }
    errno = EBUSY;
    return taken ? (long)taken : -1;
}

void run(unsigned count, unsigned takes, unsigned interrupted, int64_t first, int64_t *results)
{
    Uring uring = {.head = &head, .tail = &tail, .mask = &mask, .array = array,
                   .done_head = &done_head, .done_tail = &done_tail, .done_mask = &done_mask,
                   .entries = entries, .done = done};
    Operation operations[ENTRIES] = {0};

    for (unsigned i = 0; i < count; i++)
        operations[i].offset = (uint64_t)first + i;
    left = takes;
    interruptions = interrupted;
    calls = 0;
    uring_run(&uring, 0, operations, count);
    for (unsigned i = 0; i < count; i++)
        results[i] = operations[i].result;
}
