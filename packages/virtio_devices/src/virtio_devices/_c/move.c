/* Data between a file and memory: one transfer after another, or several at once.
 *
 * From the page cache one after another is as fast as anything. Where each waits for a disk
 * (O_DIRECT) they wait together, by io_uring: a fourth of the time (benchmarks/block.py). Transfers
 * that overlap keep their order all the same.
 */
#include "core.h"

#include <fcntl.h>
#include <unistd.h>

/* Whether it matters which of two is first. */
static int conflict(const Operation *one, const Operation *other)
{
    return (one->write || other->write) && one->offset < other->offset + other->size
           && other->offset < one->offset + one->size;
}

static int may_overtake(const Operation *operations, unsigned count)
{
    for (unsigned i = 1; i < count; i++)
        for (unsigned j = 0; j < i; j++)
            if (conflict(&operations[i], &operations[j]))
                return 0;
    return 1;
}

/* io_uring, if it is of use, there, and not in use by another thread. */
static Uring *choose(Mover *mover, int fd, const Operation *operations, unsigned count)
{
    int flags = count > 1 ? fcntl(fd, F_GETFL) : -1;

    if (flags < 0 || !(flags & O_DIRECT) || mover->busy || !may_overtake(operations, count))
        return NULL;
    if (!mover->asked)
        mover->uring = uring_open(MAX_OPERATIONS);
    mover->asked = 1;
    return mover->uring;
}

static ssize_t call(int fd, const Operation *operation)
{
    const struct iovec *vector = operation->vector;
    int count = (int)operation->count;
    off_t offset = (off_t)operation->offset;

    if (count == 1) /* a vector of one costs the kernel 50 ns more */
        return operation->write ? pwrite(fd, vector->iov_base, vector->iov_len, offset)
                                : pread(fd, vector->iov_base, vector->iov_len, offset);
    return operation->write ? pwritev(fd, vector, count, offset)
                            : preadv(fd, vector, count, offset);
}

/* As far as they succeed. */
static unsigned move_in_order(int fd, Operation *operations, unsigned count)
{
    unsigned tried = 0;

    while (tried < count) {
        Operation *operation = &operations[tried++];
        operation->result = call(fd, operation);
        if (!is_whole(operation))
            break;
    }
    return tried;
}

unsigned move(Mover *mover, int fd, Operation *operations, unsigned count)
{
    Uring *uring = choose(mover, fd, operations, count);
    PyThreadState *state;

    mover->busy |= uring != NULL;
    state = PyEval_SaveThread();
    if (uring)
        uring_run(uring, fd, operations, count);
    else
        count = move_in_order(fd, operations, count);
    PyEval_RestoreThread(state);
    if (uring)
        mover->busy = 0;
    return count;
}

void mover_release(Mover *mover)
{
    if (mover->uring && !mover->busy) {
        uring_close(mover->uring);
        mover->uring = NULL;
        mover->asked = 0;
    }
}
