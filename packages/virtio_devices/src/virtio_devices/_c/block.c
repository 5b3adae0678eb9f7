/* The requests that make up a disk's load: whole sectors between a descriptor and the guest.
 *
 * In C because a benchmark says so (benchmarks/block.py). One call takes a batch of chains, moves
 * their data with the GIL given up, and gives the chains back together. What is no plain transfer,
 * or does not succeed at once and in full, is the caller's to carry out, as if it had just been
 * popped: nothing is decided here but "these are whole sectors of the disk, and no more than a
 * request may have" (block/executor.py, `_claim`).
 *
 * Checked: the header, copied before; that the data are on the disk. The vectors of host addresses
 * are made with the GIL, from buffers that were checked, in regions that are borrowed meanwhile.
 */
#include "core.h"

#include <stddef.h>
#include <structmember.h>

enum { SECTOR_SHIFT = 9, SECTOR = 1 << SECTOR_SHIFT };
enum { T_IN = 0, T_OUT = 1, S_OK = 0, HEADER = 16, STATUS = 1 };

/* As many as `serve` takes together; data beyond the bound wait for the next batch, so that the
 * driver sees before that what was done. */
enum { BATCH = MAX_OPERATIONS, BATCH_BYTES = 1 << 20 };

typedef struct {
    PyObject_HEAD
    unsigned long long size, limit;
    Mover mover;
    char writable;
} Transfers;

typedef struct {
    Chain *chain;
    Stream streams[STREAMS]; /* as they were at the beginning */
    unsigned char *status;
} Transfer;

typedef struct {
    Ring *ring;
    Pieces pieces;
    unsigned count, tried; /* those that were not tried become available again */
    uint64_t bytes;        /* of data, to be moved and later that were moved */
    Transfer transfers[BATCH];
    Operation operations[BATCH];
    Chain *rest; /* the chain behind the batch, which is no transfer, or NULL */
} Batch;

/* What becomes of a chain; an error is -1. */
enum { LEFT, MOVED, FULL };

/* Parsing */

static int read_header(Guest *guest, Chain *chain, uint32_t *type, uint64_t *sector)
{
    unsigned char bytes[HEADER];

    if (chain_read(guest, chain, &chain->streams[READABLE], bytes, HEADER) < 0)
        return -1;
    memcpy(type, bytes, sizeof *type);
    memcpy(sector, bytes + 8, sizeof *sector);
    *type = le32toh(*type);
    *sector = le64toh(*sector);
    return 0;
}

/* Whether these are whole sectors of the disk, which may be moved. */
static int claim(const Transfers *self, const Transfer *transfer, Operation *operation,
                 uint64_t sector)
{
    if (operation->write && (!self->writable || transfer->streams[WRITABLE].size != STATUS))
        return 0;
    if (operation->size == 0 || operation->size % SECTOR || operation->size > self->limit)
        return 0;
    if (sector > self->size >> SECTOR_SHIFT)
        return 0;
    operation->offset = sector << SECTOR_SHIFT;
    return operation->size <= self->size - operation->offset;
}

/* Name the pieces of the data and the place of the status. */
static int find_pieces(Batch *batch, Transfer *transfer, Operation *operation)
{
    Pieces *pieces = &batch->pieces;
    unsigned first = pieces->count;
    int stream = operation->write ? READABLE : WRITABLE;
    int taken = pieces_take(pieces, transfer->chain, stream, operation->size);

    operation->vector = &pieces->vector[first];
    operation->count = pieces->count - first;
    if (taken > 0)
        taken = pieces_take(pieces, transfer->chain, WRITABLE, STATUS);
    if (taken > 0) {
        transfer->status = pieces->vector[first + operation->count].iov_base;
        return MOVED;
    }
    pieces->count = first;
    return taken < 0 ? -1 : batch->count ? FULL : LEFT;
}

static int plan(const Transfers *self, Batch *batch, Transfer *transfer, Operation *operation)
{
    Stream *streams = transfer->chain->streams;
    uint64_t sector;
    uint32_t type;

    if (streams[READABLE].size < HEADER || streams[WRITABLE].size < STATUS)
        return LEFT;
    if (read_header(&batch->ring->guest, transfer->chain, &type, &sector) < 0)
        return -1;
    if (type != T_IN && type != T_OUT)
        return LEFT;
    operation->write = type == T_OUT;
    operation->size = operation->write ? streams[READABLE].remaining
                                      : streams[WRITABLE].size - STATUS;
    if (!claim(self, transfer, operation, sector))
        return LEFT;
    return find_pieces(batch, transfer, operation);
}

