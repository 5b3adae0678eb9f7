/* One virtqueue, the device's side: what both formats have in common.
 *
 * Assumed of Python's side: nothing; `ring_new` checks the layout again. No code of Python's runs
 * between `enter` and the last access to guest memory: what could run some (allocating a list,
 * taking an iterable apart) comes before, and chains are no objects that a collector visits.
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

static uint32_t heads_of(const Ring *self)
{
    return self->format->heads ? self->format->heads : self->size;
}

static void ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    for (uint32_t head = 0; self->held && self->held_count && head < heads_of(self); head++)
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

/* 1: guest memory may be touched until Python runs again; 0: stopped; -1: closed, error set. */
static int enter(Ring *self)
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

/* From the driver */

/* The next chain: 1, none: 0, an error: -1. The reference is the caller's. */
static int take(Ring *self, Chain **chain)
{
    Walk walk;
    int found = self->format->walk(self, &walk);

    if (found <= 0)
        return found;
    *chain = chain_new(self->guest.memory, &walk, self->found);
    if (*chain == NULL)
        return -1;
    self->held[walk.head] = (Chain *)Py_NewRef((PyObject *)*chain);
    self->held_entries += walk.entries;
    self->held_count++;
    self->next_avail = self->format->advance(self, self->next_avail, walk.entries);
    return 1;
}

static PyObject *ring_pop(Ring *self, PyObject *Py_UNUSED(ignored))
{
    Chain *chain;
    int found = enter(self);

    if (found > 0)
        found = take(self, &chain);
    if (found > 0)
        return (PyObject *)chain;
    return found < 0 ? NULL : Py_NewRef(Py_None);
}

/* A limit of chains, at most the size; -1 with an error. */
static long take_limit(Ring *self, PyObject *object)
{
    uint64_t limit;
    int known = to_u64(object, &limit);

    if (known < 0)
        return -1;
    if (!known) {
        PyErr_Format(PyExc_ValueError, "a batch cannot have %R chains", object);
        return -1;
    }
    return limit < self->size ? (long)limit : (long)self->size;
}

/* After `count` chains an error of the driver's waits for the next call, which meets it again. */
static int keep_for_later(long count)
{
    if (count == 0 || PyErr_ExceptionMatches(PyExc_MemoryError)
        || PyErr_ExceptionMatches(PyExc_ValueError))
        return -1;
    PyErr_Clear();
    return 0;
}

static PyObject *ring_pop_batch(Ring *self, PyObject *object)
{
    long limit = take_limit(self, object), count = 0;
    PyObject *chains = limit < 0 ? NULL : PyList_New(0);
    int found = chains ? enter(self) : -1;

    while (found > 0 && count < limit) {
        Chain *chain;
        found = take(self, &chain);
        if (found <= 0)
            break;
        if (PyList_Append(chains, (PyObject *)chain) < 0)
            found = -1;
        Py_DECREF((PyObject *)chain);
        count++;
    }
    if (chains && found < 0 && keep_for_later(count) < 0)
        Py_CLEAR(chains);
    return chains;
}

static int holds(Ring *self, PyObject *object)
{
    Chain *chain = (Chain *)object;

    if (!PyObject_TypeCheck(object, Chain_Type)) {
        PyErr_Format(PyExc_TypeError, "%R is no chain of a queue", object);
        return -1;
    }
    return chain->head < heads_of(self) && self->held[chain->head] == chain;
}

/* No longer in flight; the caller owns the reference. */
static void let_go(Ring *self, Chain *chain)
{
    self->held[chain->head] = NULL;
    self->held_entries -= chain->entries;
    self->held_count--;
}

static PyObject *ring_put_back(Ring *self, PyObject *object)
{
    Chain *chain = (Chain *)object;
    int held = holds(self, object);

    if (held < 0)
        return NULL;
    if (!held
        || self->format->advance(self, chain->position, chain->entries) != self->next_avail)
        return raise_error("VirtioUsageError", "(N)",
                           PyUnicode_FromFormat("the chain of head %u was not taken last",
                                                (unsigned)chain->head));
    let_go(self, chain);
    self->next_avail = chain->position;
    Py_DECREF(object);
    Py_RETURN_NONE;
}

/* To the driver */

/* 0 and the length that the driver shall learn, or -1 with an error. */
static int check_used(Ring *self, PyObject *object, PyObject *written, uint32_t *length)
{
    Chain *chain = (Chain *)object;
    int held = holds(self, object), known;
    uint64_t bytes, room;

    if (held < 0)
        return -1;
    if (!held || chain->given) {
        raise_error("VirtioUsageError", "(N)",
                    PyUnicode_FromFormat("the chain of head %u is not in flight",
                                         (unsigned)chain->head));
        return -1;
    }
    known = to_u64(written, &bytes);
    if (known < 0)
        return -1;
    room = chain->streams[WRITABLE].size;
    if (!known || bytes > room) {
        raise_error("VirtioUsageError", "(N)",
                    PyUnicode_FromFormat("%S bytes cannot have been written into %llu", written,
                                         (unsigned long long)room));
        return -1;
    }
    *length = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
    return 0;
}

