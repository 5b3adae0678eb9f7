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
enum { BATCH = 16, BATCH_BYTES = 1 << 20 };

typedef struct {
    PyObject_HEAD
    unsigned long long size, limit;
    char writable;
} Transfers;

typedef struct {
    Chain *chain;
    Stream streams[STREAMS]; /* as they were at the beginning */
    uint64_t offset, size;
    unsigned first, count; /* of the pieces; one for the status follows */
    int write;
} Transfer;

typedef struct {
    Ring *ring;
    Pieces pieces;
    unsigned count, moved;
    uint64_t bytes;
    Transfer transfers[BATCH];
    Chain *rest; /* the chain behind the batch, which is no transfer, or NULL */
} Batch;

/* What becomes of a chain; an error is -1. */
enum { LEFT, MOVED, FULL };

/* Parsing */

static int read_header(Guest *guest, Chain *chain, uint32_t *type, uint64_t *sector)
{
    Stream *stream = &chain->streams[READABLE];
    unsigned char bytes[HEADER];

    for (size_t done = 0; done < HEADER;) {
        Buffer buffer = chain_next(chain, stream, HEADER - done);
        if (guest_read(guest, buffer.address, bytes + done, (size_t)buffer.size) < 0)
            return -1;
        done += (size_t)buffer.size;
    }
    memcpy(type, bytes, sizeof *type);
    memcpy(sector, bytes + 8, sizeof *sector);
    *type = le32toh(*type);
    *sector = le64toh(*sector);
    return 0;
}

/* Whether these are whole sectors of the disk, which may be moved. */
static int claim(const Transfers *self, Transfer *transfer, uint64_t sector)
{
    if (transfer->write && (!self->writable || transfer->streams[WRITABLE].size != STATUS))
        return 0;
    if (transfer->size == 0 || transfer->size % SECTOR || transfer->size > self->limit)
        return 0;
    if (sector > self->size >> SECTOR_SHIFT)
        return 0;
    transfer->offset = sector << SECTOR_SHIFT;
    return transfer->size <= self->size - transfer->offset;
}

static int plan(const Transfers *self, Batch *batch, Transfer *transfer)
{
    Chain *chain = transfer->chain;
    Stream *streams = chain->streams;
    uint64_t sector;
    uint32_t type;
    int taken;

    if (streams[READABLE].size < HEADER || streams[WRITABLE].size < STATUS)
        return LEFT;
    if (read_header(&batch->ring->guest, chain, &type, &sector) < 0)
        return -1;
    transfer->write = type == T_OUT;
    transfer->first = batch->pieces.count;
    transfer->size = transfer->write ? streams[READABLE].remaining
                                     : streams[WRITABLE].size - STATUS;
    if ((type != T_IN && type != T_OUT) || !claim(self, transfer, sector))
        return LEFT;
    taken = pieces_take(&batch->pieces, chain, transfer->write ? READABLE : WRITABLE,
                        transfer->size);
    transfer->count = batch->pieces.count - transfer->first;
    if (taken > 0)
        taken = pieces_take(&batch->pieces, chain, WRITABLE, STATUS);
    if (taken <= 0)
        batch->pieces.count = transfer->first;
    return taken > 0 ? MOVED : taken < 0 ? -1 : batch->count ? FULL : LEFT;
}

static void rewind_chain(const Transfer *transfer)
{
    memcpy(transfer->chain->streams, transfer->streams, sizeof transfer->streams);
}

