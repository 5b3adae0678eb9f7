/* One virtqueue, the device's side: its life, and who tells whom.
 *
 * Assumed of Python's side: nothing; `ring_new` checks the layout again.
 */
#include "core.h"

#include <stddef.h>
#include <structmember.h>

enum { MAX_SIZE = 32768, ALIGNMENT = 16 };

/* Life */

/* 0 if a part is memory, aligned, and no region begins within one of its fields. */
static int place_part(Ring *ring, int index, uint64_t address, uint64_t size, unsigned alignment)
{
    Guest *guest = &ring->guest;
    Row *row = guest_find(guest, address);

    ring->parts[index] = (Part){.address = address};
    if (address % alignment || !guest_holds(guest, address, size))
        return -1;
    if (row->size - (address - row->start) >= size) {
        ring->parts[index].row = row;
        ring->parts[index].host = row->host + (address - row->start);
    }
    for (Py_ssize_t i = 0; i < guest->count; i++) {
        Row *other = &guest->rows[i];
        int meets = other->start - address < size || address - other->start < other->size;
        if (meets && other->start % ALIGNMENT)
            return -1;
    }
    return 0;
}

static int place_parts(Ring *ring, const unsigned long long *areas)
{
    uint64_t size = ring->size;
    int packed = ring->format == &packed_format;

    if (size == 0 || size > MAX_SIZE || (!packed && size & (size - 1))
        || place_part(ring, DESCRIPTORS, areas[0], DESCRIPTOR_SIZE * size, DESCRIPTOR_SIZE) < 0
        || place_part(ring, DRIVER, areas[1], packed ? 4 : 6 + 2 * size, packed ? 4 : 2) < 0
        || place_part(ring, DEVICE, areas[2], packed ? 4 : 6 + 8 * size, 4) < 0) {
        PyErr_SetString(PyExc_ValueError, "the layout of the rings was not checked");
        return -1;
    }
    return 0;
}

static int set_up(Ring *ring, PyObject *memory, const unsigned long long *areas)
{
    uint32_t heads;

    if (guest_open(&ring->guest, memory) < 0 || place_parts(ring, areas) < 0)
        return -1;
    heads = ring->format->heads ? ring->format->heads : ring->size;
    ring->held = PyMem_Calloc(heads, sizeof(Chain *));
    if (ring->held == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int packed, event_idx, indirect;
    unsigned size, position;
    unsigned long long areas[PARTS];
    PyObject *memory;
    Ring *self;

    if (!PyArg_ParseTuple(args, "OpI(KKK)ppI:Ring", &memory, &packed, &size, &areas[0], &areas[1],
                          &areas[2], &event_idx, &indirect, &position))
        return NULL;
    self = (Ring *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->format = packed ? &packed_format : &split_format;
    self->size = size;
    self->event_idx = (char)event_idx;
    self->indirect = (char)indirect;
    self->next_avail = self->next_used = position;
    self->running = 1;
    if (position > 0xFFFF || (packed && (position & 0x7FFF) >= size))
        PyErr_Format(PyExc_ValueError, "a queue of %u cannot be at position %u", size, position);
    else if (set_up(self, memory, areas) == 0)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

uint32_t ring_heads(const Ring *self)
{
    return self->format->heads ? self->format->heads : self->size;
}

static void ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    for (uint32_t head = 0; self->held && self->held_count && head < ring_heads(self); head++)
        if (self->held[head]) {
            Py_DECREF((PyObject *)self->held[head]);
            self->held_count--;
        }
    PyMem_Free(self->held);
    PyMem_Free(self->found);
    guest_release(&self->guest);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF((PyObject *)type);
}

int ring_enter(Ring *self)
{
    Guest *guest = &self->guest;

    if (!self->running)
        return 0;
    guest->open = NULL;
    for (int i = 0; i < PARTS; i++) {
        Row *row = self->parts[i].row;
        if (row && guest_check_open(guest, row) < 0)
            return -1;
        for (Py_ssize_t j = 0; row == NULL && j < guest->count; j++)
            if (guest_check_open(guest, &guest->rows[j]) < 0)
                return -1;
    }
    return 1;
}

/* Notifications */

static PyObject *ring_needs_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    uint32_t added = self->added;
    int running;

    self->added = 0;
    if (added == 0)
        Py_RETURN_FALSE;
    running = ring_enter(self);
    if (running <= 0)
        return running < 0 ? NULL : Py_NewRef(Py_False);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what was used before the driver's wish */
    return PyBool_FromLong(self->format->wants(self, added));
}

static PyObject *ring_enable_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    int running = ring_enter(self), pending;

    if (running <= 0)
        return running < 0 ? NULL : Py_NewRef(Py_False);
    self->format->ask(self, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish before what is available */
    pending = self->format->pending(self, 1);
    return pending < 0 ? NULL : PyBool_FromLong(pending);
}

static PyObject *ring_disable_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    int running = ring_enter(self);

    if (running < 0)
        return NULL;
    if (running)
        self->format->ask(self, 0);
    Py_RETURN_NONE;
}

static PyObject *ring_stop(Ring *self, PyObject *Py_UNUSED(ignored))
{
    self->running = 0;
    Py_RETURN_NONE;
}