static void use(Ring *self, uint32_t head, uint32_t length, uint32_t entries)
{
    self->format->use(self, head, length, entries);
    self->next_used = self->format->advance(self, self->next_used, entries);
    if (self->added <= 0xFFFF) /* more passes any event all the same */
        self->added += entries;
}

static void give(Ring *self, Chain *chain, uint32_t length)
{
    let_go(self, chain);
    use(self, chain->head, length, chain->entries);
    Py_DECREF((PyObject *)chain);
}

static PyObject *ring_add_used(Ring *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t length;
    int running;

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "add_used() takes a chain and the bytes written");
        return NULL;
    }
    if (check_used(self, args[0], args[1], &length) < 0)
        return NULL;
    running = enter(self);
    if (running < 0)
        return NULL;
    if (running) {
        give(self, (Chain *)args[0], length);
        self->format->publish(self);
    }
    Py_RETURN_NONE;
}

/* Check a batch as a whole; how many of its chains are marked as given. */
static Py_ssize_t check_batch(Ring *self, PyObject *list, uint32_t *lengths)
{
    Py_ssize_t count = PyList_Size(list), i;

    for (i = 0; i < count; i++) {
        PyObject *item = PyList_GetItem(list, i);
        if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
            PyErr_Format(PyExc_TypeError, "%R is no (chain, written)", item);
            break;
        }
        if (check_used(self, PyTuple_GetItem(item, 0), PyTuple_GetItem(item, 1), &lengths[i]) < 0)
            break;
        ((Chain *)PyTuple_GetItem(item, 0))->given = 1;
    }
    return i;
}

static Chain *chain_at(PyObject *list, Py_ssize_t index)
{
    return (Chain *)PyTuple_GetItem(PyList_GetItem(list, index), 0);
}

static int give_batch(Ring *self, PyObject *list, uint32_t *lengths)
{
    Py_ssize_t count = PyList_Size(list), checked = check_batch(self, list, lengths);
    int running;

    for (Py_ssize_t i = 0; i < checked; i++)
        chain_at(list, i)->given = 0;
    running = checked == count ? enter(self) : -1;
    if (running <= 0)
        return running;
    for (Py_ssize_t i = 0; i < count; i++)
        give(self, chain_at(list, i), lengths[i]);
    if (count)
        self->format->publish(self);
    return 0;
}

static PyObject *ring_add_used_batch(Ring *self, PyObject *iterable)
{
    PyObject *list = PySequence_List(iterable);
    uint32_t *lengths = NULL;
    int result = -1;

    if (list) {
        lengths = PyMem_Malloc(((size_t)PyList_Size(list) + 1) * sizeof *lengths);
        if (lengths == NULL)
            PyErr_NoMemory();
        else
            result = give_batch(self, list, lengths);
    }
    PyMem_Free(lengths);
    Py_XDECREF(list);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *ring_discard(Ring *self, PyObject *object)
{
    long limit = take_limit(self, object), count = 0;
    int found = limit < 0 ? -1 : enter(self);

    while (found > 0 && count < limit) {
        Walk walk;
        found = self->format->walk(self, &walk);
        if (found <= 0)
            break;
        self->next_avail = self->format->advance(self, self->next_avail, walk.entries);
        use(self, walk.head, 0, walk.entries);
        self->format->publish(self); /* at once: an error, which runs Python, may follow */
        count++;
    }
    if (found < 0 && (limit < 0 || keep_for_later(count) < 0))
        return NULL;
    return PyLong_FromLong(count);
}

/* Notifications */

static PyObject *ring_needs_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    uint32_t added = self->added;
    int running;

    self->added = 0;
    if (added == 0)
        Py_RETURN_FALSE;
    running = enter(self);
    if (running <= 0)
        return running < 0 ? NULL : Py_NewRef(Py_False);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what was used before the driver's wish */
    return PyBool_FromLong(self->format->wants(self, added));
}

static PyObject *ring_enable_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    int running = enter(self), pending;

    if (running <= 0)
        return running < 0 ? NULL : Py_NewRef(Py_False);
    self->format->ask(self, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish before what is available */
    pending = self->format->pending(self);
    return pending < 0 ? NULL : PyBool_FromLong(pending);
}

static PyObject *ring_disable_notification(Ring *self, PyObject *Py_UNUSED(ignored))
{
    int running = enter(self);

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
     "Take up to `limit` available chains, in their order; empty as `pop` gives None.\n\n"
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