/* Take the next chain into the batch, or as what follows it; 1 if another one may be taken. */
static int take(const Transfers *self, Batch *batch)
{
    Transfer *transfer = &batch->transfers[batch->count];
    int found = ring_take(batch->ring, &transfer->chain);

    if (found <= 0)
        return found;
    memcpy(transfer->streams, transfer->chain->streams, sizeof transfer->streams);
    found = plan(self, batch, transfer);
    if (found == MOVED) {
        batch->count++;
        batch->bytes += transfer->size;
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
    int found = ring_enter(batch->ring);

    if (chains > BATCH)
        chains = BATCH;
    if (work > BATCH_BYTES)
        work = BATCH_BYTES;
    while (found > 0 && batch->count < chains && batch->bytes < work)
        found = take(self, batch);
    if (found >= 0)
        return 0;
    if (batch->count == 0)
        return -1;
    PyErr_Clear(); /* the next call meets it again */
    return 0;
}

/* Moving, without the GIL */

static void move(Batch *batch, int fd)
{
    for (; batch->moved < batch->count; batch->moved++) {
        const Transfer *transfer = &batch->transfers[batch->moved];
        const struct iovec *vector = &batch->pieces.vector[transfer->first];
        int count = (int)transfer->count;
        off_t offset = (off_t)transfer->offset;
        ssize_t moved = transfer->write ? pwritev(fd, vector, count, offset)
                                        : preadv(fd, vector, count, offset);
        if (moved != (ssize_t)transfer->size)
            return;
    }
}

/* Giving back */

/* What was not moved becomes available again, but for its first chain: that is the rest. */
static int leave_unmoved(Batch *batch)
{
    Transfer *failed = &batch->transfers[batch->moved];

    if (batch->moved == batch->count)
        return 0;
    if (batch->rest) {
        ring_untake(batch->ring, batch->rest);
        Py_CLEAR(batch->rest);
    }
    while (--batch->count > batch->moved) {
        Chain *chain = batch->transfers[batch->count].chain;
        ring_untake(batch->ring, chain);
        Py_DECREF((PyObject *)chain);
    }
    batch->bytes = 0;
    for (unsigned i = 0; i < batch->moved; i++)
        batch->bytes += batch->transfers[i].size;
    batch->rest = failed->chain;
    rewind_chain(failed);
    /* A part may have been read. */
    return failed->write ? 0
                         : chain_wrote(&batch->ring->guest, failed->chain, failed->streams[WRITABLE],
                                       failed->size);
}

static int write_status(Batch *batch, const Transfer *transfer)
{
    unsigned char *status = batch->pieces.vector[transfer->first + transfer->count].iov_base;

    *status = S_OK;
    return chain_wrote(&batch->ring->guest, transfer->chain, transfer->streams[WRITABLE],
                       transfer->streams[WRITABLE].size);
}

/* The chains of a queue that was stopped stay in flight, as everywhere. */
static int give_back(Batch *batch)
{
    int running = ring_enter(batch->ring);

    for (unsigned i = 0; running > 0 && i < batch->moved; i++)
        if (write_status(batch, &batch->transfers[i]) < 0)
            return -1;
    if (running > 0 && batch->ring->guest.wrote)
        running = ring_enter(batch->ring); /* Python ran */
    if (running <= 0)
        return running;
    for (unsigned i = 0; i < batch->moved; i++) {
        const Transfer *transfer = &batch->transfers[i];
        ring_give(batch->ring, transfer->chain, (uint32_t)transfer->streams[WRITABLE].size);
    }
    if (batch->moved)
        batch->ring->format->publish(batch->ring);
    return 0;
}

/* Python's side */

static int run_batch(const Transfers *self, Batch *batch, int fd, uint64_t chains, uint64_t work)
{
    PyThreadState *state;

    if (collect(self, batch, chains, work) < 0)
        return -1;
    if (batch->count == 0)
        return 0;
    state = PyEval_SaveThread();
    move(batch, fd);
    PyEval_RestoreThread(state);
    return leave_unmoved(batch) < 0 ? -1 : give_back(batch);
}

static PyObject *transfers_run(Transfers *self, PyObject *const *args, Py_ssize_t count)
{
    Batch batch;
    uint64_t numbers[3];
    int result = 0;

    if (count != 4 || !PyObject_TypeCheck(args[0], Ring_Type))
        return PyErr_Format(PyExc_TypeError, "run() takes a queue, a descriptor and two limits");
    for (int i = 0; i < 3; i++)
        if (to_u64(args[i + 1], &numbers[i]) <= 0)
            return PyErr_Occurred() ? NULL
                                    : PyErr_Format(PyExc_ValueError, "%R is no number for run()",
                                                   args[i + 1]);
    batch.ring = (Ring *)args[0];
    batch.count = batch.moved = 0;
    batch.bytes = 0;
    batch.rest = NULL;
    pieces_begin(&batch.pieces, &batch.ring->guest);
    result = run_batch(self, &batch, (int)numbers[0], numbers[1], numbers[2]);
    pieces_end(&batch.pieces);
    for (unsigned i = 0; i < batch.count; i++)
        Py_DECREF((PyObject *)batch.transfers[i].chain);
    if (result == 0)
        return Py_BuildValue("(IKN)", batch.moved, (unsigned long long)batch.bytes,
                             batch.rest ? (PyObject *)batch.rest : Py_NewRef(Py_None));
    Py_XDECREF((PyObject *)batch.rest);
    return NULL;
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

    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))transfers_run, METH_FASTCALL,
     "run($self, queue, fd, chains, work, /)\n--\n\n"
     "Carry out the transfers at the beginning of a queue, one batch at most.\n\n"
     "Returns:\n"
     "    How many were carried out and given back, their bytes of data, and the chain that\n"
     "    follows if it was taken and is something else: it is to be handled and given back."},
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
