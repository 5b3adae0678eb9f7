/* Frames from a descriptor to the driver, in two steps: many into a buffer of the host, without the
 * GIL; then each into as many of the driver's buffers as it fills.
 *
 * In C because a benchmark says so (benchmarks/virtio_net.py). What ends a wait, what an error
 * means and how long a call may last is Python's to decide (net/receive.py).
 *
 * Without the GIL nothing of the guest is touched, so no region is borrowed. A frame is copied, and
 * its buffers are given back, with it; where a listener to what was written runs Python in
 * between, the ring is entered anew. `busy` keeps out a second thread, and that listener.
 */
#include "core.h"
#include "frame.h"

#include <errno.h>
#include <unistd.h>

/* Frames that are read without the GIL, while the first of them waits for the others; and room for
 * them, or for four of the largest. */
enum { BATCH = 32, ALIGNMENT = 64, ROOM = 4 * (LARGEST + 1 + ALIGNMENT) };

typedef struct {
    PyObject_HEAD
    Ring *ring;
    Chain **held; /* owned: buffers for the next frame, taken and not filled */
    uint32_t held_count;
    uint32_t most; /* buffers that a frame may have */
    uint64_t room; /* bytes of those held */
    unsigned long long largest_plain;
    char busy;
    uint32_t count, next; /* frames that were read, and the first one not passed on */
    uint32_t starts[BATCH], sizes[BATCH];
    unsigned char *bytes; /* ROOM of them */
} Arrivals;

/* What became of frames and buffers. */
typedef struct {
    unsigned long long frames, bytes;
    unsigned malformed, too_large, link_down, bad_buffers;
} Outcome;

/* One user at a time: 0, or -1 with an error. */
static int begin(Arrivals *self)
{
    if (self->busy) {
        raise_error("VirtioUsageError", "(s)", "a receive queue is in use by another thread");
        return -1;
    }
    self->busy = 1;
    return 0;
}

/* Reading */

/* Frames that may be read: as many as there are chains, for the others can stay outside; but one
 * in any case, to be dropped if it is good for nothing. */
static int frames_wanted(Arrivals *self, uint64_t limit)
{
    int running = ring_enter(self->ring);
    int chains = running > 0 ? self->ring->format->pending(self->ring, BATCH) : running;

    if (chains < 0)
        return -1;
    if (limit > BATCH)
        limit = BATCH;
    return (uint64_t)chains < limit ? (chains ? chains : 1) : (int)limit;
}

/* Without the GIL: up to `limit` frames; what the last read said. One that fills all of the room
 * for it is too long, and known by that. */
static ssize_t read_frames(Arrivals *self, int fd, uint32_t limit)
{
    uint32_t start = 0;
    ssize_t size = 1;

    while (self->count < limit && start + LARGEST + 1 <= ROOM) {
        do
            size = read(fd, self->bytes + start, LARGEST + 1);
        while (size < 0 && errno == EINTR);
        if (size <= 0)
            break;
        self->starts[self->count] = start;
        self->sizes[self->count++] = (uint32_t)size;
        start = (start + (uint32_t)size + ALIGNMENT - 1) & ~(uint32_t)(ALIGNMENT - 1);
    }
    return size;
}

/* Whether there may be more: 1 or 0; or -1 with an error, which waits if frames came before it. */
static int read_batch(Arrivals *self, int fd, uint64_t limit)
{
    int wanted = frames_wanted(self, limit), failure;
    PyThreadState *state;
    ssize_t size;

    if (wanted < 0)
        return -1;
    self->count = self->next = 0;
    state = PyEval_SaveThread();
    size = read_frames(self, fd, (uint32_t)wanted);
    failure = size < 0 ? errno : 0;
    PyEval_RestoreThread(state);
    if (failure == EAGAIN)
        return 0;
    if (size > 0 || self->count)
        return 1;
    errno = failure;
    if (failure)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        PyErr_SetString(PyExc_EOFError, "the other end was closed");
    return -1;
}

static PyObject *arrivals_read(Arrivals *self, PyObject *args)
{
    unsigned long long limit;
    int fd, more = 1;

    if (!PyArg_ParseTuple(args, "iK:read", &fd, &limit) || begin(self) < 0)
        return NULL;
    if (self->next == self->count)
        more = read_batch(self, fd, limit);
    self->busy = 0;
    return more < 0 ? NULL : PyBool_FromLong(more);
}

/* Passing on */

/* Write the used element of a buffer held, which is moved away by `go_on_behind`. */
static void give(Arrivals *self, uint32_t index, uint64_t length)
{
    Chain *chain = self->held[index];

    self->room -= chain->streams[WRITABLE].size;
    ring_give(self->ring, chain, (uint32_t)length);
    Py_DECREF((PyObject *)chain);
}

