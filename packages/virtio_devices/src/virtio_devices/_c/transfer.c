/* Chains from the driver to the device and back, alike in both formats.
 *
 * No code of Python's runs between `ring_enter` and the last access to guest memory: what could
 * run some (allocating a list, taking an iterable apart) comes before, and chains are no objects
 * that a collector visits.
 */
#include "core.h"

/* From the driver */

int ring_take(Ring *self, Chain **chain)
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
    self->walked += walk.count;
    self->held_count++;
    self->next_avail = self->format->advance(self, self->next_avail, walk.entries);
    return 1;
}

PyObject *ring_pop(Ring *self, PyObject *Py_UNUSED(ignored))
{
    Chain *chain;
    int found = ring_enter(self);

    if (found > 0)
        found = ring_take(self, &chain);
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

PyObject *ring_pop_batch(Ring *self, PyObject *object)
{
    long limit = take_limit(self, object), count = 0;
    PyObject *chains = limit < 0 ? NULL : PyList_New(0);
    unsigned long long first = self->walked;
    int found = chains ? ring_enter(self) : -1;

    while (found > 0 && count < limit && self->walked - first < MAX_WALK) {
        Chain *chain;
        found = ring_take(self, &chain);
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
    return chain->head < ring_heads(self) && self->held[chain->head] == chain;
}

/* No longer in flight; the caller owns the reference. */
static void let_go(Ring *self, Chain *chain)
{
    self->held[chain->head] = NULL;
    self->held_entries -= chain->entries;
    self->held_count--;
}

int ring_untake(Ring *self, Chain *chain)
{
    if (self->format->advance(self, chain->position, chain->entries) != self->next_avail)
        return 0;
    let_go(self, chain);
    self->next_avail = chain->position;
    Py_DECREF((PyObject *)chain);
    return 1;
}

PyObject *ring_put_back(Ring *self, PyObject *object)
{
    Chain *chain = (Chain *)object;
    int held = holds(self, object);

    if (held < 0)
        return NULL;
    if (!held || !ring_untake(self, chain))
        return raise_error("VirtioUsageError", "(N)",
                           PyUnicode_FromFormat("the chain of head %u was not taken last",
                                                (unsigned)chain->head));
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

void ring_give(Ring *self, Chain *chain, uint32_t length)
{
    let_go(self, chain);
    use(self, chain->head, length, chain->entries);
    Py_DECREF((PyObject *)chain);
}

PyObject *ring_add_used(Ring *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t length;
    int running;

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "add_used() takes a chain and the bytes written");
        return NULL;
    }
    if (check_used(self, args[0], args[1], &length) < 0)
        return NULL;
    running = ring_enter(self);
    if (running < 0)
        return NULL;
    if (running) {
        ring_give(self, (Chain *)args[0], length);
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
    running = checked == count ? ring_enter(self) : -1;
    if (running <= 0)
        return running;
    for (Py_ssize_t i = 0; i < count; i++)
        ring_give(self, chain_at(list, i), lengths[i]);
    if (count)
        self->format->publish(self);
    return 0;
}

PyObject *ring_add_used_batch(Ring *self, PyObject *iterable)
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

PyObject *ring_discard(Ring *self, PyObject *object)
{
    long limit = take_limit(self, object), count = 0;
    int found = limit < 0 ? -1 : ring_enter(self);

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
