/* Bytes between guest memory and file descriptors: the kernel fills, or empties, the guest's pages.
 *
 * The memory is borrowed for the time of a system call, which runs without the GIL. What a call
 * has really moved is what counts: a transfer continues behind it, and exactly its pages are
 * marked dirty, also when a later call fails.
 */
#include "core.h"

#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

enum { PIECES = 1024 }; /* UIO_MAXIOV of <linux/uio.h>: what one call takes */

typedef struct {
    int fd, into_guest;
    int64_t offset;    /* -1: at the file's own position */
    uint64_t left_out; /* bytes of the last range for which there was no room */
    int count;         /* pieces below, each a borrow of its region */
    struct iovec pieces[PIECES];
    Region *regions[PIECES];
} Transfer;

/* Borrows as many pieces of [address, address + size) as there is room for, until let_go().
 * 0, or -1 with an error: a region was closed since the range was checked. */
static int collect(Transfer *transfer, MemoryMap *map, uint64_t address, uint64_t size)
{
    Pieces pieces = {.map = map, .address = address, .left = size};
    int more = 1;

    while (transfer->count < PIECES && (more = next_piece(&pieces)) > 0) {
        pieces.region->borrows++;
        transfer->regions[transfer->count] = pieces.region;
        transfer->pieces[transfer->count++] =
            (struct iovec){pieces.region->host + pieces.offset, pieces.size};
    }
    transfer->left_out = pieces.left;
    return more < 0 ? -1 : 0;
}

static void let_go(Transfer *transfer)
{
    for (int i = 0; i < transfer->count; i++)
        transfer->regions[i]->borrows--;
    transfer->count = 0;
}

static ssize_t system_call(const Transfer *transfer)
{
    const struct iovec *pieces = transfer->pieces;
    int fd = transfer->fd, count = transfer->count;

    if (transfer->offset < 0)
        return transfer->into_guest ? readv(fd, pieces, count) : writev(fd, pieces, count);
    return transfer->into_guest ? preadv(fd, pieces, count, transfer->offset)
                                : pwritev(fd, pieces, count, transfer->offset);
}

static uint64_t offset_of(const Transfer *transfer, int piece)
{
    unsigned char *base = transfer->pieces[piece].iov_base;

    return (uint64_t)(base - transfer->regions[piece]->host);
}

static void mark_moved(const Transfer *transfer, uint64_t moved)
{
    for (int i = 0; moved && i < transfer->count; i++) {
        uint64_t size = min_u64(moved, transfer->pieces[i].iov_len);
        if (transfer->regions[i]->bitmap && size)
            bitmap_mark(transfer->regions[i]->bitmap, offset_of(transfer, i), size);
        moved -= size;
    }
}

/* One system call over the pieces: what it moved, or -1 with errno, which is EINTR when a signal
 * handler has raised an exception. */
static ssize_t move(const Transfer *transfer)
{
    ssize_t moved;
    int failure;

    do {
        Py_BEGIN_ALLOW_THREADS
        moved = system_call(transfer);
        failure = errno;
        Py_END_ALLOW_THREADS
    } while (moved < 0 && failure == EINTR && PyErr_CheckSignals() == 0);
    if (transfer->into_guest && moved >= 0)
        mark_moved(transfer, (uint64_t)moved);
    else if (transfer->into_guest && failure != EAGAIN && failure != EINTR)
        /* It may have written before it failed: a packet whose end found no memory. */
        mark_moved(transfer, UINT64_MAX);
    errno = failure;
    return moved;
}

/* Tells a failed call's exception how much was moved by those before it. */
static void note_completed(uint64_t done)
{
    PyObject *type, *value, *traceback, *completed = PyLong_FromUnsignedLongLong(done);

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (completed == NULL || PyObject_SetAttrString(value, "completed", completed) < 0)
        PyErr_Clear();
    Py_XDECREF(completed);
    PyErr_Restore(type, value, traceback);
}

