/* Guest memory as a whole: which region holds an address, and how far a range is memory. */
#include "core.h"

#include <stddef.h>
#include <structmember.h>

Row *map_find(MemoryMap *map, uint64_t address)
{
    Py_ssize_t low = 0, high = map->count;
    Row *row = map->rows + map->recent;

    if (map->count && row->start <= address && address <= row->last)
        return row;
    while (low < high) { /* the first row that starts behind `address` is in [low, high] */
        Py_ssize_t middle = low + (high - low) / 2;
        if (map->rows[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address > map->rows[low - 1].last)
        return NULL;
    map->recent = low - 1;
    return map->rows + low - 1;
}

int next_piece(Pieces *pieces)
{
    Row *row;

    /* An address that wrapped to 0 has left the address space. */
    if (pieces->left == 0 || (pieces->region && pieces->address == 0))
        return 0;
    row = map_find(pieces->map, pieces->address);
    if (row == NULL)
        return 0;
    if (row->region->host == NULL) {
        if (row->region->closed)
            raise_unreachable(row->region);
        return row->region->closed ? -1 : 0;
    }
    pieces->region = row->region;
    pieces->offset = pieces->address - row->start;
    pieces->size = min_u64(pieces->left, row->region->size - pieces->offset);
    pieces->address += pieces->size;
    pieces->left -= pieces->size;
    return 1;
}

int measure(MemoryMap *map, uint64_t address, uint64_t size, uint64_t *reached)
{
    Pieces pieces = {.map = map, .address = address, .left = size};
    int more;

    while ((more = next_piece(&pieces)) > 0)
        ;
    *reached = size - pieces.left;
    return more;
}

int take_span(PyObject *address, PyObject *size, Span *span)
{
    span->address_object = address;
    span->size_object = size;
    span->known = to_u64(address, &span->address);
    return span->known < 0 || to_size(size, &span->size) < 0 ? -1 : 0;
}

PyObject *raise_short(MemoryMap *map, const Span *span, uint64_t reached)
{
    Row *row = span->known ? map_find(map, span->address) : NULL;
    PyObject *completed;

    if (reached == 0 && row && row->region->closed)
        return raise_unreachable(row->region);
    if (reached == 0)
        return raise_access_error(row ? "HostAddressNotAvailable" : "InvalidGuestAddress",
                                  span->address_object, span->size_object, NULL);
    completed = PyLong_FromUnsignedLongLong(reached);
    if (completed)
        raise_access_error("PartialBuffer", span->address_object, span->size_object, completed);
    Py_XDECREF(completed);
    return NULL;
}

int take_whole_span(MemoryMap *map, PyObject *address, PyObject *size, Span *span)
{
    uint64_t reached = 0;

    if (take_span(address, size, span) < 0)
        return -1;
    if (span->size == 0)
        return 0;
    if (span->known && measure(map, span->address, span->size, &reached) < 0)
        return -1;
    if (reached == span->size)
        return 0;
    raise_short(map, span, reached);
    return -1;
}

int take_span_item(MemoryMap *map, PyObject *item, Span *span)
{
    if (PyTuple_Check(item) && PyTuple_Size(item) == 2)
        return take_whole_span(map, PyTuple_GetItem(item, 0), PyTuple_GetItem(item, 1), span);
    PyErr_Format(PyExc_TypeError, "%R is no (address, size)", item);
    return -1;
}

PyDoc_STRVAR(find_region_doc,
"find_region($self, address, /)\n--\n\n"
"The region that holds `address`, or None.");

static PyObject *find_region(MemoryMap *self, PyObject *object)
{
    uint64_t address;
    int known = to_u64(object, &address);
    Row *row = known > 0 ? map_find(self, address) : NULL;

    if (known < 0)
        return NULL;
    return Py_NewRef(row ? (PyObject *)row->region : Py_None);
}

/* How many bytes of the span can be reached; -1 with an error. */
static int reach(MemoryMap *map, PyObject *address, PyObject *size, Span *span, uint64_t *reached)
{
    *reached = 0;
    if (take_span(address, size, span) < 0)
        return -1;
    return span->known ? measure(map, span->address, span->size, reached) : 0;
}

PyDoc_STRVAR(check_range_doc,
"check_range($self, address, size)\n--\n\n"
"Whether every byte of [address, address + size) can be read and written.\n\n"
"Adjacent regions count as one; a region that is not mapped here counts as a hole.");

static MAP_METHOD(check_range)
{
    SIGNATURE("check_range", 2, "address", "size");
    uint64_t reached;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || reach(self, values[0], values[1], &span, &reached) < 0)
        return NULL;
    return PyBool_FromLong(reached == span.size);
}

PyDoc_STRVAR(reachable_doc,
"reachable($self, address, size)\n--\n\n"
"How many bytes from `address` on can be read and written, at most `size`: up to the first hole.");

static MAP_METHOD(reachable)
{
    SIGNATURE("reachable", 2, "address", "size");
    uint64_t reached;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || reach(self, values[0], values[1], &span, &reached) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(reached);
}

static PyObject *map_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *regions;
    MemoryMap *self;
    Py_ssize_t count;

    if (!PyArg_ParseTuple(args, "O!:MemoryMap", &PyTuple_Type, &regions))
        return NULL;
    count = PyTuple_Size(regions);
    self = (MemoryMap *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->regions = Py_NewRef(regions);
    self->rows = PyMem_Malloc((size_t)(count + 1) * sizeof(Row));
    if (self->rows == NULL) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(regions, i);
        Region *region = (Region *)item;
        if (!PyObject_TypeCheck(item, Region_Type)
            || (i && region->start <= self->rows[i - 1].last)) {
            PyErr_Format(PyExc_ValueError, "%R is no region, or not in order", item);
            Py_DECREF((PyObject *)self);
            return NULL;
        }
        self->rows[i] = (Row){region->start, region->last, region};
    }
    self->count = count;
    return (PyObject *)self;
}

