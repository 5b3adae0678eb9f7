/* Integers that a guest and its host hand to each other: one access, in a stated order.
 *
 * RELAXED is served by the same access as ACQUIRE or RELEASE: on x86-64 it is the same
 * instruction, and a plain move; elsewhere it is more than was asked for.
 */
#include "core.h"

#include <endian.h>

static int take_order(PyObject *object, uint64_t unless_given, uint64_t forbidden, uint64_t *order)
{
    *order = unless_given;
    if (object == NULL)
        return 0;
    if (to_u64(object, order) == 1 && *order <= SEQ_CST && *order != forbidden)
        return 0;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%R is no order of a %s", object,
                     forbidden == RELEASE ? "load" : "store");
    return -1;
}

/* Where the integer is in the host, or NULL with the error that says why it is nowhere. */
static void *locate(MemoryMap *map, const Span *span, Region **region)
{
    Row *row = span->known ? map_find(map, span->address) : NULL;
    uint64_t offset;

    if (row == NULL || row->region->host == NULL)
        return raise_short(map, span, 0);
    if (span->size != 1 && span->size != 2 && span->size != 4 && span->size != 8)
        return PyErr_Format(PyExc_ValueError, "an integer has 1, 2, 4 or 8 bytes, not %R",
                            span->size_object);
    offset = span->address - row->start;
    if (offset % span->size)
        return raise_access_error("MisalignedAccess", span->address_object, span->size_object,
                                  NULL);
    if (span->size > row->region->size - offset)
        return raise_short(map, span, row->region->size - offset);
    *region = row->region;
    return row->region->host + offset; /* the memory begins at a page, so this is aligned too */
}

#define ORDERED_LOAD(type, order) \
    ((order) == SEQ_CST ? __atomic_load_n((type *)from, __ATOMIC_SEQ_CST) \
                        : __atomic_load_n((type *)from, __ATOMIC_ACQUIRE))

static uint64_t load(const void *from, uint64_t size, uint64_t order)
{
    switch (size) {
    case 1: return ORDERED_LOAD(const uint8_t, order);
    case 2: return le16toh(ORDERED_LOAD(const uint16_t, order));
    case 4: return le32toh(ORDERED_LOAD(const uint32_t, order));
    default: return le64toh(ORDERED_LOAD(const uint64_t, order));
    }
}

#define ORDERED_STORE(type, value, order) \
    ((order) == SEQ_CST ? __atomic_store_n((type *)to, (value), __ATOMIC_SEQ_CST) \
                        : __atomic_store_n((type *)to, (value), __ATOMIC_RELEASE))

static void store(void *to, uint64_t value, uint64_t size, uint64_t order)
{
    switch (size) {
    case 1: ORDERED_STORE(uint8_t, (uint8_t)value, order); break;
    case 2: ORDERED_STORE(uint16_t, htole16((uint16_t)value), order); break;
    case 4: ORDERED_STORE(uint32_t, htole32((uint32_t)value), order); break;
    default: ORDERED_STORE(uint64_t, htole64(value), order); break;
    }
}

const char map_load_doc[] =
"load($self, address, size, order=1)\n--\n\n"
"The unsigned little-endian integer of `size` bytes (1, 2, 4 or 8) at `address`, in one access.\n\n"
"`address` must be a multiple of `size` counted from the start of its region. Such an access\n"
"never tears, whoever writes at the same time: a guest, C code or another process.\n\n"
"Args:\n"
"    order: an `Ordering`, ACQUIRE unless given: what comes after the load in this thread sees\n"
"        what the writer did before its release.\n\n"
"Raises:\n"
"    MisalignedAccess: the address is not aligned.\n"
"    PartialBuffer: the integer reaches beyond its region.\n"
"    ValueError: RELEASE is no order of a load.";

MAP_METHOD(map_load)
{
    SIGNATURE("load", 2, "address", "size", "order");
    Region *region;
    uint64_t order;
    void *from;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || take_span(values[0], values[1], &span) < 0
        || take_order(values[2], ACQUIRE, RELEASE, &order) < 0)
        return NULL;
    from = locate(self, &span, &region);
    return from ? PyLong_FromUnsignedLongLong(load(from, span.size, order)) : NULL;
}

static PyObject *raise_too_large(PyObject *value, PyObject *size)
{
    PyObject *hexadecimal = PyNumber_ToBase(value, 16);

    if (hexadecimal)
        PyErr_Format(PyExc_ValueError, "%U is no unsigned integer of %R bytes", hexadecimal, size);
    Py_XDECREF(hexadecimal);
    return NULL;
}

const char map_store_doc[] =
"store($self, address, value, size, order=2)\n--\n\n"
"Write `value` as an unsigned little-endian integer of `size` bytes, in one access; see `load`.\n\n"
"Args:\n"
"    order: an `Ordering`, RELEASE unless given: who sees the value by an acquire also sees\n"
"        what this thread did before. SEQ_CST also keeps later loads behind the store.\n\n"
"Raises:\n"
"    MisalignedAccess: the address is not aligned.\n"
"    PartialBuffer: the integer reaches beyond its region.\n"
"    ValueError: `value` does not fit, or ACQUIRE, which is no order of a store.";

MAP_METHOD(map_store)
{
    SIGNATURE("store", 3, "address", "value", "size", "order");
    Region *region;
    uint64_t order, value;
    int fits;
    void *to;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || take_span(values[0], values[2], &span) < 0
        || (fits = to_u64(values[1], &value)) < 0
        || take_order(values[3], RELEASE, ACQUIRE, &order) < 0)
        return NULL;
    to = locate(self, &span, &region);
    if (to == NULL)
        return NULL;
    if (!fits || (span.size < 8 && value >> 8 * span.size))
        return raise_too_large(values[1], values[2]);
    store(to, value, span.size, order);
    if (region->bitmap)
        bitmap_mark(region->bitmap, span.address - region->start, span.size);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fence_doc,
"fence($module, /)\n--\n\n"
"Order every memory access of this thread before the call before every one after it.\n\n"
"What acquire and release do not give: a store, then a load, seen in that order by others\n"
"(virtio 1.2 §2.7.13.4.1 needs it between an index and the other side's wish).");

static PyObject *fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

PyMethodDef integer_functions[] = {
    {"fence", fence, METH_NOARGS, fence_doc},
    {NULL, NULL, 0, NULL},
};