/* The exception for the failed call of `transfer`; returns NULL. */
static PyObject *raise_failure(const Transfer *transfer, uint64_t done)
{
    uint64_t size = 0;

    if (errno == EINTR)
        return NULL;
    for (int i = 0; i < transfer->count; i++)
        size += transfer->pieces[i].iov_len;
    if (errno == EFAULT && transfer->count)
        raise_host_fault(transfer->regions[0]->start + offset_of(transfer, 0), size);
    else
        PyErr_SetFromErrno(PyExc_OSError);
    note_completed(done);
    return NULL;
}

/* The number as it is, also one that is no descriptor: the kernel says EBADF then. */
static int take_fd(PyObject *object, int *fd)
{
    long number;

    if (!PyLong_Check(object)) {
        *fd = PyObject_AsFileDescriptor(object);
        return *fd < 0 ? -1 : 0;
    }
    number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred())
        return -1;
    *fd = number < 0 || number > INT_MAX ? -1 : (int)number;
    return 0;
}

static int take_offset(PyObject *object, int64_t *offset)
{
    uint64_t value;
    int known;

    *offset = -1;
    if (object == NULL || object == Py_None)
        return 0;
    known = to_u64(object, &value);
    if (known > 0 && value <= INT64_MAX) {
        *offset = (int64_t)value;
        return 0;
    }
    if (known >= 0)
        PyErr_Format(PyExc_ValueError, "an offset in a file is from 0 to 2^63 - 1, not %R", object);
    return -1;
}

/* One call for as much of a range as it takes. What it moved; -1 with an exception. */
static ssize_t transfer_part(MemoryMap *map, Transfer *transfer, const Span *span, uint64_t done)
{
    ssize_t moved = -1;

    if (collect(transfer, map, span->address + done, span->size - done) == 0) {
        moved = move(transfer);
        if (moved < 0 && done && errno == EAGAIN)
            moved = 0; /* the caller hears of it when nothing was moved before */
        else if (moved < 0)
            raise_failure(transfer, done);
    }
    let_go(transfer);
    return moved;
}

/* All of one range, continued until the file ends or the descriptor would block. */
static PyObject *transfer_all(MemoryMap *map, Transfer *transfer, const Span *span)
{
    uint64_t done = 0;
    ssize_t moved = 1;

    while (moved > 0 && done < span->size) {
        moved = transfer_part(map, transfer, span, done);
        if (moved < 0 || PyErr_CheckSignals() < 0)
            return NULL;
        done += (uint64_t)moved;
        if (transfer->offset >= 0)
            transfer->offset += moved;
    }
    return PyLong_FromUnsignedLongLong(done);
}

static PyObject *whole_range(MemoryMap *map, PyObject *const *values, int into_guest)
{
    Transfer transfer;
    Span span;

    /* values: address, fd, size, offset */
    if (take_whole_span(map, values[0], values[2], &span) < 0
        || take_offset(values[3], &transfer.offset) < 0)
        return NULL;
    if (span.size == 0)
        return PyLong_FromLong(0);
    transfer.into_guest = into_guest;
    transfer.count = 0;
    if (take_fd(values[1], &transfer.fd) < 0)
        return NULL;
    return transfer_all(map, &transfer, &span);
}

const char map_read_from_fd_doc[] =
"read_from_fd($self, address, fd, size, offset=None)\n--\n\n"
"Read `size` bytes from `fd` straight into the guest, without a bounce buffer.\n\n"
"Short reads are continued; only end of file (or an fd that would block) ends early.\n"
"The range is checked first: on a guest access error nothing was read from `fd`.\n\n"
"Args:\n"
"    address: guest physical address of the first byte.\n"
"    fd: file descriptor open for reading, or what has a `fileno()`.\n"
"    size: bytes.\n"
"    offset: position in the file; None reads at (and moves) the file's own position.\n\n"
"Returns:\n"
"    Bytes read.\n\n"
"Raises:\n"
"    OSError: as readv(2); BlockingIOError only if nothing was read. Its attribute `completed` is\n"
"        how many bytes were read before.\n"
"    HostMemoryFault: the file behind the region was truncated.";