/* The driver sees the first buffers again, all at one moment (§5.1.6.4.1). */
static void go_on_behind(Arrivals *self, uint32_t count)
{
    self->ring->format->publish(self->ring);
    self->held_count -= count;
    memmove(self->held, self->held + count, self->held_count * sizeof *self->held);
}

/* Give first buffers back empty that could not even hold a header (virtio 1.2 §5.1.6.3.1). Those
 * behind them wait until they are the first ones: what goes back in order leaves buffers that
 * were taken last, and those can be put back. */
static void refuse_first(Arrivals *self, Outcome *outcome)
{
    uint32_t count = 0;

    while (count < self->held_count && self->held[count]->streams[WRITABLE].size < HEADER_SIZE)
        give(self, count++, 0);
    if (count)
        go_on_behind(self, count);
    outcome->bad_buffers += count;
}

/* Hold buffers until they have room for `size` bytes, or no further one could help: 1; the driver
 * has to add some first, or offers useless ones without end: 0; an error: -1. */
static int gather(Arrivals *self, uint64_t size, Outcome *outcome)
{
    refuse_first(self, outcome);
    unsigned long long first = self->ring->walked;

    for (uint32_t taken = 0; self->room < size && self->held_count < self->most; taken++) {
        Chain *chain;
        int bounded = taken < self->ring->size && self->ring->walked - first < MAX_WALK;
        int found = bounded ? ring_take(self->ring, &chain) : 0;
        if (found <= 0)
            return found;
        self->held[self->held_count++] = chain;
        self->room += chain->streams[WRITABLE].size;
        refuse_first(self, outcome);
    }
    return 1;
}

/* How many of the buffers held it takes for `size` bytes, and what is in the last one. */
static uint32_t count_buffers(const Arrivals *self, uint64_t size, uint64_t *last)
{
    uint32_t count = 0;

    for (;;) {
        uint64_t room = self->held[count++]->streams[WRITABLE].size;
        if (size <= room) {
            *last = size;
            return count;
        }
        size -= room;
    }
}

static int fill(Guest *guest, Chain *chain, const unsigned char *from, uint64_t size)
{
    Stream to = chain->streams[WRITABLE];

    while (size) {
        Buffer piece = chain_next(chain, &to, size);
        if (guest_write(guest, piece.address, from, (size_t)piece.size) < 0)
            return -1;
        from += piece.size;
        size -= piece.size;
    }
    return 0;
}

static uint64_t part_of(const Chain *chain, int is_last, uint64_t last)
{
    return is_last ? last : chain->streams[WRITABLE].size;
}

/* Put a frame into the buffers held, which have room for it: 1; the queue was stopped: 0; an
 * error: -1. */
static int put(Arrivals *self, unsigned char *frame, uint64_t size)
{
    Guest *guest = &self->ring->guest;
    uint64_t last = 0;
    uint32_t count = count_buffers(self, size, &last);
    int running = 1;

    frame[NUM_BUFFERS] = (unsigned char)count;
    frame[NUM_BUFFERS + 1] = (unsigned char)(count >> 8);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t part = part_of(self->held[i], i + 1 == count, last);
        if (fill(guest, self->held[i], frame, part) < 0)
            return -1;
        frame += part;
    }
    for (uint32_t i = 0; i < count; i++) {
        Chain *chain = self->held[i];
        if (chain_wrote(guest, chain, chain->streams[WRITABLE],
                        part_of(chain, i + 1 == count, last)) < 0)
            return -1;
    }
    if (guest->wrote)
        running = ring_enter(self->ring);
    if (running <= 0)
        return running;
    for (uint32_t i = 0; i < count; i++)
        give(self, i, part_of(self->held[i], i + 1 == count, last));
    go_on_behind(self, count);
    return 1;
}

/* §5.1.4.1: no larger than the MTU, unless it is segmented. */
static int is_well_formed(const Arrivals *self, const unsigned char *frame, uint64_t size)
{
    return SMALLEST <= size && size <= LARGEST
           && (size <= self->largest_plain || frame[GSO_TYPE]);
}

/* Pass a frame on, or drop it if no buffers can hold it: 1; it has to wait: 0; an error: -1. */
static int pass_on(Arrivals *self, unsigned char *frame, uint64_t size, Outcome *outcome)
{
    int ready = gather(self, size, outcome);

    if (ready <= 0)
        return ready;
    if (self->room < size) {
        outcome->too_large++;
        return 1;
    }
    ready = put(self, frame, size);
    if (ready > 0) {
        outcome->frames++;
        outcome->bytes += size - HEADER_SIZE;
    }
    return ready;
}

