/* Frames from the driver to a descriptor, one system call each.
 *
 * In C because a benchmark says so (benchmarks/virtio_net.py). A batch of chains is taken, written
 * without the GIL, and given back at one moment. What is no frame, and what the descriptor does not
 * take, is handed to Python (net/transmit.py), which decides.
 *
 * Small frames are copied out of the guest first, all of a batch and close together: a writev of two
 * pieces costs 105 ns more than a write, and memory that is touched between system calls costs more
 * than the copy. Large ones are written out of the guest's own pages. Their vectors of host
 * addresses are made with the GIL, from buffers that were checked, in regions that are borrowed
 * until it is held again (pieces.c); one that lies in more pieces than that has room for is copied as
 * well, when it is the first of a batch. `busy` keeps out a second thread meanwhile.
 */
#include "core.h"
#include "frame.h"

#include <errno.h>
#include <unistd.h>

/* Frames that come back to the driver together, for it waits for none of them; and the bytes, with
 * the header, of the largest frame that is copied. */
enum { BATCH = 64, COPIED = 2048, ROOM = BATCH * COPIED + LARGEST };

typedef struct {
    PyObject_HEAD
    Ring *ring;
    unsigned char *copies; /* ROOM: COPIED bytes of each frame of a batch, and a large one */
    char busy;
} Departures;

typedef struct {
    Chain *chain; /* owned */
    uint64_t size;
    const struct iovec *vector; /* of the pieces, or `copy` */
    int count;
    struct iovec copy;
} Frame;

typedef struct {
    Ring *ring;
    unsigned char *copies; /* where the next one goes */
    Pieces pieces;
    unsigned count, sent;
    int failure; /* errno of what ended the batch, or 0 */
    uint64_t bytes;
    Chain *rest; /* owned: the chain that Python has to decide about, or NULL */
    Frame frames[BATCH];
} Batch;

/* Taking */

static int copy_frame(Batch *batch, Frame *frame)
{
    Stream from = frame->chain->streams[READABLE];

    frame->copy = (struct iovec){batch->copies, (size_t)frame->size};
    frame->vector = &frame->copy;
    frame->count = 1;
    if (chain_read(&batch->ring->guest, frame->chain, &from, batch->copies, frame->size) < 0)
        return -1;
    batch->copies += frame->size;
    return 1;
}

static int take_pieces(Batch *batch, Frame *frame)
{
    unsigned first = batch->pieces.count;
    int taken = pieces_take(&batch->pieces, frame->chain, READABLE, frame->size);

    frame->vector = &batch->pieces.vector[first];
    frame->count = (int)(batch->pieces.count - first);
    return taken;
}

/* A large frame, as it lies; or a copy, if it lies in more pieces or regions than even an empty
 * batch has room for. */
static int take_large(Batch *batch, Frame *frame)
{
    int taken = take_pieces(batch, frame);

    return taken == 0 && batch->count == 0 ? copy_frame(batch, frame) : taken;
}

/* Whether a chain joins the batch: 1 or 0; -1: a region is closed. */
static int add(Batch *batch, Chain *chain)
{
    Frame *frame = &batch->frames[batch->count];

    frame->chain = chain;
    frame->size = chain->streams[READABLE].size;
    if (frame->size < SMALLEST || frame->size > LARGEST)
        return 0;
    return frame->size <= COPIED ? copy_frame(batch, frame) : take_large(batch, frame);
}

static void put_back(Batch *batch, Chain *chain)
{
    ring_untake(batch->ring, chain);
    Py_DECREF((PyObject *)chain);
}

/* Take the next chain: 1; that was the end of the batch: 0; an error: -1. */
static int take(Batch *batch)
{
    Chain *chain;
    int found = ring_take(batch->ring, &chain);

    if (found <= 0)
        return found;
    found = add(batch, chain);
    if (found > 0)
        batch->count++;
    else if (found == 0 && batch->count == 0)
        batch->rest = chain;
    else
        put_back(batch, chain);
    return found;
}

/* 0, or -1 with an error that no frame stands before. */
static int collect(Batch *batch, uint64_t limit)
{
    unsigned long long first = batch->ring->walked;
    int found = ring_enter(batch->ring);

    while (found > 0 && batch->count < limit && batch->count < BATCH
           && batch->ring->walked - first < MAX_WALK)
        found = take(batch);
    if (found < 0 && batch->count == 0)
        return -1;
    if (found < 0)
        PyErr_Clear(); /* the next call meets it again */
    return 0;
}

/* Writing, without the GIL */