MAP_METHOD(map_read_from_fd)
{
    SIGNATURE("read_from_fd", 3, "address", "fd", "size", "offset");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return whole_range(self, values, 1);
}

const char map_write_to_fd_doc[] =
"write_to_fd($self, address, fd, size, offset=None)\n--\n\n"
"Write `size` bytes of the guest straight to `fd`; the mirror of `read_from_fd`.\n\n"
"Returns:\n"
"    Bytes written, less than `size` only for an fd that would block.\n\n"
"Raises:\n"
"    OSError: as writev(2); BlockingIOError only if nothing was written. Its attribute `completed`\n"
"        is how many bytes were written before.\n"
"    HostMemoryFault: the file behind the region was truncated.";

MAP_METHOD(map_write_to_fd)
{
    SIGNATURE("write_to_fd", 3, "address", "fd", "size", "offset");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return whole_range(self, values, 0);
}

/* Every piece of every span; -1: one of them is bad, or they are more than one call takes. */
static int collect_spans(MemoryMap *map, PyObject *iterator, Transfer *transfer)
{
    PyObject *item;
    Span span;

    while ((item = PyIter_Next(iterator)) != NULL) {
        int failed = take_span_item(map, item, &span) < 0
                     || collect(transfer, map, span.address, span.size) < 0;
        Py_DECREF(item);
        if (failed)
            return -1;
        if (transfer->left_out) {
            errno = EINVAL; /* what the kernel would say; a part of a packet is no packet */
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *transfer_once(MemoryMap *map, PyObject *const *values, int into_guest)
{
    PyObject *iterator, *result = NULL;
    Transfer transfer;
    ssize_t moved;

    /* values: fd, spans, offset */
    transfer.into_guest = into_guest;
    transfer.count = 0;
    if (take_fd(values[0], &transfer.fd) < 0 || take_offset(values[2], &transfer.offset) < 0)
        return NULL;
    iterator = PyObject_GetIter(values[1]);
    if (iterator && collect_spans(map, iterator, &transfer) == 0) {
        moved = move(&transfer);
        result = moved < 0 ? raise_failure(&transfer, 0) : PyLong_FromSsize_t(moved);
    }
    let_go(&transfer);
    Py_XDECREF(iterator);
    return result;
}

const char map_readv_doc[] =
"readv($self, fd, spans, offset=None)\n--\n\n"
"One system call that reads into several pieces of the guest, in order.\n\n"
"For what must not be continued: where one read is one packet (a TAP), or where the\n"
"caller has a policy for short reads. All pieces are checked first.\n\n"
"Args:\n"
"    fd: file descriptor open for reading, or what has a `fileno()`.\n"
"    spans: (address, bytes) of each piece; together at most 1024 pieces of regions.\n"
"    offset: position in the file; None reads at (and moves) the file's own position.\n\n"
"Returns:\n"
"    Bytes read.\n\n"
"Raises:\n"
"    OSError: as readv(2) and preadv(2).\n"
"    HostMemoryFault: the file behind a region was truncated.";

MAP_METHOD(map_readv)
{
    SIGNATURE("readv", 2, "fd", "spans", "offset");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return transfer_once(self, values, 1);
}

const char map_writev_doc[] =
"writev($self, fd, spans, offset=None)\n--\n\n"
"One system call that writes several pieces of the guest; the mirror of `readv`.\n\n"
"Returns:\n"
"    Bytes written.\n\n"
"Raises:\n"
"    OSError: as writev(2) and pwritev(2).\n"
"    HostMemoryFault: the file behind a region was truncated.";

MAP_METHOD(map_writev)
{
    SIGNATURE("writev", 2, "fd", "spans", "offset");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return transfer_once(self, values, 0);
}