static int deliver_next(Arrivals *self, int link_up, Outcome *outcome)
{
    unsigned char *frame = self->bytes + self->starts[self->next];
    uint64_t size = self->sizes[self->next];
    int done = 1;

    if (!is_well_formed(self, frame, size))
        outcome->malformed++;
    else if (!link_up)
        outcome->link_down++;
    else
        done = pass_on(self, frame, size, outcome);
    if (done > 0)
        self->next++;
    return done;
}

static PyObject *arrivals_deliver(Arrivals *self, PyObject *object)
{
    Outcome outcome = {0};
    uint32_t first = self->next;
    int link_up = PyObject_IsTrue(object), done;

    if (link_up < 0 || begin(self) < 0)
        return NULL;
    done = ring_enter(self->ring);
    while (done > 0 && self->next < self->count)
        done = deliver_next(self, link_up, &outcome);
    self->busy = 0;
    if (done < 0 && self->next == first && outcome.bad_buffers == 0)
        return NULL;
    if (done < 0)
        PyErr_Clear(); /* the next call meets it again */
    return Py_BuildValue("(KKIIII)", outcome.frames, outcome.bytes, outcome.malformed,
                         outcome.too_large, outcome.link_down, outcome.bad_buffers);
}

/* Saving */

static PyObject *arrivals_put_back(Arrivals *self, PyObject *Py_UNUSED(ignored))
{
    if (begin(self) < 0)
        return NULL;
    while (self->held_count && ring_untake(self->ring, self->held[self->held_count - 1])) {
        Chain *chain = self->held[--self->held_count];
        self->room -= chain->streams[WRITABLE].size;
        Py_DECREF((PyObject *)chain);
    }
    self->busy = 0;
    Py_RETURN_NONE;
}

/* Life */

static PyObject *arrivals_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    unsigned long long largest_plain;
    PyObject *ring;
    Arrivals *self;
    int mergeable;

    if (!PyArg_ParseTuple(args, "O!pK:Arrivals", Ring_Type, &ring, &mergeable, &largest_plain))
        return NULL;
    self = (Arrivals *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->ring = (Ring *)Py_NewRef(ring);
    self->most = mergeable ? self->ring->size : 1;
    self->largest_plain = largest_plain;
    self->held = PyMem_Calloc(self->most, sizeof *self->held);
    self->bytes = PyMem_Malloc(ROOM);
    if (self->held && self->bytes)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return PyErr_NoMemory();
}

static void arrivals_dealloc(Arrivals *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    while (self->held_count)
        Py_DECREF((PyObject *)self->held[--self->held_count]);
    PyMem_Free(self->held);
    PyMem_Free(self->bytes);
    Py_XDECREF((PyObject *)self->ring);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *get_waiting(Arrivals *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(self->count - self->next);
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)arrivals_read, METH_VARARGS,
     "read($self, fd, limit, /)\n--\n\n"
     "Read up to `limit` frames, but only one more than none if the driver has no buffers.\n\n"
     "Nothing is read while frames wait.\n\n"
     "Returns:\n"
     "    Whether `fd` may have more.\n\n"
     "Raises:\n"
     "    QueueError: the driver's rings break a rule.\n"
     "    OSError: as read(2), but for EAGAIN. An error behind frames waits for the next call.\n"
     "    EOFError: the other end was closed."},
    {"deliver", (PyCFunction)arrivals_deliver, METH_O,
     "deliver($self, link_up, /)\n--\n\n"
     "Pass the frames that wait on to the driver, as far as it has buffers; or drop them.\n\n"
     "Returns:\n"
     "    Frames passed on, and their bytes without headers; frames dropped because malformed,\n"
     "    larger than all buffers, or for a link that is down; buffers that came back because\n"
     "    no header fits.\n\n"
     "Raises:\n"
     "    QueueError: the driver's rings break a rule. A fault behind frames waits for the next\n"
     "        call."},
    {"put_back", (PyCFunction)arrivals_put_back, METH_NOARGS,
     "put_back($self, /)\n--\n\n"
     "Make the buffers available again that were taken and not filled; frames still wait."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"waiting", (getter)get_waiting, NULL, "Frames that were read and not passed on.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"Frames that were read for a receive queue, and the buffers taken for them."},
    {Py_tp_new, arrivals_new},
    {Py_tp_dealloc, arrivals_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec Arrivals_Spec = {
    .name = "virtio_devices._core.Arrivals",
    .basicsize = sizeof(Arrivals),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