static int map_traverse(MemoryMap *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->regions);
    return 0;
}

static void map_dealloc(MemoryMap *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    PyObject_GC_UnTrack(self);
    PyMem_Free(self->rows);
    Py_XDECREF(self->regions);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF((PyObject *)type);
}

#define FAST(name, function, doc) \
    {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef methods[] = {
    {"find_region", (PyCFunction)find_region, METH_O, find_region_doc},
    FAST("check_range", check_range, check_range_doc),
    FAST("reachable", reachable, reachable_doc),
    FAST("read", map_read, map_read_doc),
    FAST("read_into", map_read_into, map_read_into_doc),
    FAST("write", map_write, map_write_doc),
    FAST("view", map_view, map_view_doc),
    FAST("iovec", map_iovec, map_iovec_doc),
    FAST("_windows", map_windows, map_windows_doc),
    FAST("read_from_fd", map_read_from_fd, map_read_from_fd_doc),
    FAST("write_to_fd", map_write_to_fd, map_write_to_fd_doc),
    FAST("readv", map_readv, map_readv_doc),
    FAST("writev", map_writev, map_writev_doc),
    {"get_and_reset_dirty", (PyCFunction)map_get_and_reset_dirty, METH_NOARGS,
     map_get_and_reset_dirty_doc},
    FAST("mark_dirty", map_mark_dirty, map_mark_dirty_doc),
    FAST("load", map_load, map_load_doc),
    FAST("store", map_store, map_store_doc),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"regions", T_OBJECT, offsetof(MemoryMap, regions), READONLY,
     "The regions as a tuple, sorted by address."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The part of GuestMemory that every access goes through."},
    {Py_tp_new, map_new},
    {Py_tp_traverse, map_traverse},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec MemoryMap_Spec = {
    .name = "vm_memory._core.MemoryMap",
    .basicsize = sizeof(MemoryMap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
