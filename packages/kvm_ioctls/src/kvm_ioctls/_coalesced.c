/*
 * Taking writes out of the coalesced ring.
 *
 * A batch is as large as the ring, some 170 writes, and a guest that prints fills it in a fifth of a
 * millisecond: made in Python, the objects cost as much as KVM needs to retire the writes.
 *
 * The caller lets one thread at a time read a ring.  The kernel writes it, not the guest; indices
 * and lengths are checked all the same, an entry is copied before it is looked at.
 */
#include "_coalesced.h"

#include "_newer.h"

#include <string.h>

struct drain {
    PyTypeObject *kind;  /* a tuple of two: where, and the bytes */
    PyObject *address;   /* called with (whether a port, its number): what stands for it */
    PyObject *last;      /* what it gave for the write before, or NULL: mostly the same again */
    uint64_t last_number;
    uint32_t last_pio;
};

static PyObject *address_of(struct drain *drain, const struct kvm_coalesced_mmio *write)
{
    if (drain->last == NULL || drain->last_number != write->phys_addr
        || drain->last_pio != write->pio) {
        PyObject *made = PyObject_CallFunction(drain->address, "IK", (unsigned)write->pio,
                                               (unsigned long long)write->phys_addr);
        if (made == NULL)
            return NULL;
        Py_XDECREF(drain->last);
        drain->last = made;
        drain->last_number = write->phys_addr;
        drain->last_pio = write->pio;
    }
    Py_INCREF(drain->last);
    return drain->last;
}

/* A tuple of a class is made as tuple's own constructor makes it, without the way through Python. */
static PyObject *write_of(struct drain *drain, const struct kvm_coalesced_mmio *write)
{
    uint32_t length = write->len <= sizeof write->data ? write->len : sizeof write->data;
    allocfunc allocate = (allocfunc)PyType_GetSlot(drain->kind, Py_tp_alloc);
    PyObject *data = PyBytes_FromStringAndSize((const char *)write->data, (Py_ssize_t)length);
    PyObject *address = data == NULL ? NULL : address_of(drain, write);
    PyObject *made = address == NULL ? NULL : allocate(drain->kind, 2);

    if (made == NULL) {
        Py_XDECREF(data);
        Py_XDECREF(address);
        return NULL;
    }
    PyTuple_SetItem(made, 0, address);
    PyTuple_SetItem(made, 1, data);
    return made;
}

/* The kernel moves `last` after it has written an entry, and reads `first` before it writes one. */
static PyObject *drain_page(struct drain *drain, const Py_buffer *page)
{
    struct kvm_coalesced_mmio_ring *ring = page->buf;
    const struct kvm_coalesced_mmio *writes = (const void *)(ring + 1);
    uint32_t entries = (uint32_t)(((size_t)page->len - sizeof *ring) / sizeof *writes);
    uint32_t last = __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) % entries;
    uint32_t first = ring->first % entries;
    PyObject *list = PyList_New(0);

    for (; list != NULL && first != last; first = (first + 1) % entries) {
        struct kvm_coalesced_mmio write;
        memcpy(&write, &writes[first], sizeof write);
        PyObject *made = write_of(drain, &write);
        if (made == NULL || PyList_Append(list, made) < 0)
            Py_CLEAR(list); /* the ring keeps its writes */
        Py_XDECREF(made);
    }
    if (list != NULL)
        __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
    return list;
}

PyObject *coalesced_drain(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const Py_ssize_t shortest =
        sizeof(struct kvm_coalesced_mmio_ring) + sizeof(struct kvm_coalesced_mmio);
    struct drain drain = {.last = NULL};
    Py_buffer page;

    (void)module;
    if (count != 3 || !PyType_Check(args[1])
        || !PyType_IsSubtype((PyTypeObject *)args[1], &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "drain_coalesced() takes a page, a tuple class, a function");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &page, PyBUF_WRITABLE) < 0)
        return NULL;
    drain.kind = (PyTypeObject *)args[1];
    drain.address = args[2];
    PyObject *list = NULL;
    if (page.len < shortest)
        PyErr_Format(PyExc_ValueError, "a ring is at least %zd bytes, not %zd", shortest, page.len);
    else
        list = drain_page(&drain, &page);
    Py_XDECREF(drain.last);
    PyBuffer_Release(&page);
    return list;
}