static ssize_t write_frame(const Frame *frame, int fd)
{
    ssize_t size;

    do
        size = frame->count == 1 ? write(fd, frame->vector->iov_base, frame->vector->iov_len)
                                 : writev(fd, frame->vector, frame->count);
    while (size < 0 && errno == EINTR);
    return size;
}

static void write_frames(Batch *batch, int fd)
{
    for (; batch->sent < batch->count; batch->sent++) {
        const Frame *frame = &batch->frames[batch->sent];
        if (write_frame(frame, fd) < 0) {
            batch->failure = errno;
            return;
        }
        batch->bytes += frame->size - HEADER_SIZE;
    }
}

/* Giving back */

/* What was not sent becomes available again, but for a frame that was refused: that is the rest. */
static void leave_unsent(Batch *batch)
{
    while (batch->count > batch->sent) {
        Chain *chain = batch->frames[--batch->count].chain;
        if (batch->count > batch->sent || batch->failure == EAGAIN)
            put_back(batch, chain);
        else
            batch->rest = chain;
    }
}

/* The chains of a queue that was stopped stay in flight, as everywhere. */
static int give_back(Batch *batch)
{
    int running = ring_enter(batch->ring);

    if (running <= 0)
        return running;
    leave_unsent(batch);
    for (unsigned i = 0; i < batch->sent; i++)
        ring_give(batch->ring, batch->frames[i].chain, 0);
    if (batch->sent)
        batch->ring->format->publish(batch->ring);
    return 0;
}

/* Python's side */

static int run_batch(Batch *batch, int fd, uint64_t limit)
{
    PyThreadState *state;

    if (collect(batch, limit) < 0)
        return -1;
    if (batch->count == 0)
        return 0;
    state = PyEval_SaveThread();
    write_frames(batch, fd);
    PyEval_RestoreThread(state);
    return give_back(batch);
}

static PyObject *send_batch(Departures *self, int fd, uint64_t limit)
{
    Batch batch;
    int result;

    batch.ring = self->ring;
    batch.copies = self->copies;
    batch.count = batch.sent = 0;
    batch.failure = 0;
    batch.bytes = 0;
    batch.rest = NULL;
    pieces_begin(&batch.pieces, &batch.ring->guest);
    result = run_batch(&batch, fd, limit);
    pieces_end(&batch.pieces);
    for (unsigned i = 0; i < batch.count; i++)
        Py_DECREF((PyObject *)batch.frames[i].chain);
    if (result == 0)
        return Py_BuildValue("(IKiN)", batch.sent, (unsigned long long)batch.bytes, batch.failure,
                             batch.rest ? (PyObject *)batch.rest : Py_NewRef(Py_None));
    Py_XDECREF((PyObject *)batch.rest);
    return NULL;
}

static PyObject *departures_send(Departures *self, PyObject *args)
{
    unsigned long long limit;
    PyObject *result;
    int fd;

    if (!PyArg_ParseTuple(args, "iK:send", &fd, &limit))
        return NULL;
    if (self->busy)
        return raise_error("VirtioUsageError", "(s)", "a transmit queue is in use by another thread");
    self->busy = 1;
    result = send_batch(self, fd, limit);
    self->busy = 0;
    return result;
}

static PyObject *departures_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *ring;
    Departures *self;

    if (!PyArg_ParseTuple(args, "O!:Departures", Ring_Type, &ring))
        return NULL;
    self = (Departures *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->ring = (Ring *)Py_NewRef(ring);
    self->copies = PyMem_Malloc(ROOM);
    if (self->copies)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return PyErr_NoMemory();
}

static void departures_dealloc(Departures *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    PyMem_Free(self->copies);
    Py_XDECREF((PyObject *)self->ring);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef methods[] = {
    {"send", (PyCFunction)departures_send, METH_VARARGS,
     "send($self, fd, limit, /)\n--\n\n"
     "Write up to `limit` frames to `fd`, each out of one chain, and give the chains back.\n\n"
     "Returns:\n"
     "    Frames sent; their bytes without headers; the errno of what ended it, or 0; a chain\n"
     "    that the caller has to give back, or None. Such a chain holds no frame, or the frame\n"
     "    that the error is about; with EAGAIN the frame stays available, and this is None.\n\n"
     "Raises:\n"
     "    QueueError: the next chain breaks a rule, and there was none before it. A fault after\n"
     "        other chains waits for the next call.\n"
     "    VirtioUsageError: another thread is in the midst of a call."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The way of frames out of a transmit queue."},
    {Py_tp_new, departures_new},
    {Py_tp_dealloc, departures_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec Departures_Spec = {
    .name = "virtio_devices._core.Departures",
    .basicsize = sizeof(Departures),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