static void rewind_chain(const Transfer *transfer)
{
    memcpy(transfer->chain->streams, transfer->streams, sizeof transfer->streams);
}

/* Take the next chain into the batch, or as what follows it; 1 if another one may be taken. */
static int take(const Transfers *self, Batch *batch)
{
    Transfer *transfer = &batch->transfers[batch->count];
    Operation *operation = &batch->operations[batch->count];
    int found = ring_take(batch->ring, &transfer->chain);

    if (found <= 0)
        return found;
    memcpy(transfer->streams, transfer->chain->streams, sizeof transfer->streams);
    found = plan(self, batch, transfer, operation);
    if (found == MOVED) {
        batch->count++;
        batch->bytes += operation->size;
        return 1;
    }
    rewind_chain(transfer);
    if (found == LEFT)
        batch->rest = transfer->chain;
    else {
        ring_untake(batch->ring, transfer->chain);
        Py_DECREF((PyObject *)transfer->chain);
    }
    return found < 0 ? -1 : 0;
}

/* 0, or -1 with an error that no chain stands before. */
static int collect(const Transfers *self, Batch *batch, uint64_t chains, uint64_t work)
{
    unsigned long long first = batch->ring->walked;
    int found = ring_enter(batch->ring);

    if (chains > BATCH)
        chains = BATCH;
    if (work > BATCH_BYTES)
        work = BATCH_BYTES;
    while (found > 0 && batch->count < chains && batch->bytes < work
           && batch->ring->walked - first < MAX_WALK)
        found = take(self, batch);
    if (found >= 0)
        return 0;
    if (batch->count == 0)
        return -1;
    PyErr_Clear(); /* the next call meets it again */
    return 0;
}

/* Giving back */

static void leave_untried(Batch *batch)
{
    if (batch->tried == batch->count)
        return;
    if (batch->rest) {
        ring_untake(batch->ring, batch->rest);
        Py_CLEAR(batch->rest);
    }
    while (batch->count > batch->tried) {
        Chain *chain = batch->transfers[--batch->count].chain;
        ring_untake(batch->ring, chain);
        Py_DECREF((PyObject *)chain);
    }
}

/* Write the status; mark and tell what was written. Of a read that failed a part may have been. */
static int conclude(Batch *batch, unsigned i)
{
    const Transfer *transfer = &batch->transfers[i];
    const Operation *operation = &batch->operations[i];
    uint64_t written = transfer->streams[WRITABLE].size;

    if (is_whole(operation)) {
        *transfer->status = S_OK;
        batch->bytes += operation->size;
    } else {
        rewind_chain(transfer);
        written = operation->write ? 0 : operation->size;
    }
    return chain_wrote(&batch->ring->guest, transfer->chain, transfer->streams[WRITABLE], written);
}

/* The chains of a queue that was stopped stay in flight, as everywhere. */
static int give_back(Batch *batch)
{
    Ring *ring = batch->ring;
    int running = ring_enter(ring);

    batch->bytes = 0;
    for (unsigned i = 0; running > 0 && i < batch->count; i++)
        if (conclude(batch, i) < 0)
            return -1;
    if (running > 0 && ring->guest.wrote)
        running = ring_enter(ring); /* Python ran */
    if (running <= 0)
        return running;
    for (unsigned i = 0; i < batch->count; i++)
        if (is_whole(&batch->operations[i]))
            ring_give(ring, batch->transfers[i].chain,
                      (uint32_t)batch->transfers[i].streams[WRITABLE].size);
    ring->format->publish(ring);
    return 0;
}

/* Python's side */

static int run_batch(Transfers *self, Batch *batch, int fd, uint64_t chains, uint64_t work)
{
    if (collect(self, batch, chains, work) < 0)
        return -1;
    if (batch->count == 0)
        return 0;
    batch->tried = move(&self->mover, fd, batch->operations, batch->count);
    leave_untried(batch);
    return give_back(batch);
}

