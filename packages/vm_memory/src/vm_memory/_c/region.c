/* One contiguous piece of guest memory: guest range, host memory, who borrows it.
 *
 * How host memory is obtained is the Python side's business (vm_memory.region and .mapping);
 * here is only what must hold whatever Python code does: the host address is good as long as
 * anybody can use it.
 */
#include "core.h"

#include <stddef.h>
#include <structmember.h>
#include <unistd.h>

static int hold(Region *self, uint64_t offset)
{
    if (PyObject_GetBuffer(self->mapping, &self->held, PyBUF_WRITABLE) < 0)
        return -1;
    self->host = (unsigned char *)self->held.buf + offset;
    return 0;
}

/* mapping None: guest memory that is not mapped here (guest_memfd). */
static int adopt(Region *self, PyObject *mapping, uint64_t offset)
{
    if (mapping == Py_None)
        return 0;
    self->mapping = Py_NewRef(mapping);
    if (hold(self, offset) < 0)
        return -1;
    if ((uint64_t)self->held.len < offset || (uint64_t)self->held.len - offset < self->size) {
        PyErr_SetString(PyExc_ValueError, "the mapping is smaller than the region");
        return -1;
    }
    return 0;
}

static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    unsigned long long start, size, offset, file_offset;
    PyObject *mapping, *bitmap;
    Region *self;
    int fd;

    if (!PyArg_ParseTuple(args, "KKOKOiK:Region", &start, &size, &mapping, &offset, &bitmap, &fd,
                          &file_offset))
        return NULL;
    if (bitmap != Py_None && !PyObject_TypeCheck(bitmap, DirtyBitmap_Type))
        return PyErr_Format(PyExc_TypeError, "%R is no DirtyBitmap", bitmap);
    if (bitmap != Py_None && ((DirtyBitmap *)bitmap)->size < size)
        return PyErr_Format(PyExc_ValueError, "the bitmap is for less than the region");
    self = (Region *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = -1;
    self->start = start;
    self->size = size;
    self->last = start + size - 1;
    self->file_offset = file_offset;
    if (adopt(self, mapping, offset) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    if (bitmap != Py_None)
        self->bitmap = (DirtyBitmap *)Py_NewRef(bitmap);
    self->fd = fd; /* last: until here it is the caller's */
    return (PyObject *)self;
}

static void let_go(Region *self)
{
    self->host = NULL;
    if (self->held.obj)
        PyBuffer_Release(&self->held);
}

static void close_file(Region *self)
{
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
}

static int region_traverse(Region *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->mapping);
    Py_VISIT((PyObject *)self->bitmap);
    return 0;
}

static void region_dealloc(Region *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    PyObject_GC_UnTrack(self);
    let_go(self);
    close_file(self);
    Py_CLEAR(self->mapping);
    Py_XDECREF((PyObject *)self->bitmap);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *raise_borrowed(Region *self)
{
    return PyErr_Format(PyExc_BufferError, "%R is still borrowed: release its views first", self);
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Give the host memory back; a second call does nothing.\n\n"
"Raises:\n"
"    BufferError: a view, a slot or C code still borrows it; the region stays usable.");

/* Closes the mapping, or leaves everything as it was and an error set. */
static int close_mapping(Region *self)
{
    uint64_t offset = (uint64_t)(self->host - (unsigned char *)self->held.buf);
    PyObject *type, *value, *traceback, *done;

    let_go(self);
    done = PyObject_CallMethod(self->mapping, "close", NULL);
    if (done) {
        Py_DECREF(done);
        return 0;
    }
    PyErr_Fetch(&type, &value, &traceback);
    if (hold(self, offset) < 0) /* an mmap object that closes and complains: it is closed */
        PyErr_Clear();
    PyErr_Restore(type, value, traceback);
    if (PyErr_ExceptionMatches(PyExc_BufferError)) /* somebody borrows the mapping past us */
        raise_borrowed(self);
    return -1;
}

static PyObject *region_close(Region *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closed)
        Py_RETURN_NONE;
    if (self->borrows)
        return raise_borrowed(self);
    self->closed = 1; /* from here on accesses, also those of other threads, say so */
    if (self->mapping && close_mapping(self) < 0) {
        self->closed = self->host == NULL;
        return NULL;
    }
    Py_CLEAR(self->mapping);
    close_file(self);
    Py_RETURN_NONE;
}

static PyObject *whole(Region *self, enum window_mode mode)
{
    if (self->host == NULL)
        return raise_unreachable(self);
    return window_view(self, 0, self->size, mode);
}

static PyObject *get_memory(Region *self, void *Py_UNUSED(closure))
{
    return whole(self, TRACKED);
}

static PyObject *get_slot_memory(Region *self, void *Py_UNUSED(closure))
{
    return whole(self, UNTRACKED);
}

static PyObject *get_host_address(Region *self, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(self->host);
}

static PyObject *get_closed(Region *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static PyMethodDef methods[] = {
    {"close", (PyCFunction)region_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"start_addr", T_ULONGLONG, offsetof(Region, start), READONLY,
     "Guest physical address of the first byte."},
    {"last_addr", T_ULONGLONG, offsetof(Region, last), READONLY,
     "Guest physical address of the last byte."},
    {"size", T_ULONGLONG, offsetof(Region, size), READONLY, "Bytes."},
    {"dirty", T_OBJECT, offsetof(Region, bitmap), READONLY,
     "The `DirtyBitmap` that every write marks; None for a region that does not track."},
    {"file_descriptor", T_INT, offsetof(Region, fd), READONLY,
     "The region's own descriptor of the file behind it, closed with it; -1 if there is none."},
    {"file_offset", T_ULONGLONG, offsetof(Region, file_offset), READONLY,
     "Where in that file the region begins, in bytes."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(memory_doc,
"A new writable view of all bytes; a borrow: `close` raises while it lives.\n\n"
"While it lives all of the region counts as dirty, since it may be written at any time.");

PyDoc_STRVAR(slot_memory_doc,
"As `memory`, but without dirty marks: for a hypervisor's memory slot.\n\n"
"Whoever writes through it keeps a log of its own, as KVM does for a slot with\n"
"KVM_MEM_LOG_DIRTY_PAGES; `DirtyBitmap.merge` unites the two.");

static PyGetSetDef properties[] = {
    {"memory", (getter)get_memory, NULL, memory_doc, NULL},
    {"slot_memory", (getter)get_slot_memory, NULL, slot_memory_doc, NULL},
    {"host_address", (getter)get_host_address, NULL,
     "Address of the first byte in this process, for C code that holds a borrow (a view or a\n"
     "`RegionTable`) for as long as it uses the address; 0 if nothing is mapped here.", NULL},
    {"closed", (getter)get_closed, NULL, "Whether the host memory is gone.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The part of a GuestRegion that keeps its memory in place."},
    {Py_tp_new, region_new},
    {Py_tp_traverse, region_traverse},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {0, NULL},
};

PyType_Spec Region_Spec = {
    .name = "vm_memory._core.Region",
    .basicsize = sizeof(Region),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