static PyObject *get_in_flight(Ring *self, void *Py_UNUSED(closure))
{
    PyObject *heads = PyList_New(0), *result;
    uint32_t left = self->held_count;

    for (uint32_t head = 0; heads && left; head++) {
        PyObject *number;
        if (self->held[head] == NULL)
            continue;
        number = PyLong_FromUnsignedLong(head);
        if (number == NULL || PyList_Append(heads, number) < 0)
            Py_CLEAR(heads);
        Py_XDECREF(number);
        left--;
    }
    result = heads ? PyFrozenSet_New(heads) : NULL;
    Py_XDECREF(heads);
    return result;
}

static PyMethodDef methods[] = {
    {"pop", (PyCFunction)ring_pop, METH_NOARGS,
     "pop($self, /)\n--\n\n"
     "Take the next available chain, or None if there is none or the queue was stopped.\n\n"
     "Raises:\n"
     "    QueueError: the driver's rings or descriptors break a rule. Nothing was taken; the\n"
     "        next call meets the same fault."},
    {"pop_batch", (PyCFunction)ring_pop_batch, METH_O,
     "pop_batch($self, limit, /)\n--\n\n"
     "Take up to `limit` available chains, in their order; empty as `pop` gives None. Very long\n"
     "ones are taken in several batches.\n\n"
     "Raises:\n"
     "    QueueError: the next chain breaks a rule, and there was none before it. A fault after\n"
     "        other chains waits for the next call."},
    {"put_back", (PyCFunction)ring_put_back, METH_O,
     "put_back($self, chain, /)\n--\n\n"
     "Make the chain that was taken last the next one again, as if it had not been taken.\n\n"
     "Chains that were taken one after another are put back in the opposite order. What was\n"
     "read or written of them is not undone; `chain` itself is of no more use.\n\n"
     "Raises:\n"
     "    VirtioUsageError: the chain is not in flight, or not the last one."},
    {"add_used", (PyCFunction)(void (*)(void))ring_add_used, METH_FASTCALL,
     "add_used($self, chain, written, /)\n--\n\n"
     "Give a chain back to the driver, in any order; nothing happens in a stopped queue.\n\n"
     "Args:\n"
     "    chain: one that `pop` returned and that was not given back yet.\n"
     "    written: bytes from the beginning of the writable buffers that are filled. Of 2^32\n"
     "        the driver learns 2^32 - 1: the field has no more room, and an underestimate is\n"
     "        allowed (virtio 1.2 \xc2\xa7" "2.7.8.2).\n\n"
     "Raises:\n"
     "    VirtioUsageError: the chain is not in flight, or `written` exceeds its buffers."},
    {"add_used_batch", (PyCFunction)ring_add_used_batch, METH_O,
     "add_used_batch($self, chains, /)\n--\n\n"
     "Give chains back, each with the bytes written, in this order; see `add_used`.\n\n"
     "Raises:\n"
     "    VirtioUsageError: as `add_used`; no chain was given back."},
    {"discard", (PyCFunction)ring_discard, METH_O,
     "discard($self, limit, /)\n--\n\n"
     "Give up to `limit` available chains back unread and unwritten; how many there were.\n\n"
     "For a device that has nowhere to put what the driver sends.\n\n"
     "Raises:\n"
     "    QueueError: as `pop_batch`."},
    {"needs_notification", (PyCFunction)ring_needs_notification, METH_NOARGS,
     "needs_notification($self, /)\n--\n\n"
     "Whether the driver must be told of what was added since the last call."},
    {"enable_notification", (PyCFunction)ring_enable_notification, METH_NOARGS,
     "enable_notification($self, /)\n--\n\n"
     "Ask the driver for a notification of its next chain; True if one is there already.\n\n"
     "On True the notification may never come: take the chain first.\n\n"
     "Raises:\n"
     "    QueueError: the driver's index makes no sense."},
    {"disable_notification", (PyCFunction)ring_disable_notification, METH_NOARGS,
     "disable_notification($self, /)\n--\n\n"
     "Advise the driver to send no notifications for now; it may send some nevertheless."},
    {"stop", (PyCFunction)ring_stop, METH_NOARGS,
     "stop($self, /)\n--\n\n"
     "Touch guest memory no more, once a call that is under way has ended; from any thread."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"size", T_UINT, offsetof(Ring, size), READONLY, "Entries of the queue."},
    {"next_avail", T_UINT, offsetof(Ring, next_avail), READONLY,
     "Where the next chain is taken: a free-running 16-bit index in a split queue; in a packed\n"
     "one 15 bits of index, and the wrap counter above them."},
    {"next_used", T_UINT, offsetof(Ring, next_used), READONLY,
     "Where the next chain is given back, as `next_avail`."},
    {"walked", T_ULONGLONG, offsetof(Ring, walked), READONLY,
     "How many descriptors the chains had that were taken so far: what their guest cost."},
    {"event_idx", T_BOOL, offsetof(Ring, event_idx), READONLY, "Whether EVENT_IDX was negotiated."},
    {"indirect", T_BOOL, offsetof(Ring, indirect), READONLY,
     "Whether INDIRECT_DESC was negotiated."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"in_flight", (getter)get_in_flight, NULL,
     "Heads, or buffer ids, of chains that were taken and not given back.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The part of a queue that touches guest memory."},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec Ring_Spec = {
    .name = "virtio_devices._core.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