/* The chains that the caller has to see to, in their order. */
static PyObject *list_rest(const Batch *batch)
{
    PyObject *list = PyList_New(0);

    for (unsigned i = 0; list && i < batch->count; i++)
        if (!is_whole(&batch->operations[i])
            && PyList_Append(list, (PyObject *)batch->transfers[i].chain) < 0)
            Py_CLEAR(list);
    if (list && batch->rest && PyList_Append(list, (PyObject *)batch->rest) < 0)
        Py_CLEAR(list);
    return list;
}

static unsigned count_whole(const Batch *batch)
{
    unsigned count = 0;

    for (unsigned i = 0; i < batch->count; i++)
        count += is_whole(&batch->operations[i]);
    return count;
}

static PyObject *run(Transfers *self, Ring *ring, const uint64_t *numbers)
{
    Batch batch;
    PyObject *rest = NULL;

    batch.ring = ring;
    batch.count = batch.tried = 0;
    batch.bytes = 0;
    batch.rest = NULL;
    pieces_begin(&batch.pieces, &ring->guest);
    if (run_batch(self, &batch, (int)numbers[0], numbers[1], numbers[2]) == 0)
        rest = list_rest(&batch);
    pieces_end(&batch.pieces);
    for (unsigned i = 0; i < batch.count; i++)
        Py_DECREF((PyObject *)batch.transfers[i].chain);
    Py_XDECREF((PyObject *)batch.rest);
    return rest ? Py_BuildValue("(IKN)", count_whole(&batch), (unsigned long long)batch.bytes, rest)
                : NULL;
}

static PyObject *transfers_run(Transfers *self, PyObject *const *args, Py_ssize_t count)
{
    Ring *ring;
    PyObject *result;
    uint64_t numbers[3];

    if (count != 4 || !PyObject_TypeCheck(args[0], Ring_Type))
        return PyErr_Format(PyExc_TypeError, "run() takes a queue, a descriptor and two limits");
    for (int i = 0; i < 3; i++)
        if (to_u64(args[i + 1], &numbers[i]) <= 0)
            return PyErr_Occurred() ? NULL
                                    : PyErr_Format(PyExc_ValueError, "%R is no number for run()",
                                                   args[i + 1]);
    ring = (Ring *)args[0];
    if (ring->busy)
        return raise_error("VirtioUsageError", "(s)", "a request queue is in use by another thread");
    ring->busy = 1;
    result = run(self, ring, numbers);
    ring->busy = 0;
    return result;
}

static PyObject *transfers_close(Transfers *self, PyObject *Py_UNUSED(ignored))
{
    mover_release(&self->mover);
    Py_RETURN_NONE;
}

static PyObject *transfers_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    unsigned long long size, limit;
    Transfers *self;

    if (!PyArg_ParseTuple(args, "KK:Transfers", &size, &limit))
        return NULL;
    self = (Transfers *)PyType_GenericAlloc(type, 0);
    if (self) {
        self->size = size;
        self->limit = limit;
    }
    return (PyObject *)self;
}

static void transfers_dealloc(Transfers *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    mover_release(&self->mover);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))transfers_run, METH_FASTCALL,
     "run($self, queue, fd, chains, work, /)\n--\n\n"
     "Carry out the transfers at the beginning of a queue, one batch at most.\n\n"
     "Returns:\n"
     "    How many were carried out and given back, their bytes of data, and chains that were\n"
     "    taken and are to be handled and given back in this order: transfers that failed, and\n"
     "    the first chain that is none.\n\n"
     "Raises:\n"
     "    VirtioUsageError: another thread is in the midst of a call for this queue."},
    {"close", (PyCFunction)transfers_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Give back what the kernel lent; `run` borrows it again."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"writable", T_BOOL, offsetof(Transfers, writable), 0,
     "Whether writes are transfers: they are allowed, and told before they are stable."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     (void *)"Transfers(size, limit, /)\n--\n\n"
             "Reads and writes of a disk of `size` bytes, at most `limit` bytes each."},
    {Py_tp_new, transfers_new},
    {Py_tp_dealloc, transfers_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec Transfers_Spec = {
    .name = "virtio_devices._core.Transfers",
    .basicsize = sizeof(Transfers),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
