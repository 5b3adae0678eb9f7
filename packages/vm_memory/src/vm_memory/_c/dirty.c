/* Which pages of a region were written to: one bit a page, in the layout of KVM's dirty log.
 *
 * A writer writes and then marks; a reader takes the marks and then copies the pages. Marking
 * is an unconditional read-modify-write with release order, taking one with acquire order: if
 * the mark came first, the reader sees the bytes; if not, the page is in the next harvest. A
 * test before the mark would save the write, and could lose it: "already set" may be read while
 * our bytes still wait in the store buffer and the reader is taking that very mark.
 */
#include "core.h"

#include <string.h>
#include <sys/mman.h>

void bitmap_mark(DirtyBitmap *bitmap, uint64_t offset, uint64_t size)
{
    uint64_t first = offset >> bitmap->shift;
    uint64_t last = (offset + size - 1) >> bitmap->shift;

    for (uint64_t word = first / 64; word <= last / 64; word++) {
        uint64_t bits = UINT64_MAX;
        if (word == first / 64)
            bits &= UINT64_MAX << first % 64;
        if (word == last / 64)
            bits &= UINT64_MAX >> (63 - last % 64);
        __atomic_fetch_or(&bitmap->words[word], bits, __ATOMIC_RELEASE);
    }
}

static void clear(DirtyBitmap *bitmap, uint64_t offset, uint64_t size)
{
    uint64_t first = offset >> bitmap->shift;
    uint64_t last = (offset + size - 1) >> bitmap->shift;

    for (uint64_t page = first; page <= last; page++)
        __atomic_fetch_and(&bitmap->words[page / 64], ~(UINT64_C(1) << page % 64),
                           __ATOMIC_ACQ_REL);
}

static uint64_t page_count(const DirtyBitmap *bitmap)
{
    return ((bitmap->size - 1) >> bitmap->shift) + 1;
}

/* What somebody may still be writing to counts as written. */
static void add_live(const DirtyBitmap *bitmap, uint64_t *words)
{
    for (const Window *window = bitmap->live; window; window = window->next) {
        DirtyBitmap view = *bitmap;
        view.words = words;
        bitmap_mark(&view, window->offset, (uint64_t)window->size);
    }
}

void bitmap_take(DirtyBitmap *bitmap, uint64_t *words)
{
    for (uint64_t i = 0; i < bitmap->word_count; i++) {
        uint64_t *word = &bitmap->words[i];
        /* A mark that appears behind the look is in the next answer. */
        words[i] = __atomic_load_n(word, __ATOMIC_RELAXED)
                       ? __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL) : 0;
    }
    add_live(bitmap, words);
}

void bitmap_add(DirtyBitmap *bitmap, const uint64_t *words)
{
    uint64_t tail = page_count(bitmap) % 64;

    for (uint64_t i = 0; i < bitmap->word_count; i++) {
        uint64_t bits = words[i];
        if (i == bitmap->word_count - 1 && tail)
            bits &= UINT64_MAX >> (64 - tail); /* there are no pages behind the last */
        if (bits)
            __atomic_fetch_or(&bitmap->words[i], bits, __ATOMIC_RELEASE);
    }
}

/* (offset, size) inside the bitmap, or -1 with an error. An empty range is fine anywhere. */
static int take_range(DirtyBitmap *self, PyObject *args, const char *format, uint64_t *offset,
                      uint64_t *size)
{
    PyObject *first, *second = NULL;
    int known;

    *size = 1;
    if (!PyArg_ParseTuple(args, format, &first, &second))
        return -1;
    known = to_u64(first, offset);
    if (known < 0 || (second && to_size(second, size) < 0))
        return -1;
    if (*size == 0 || (known && *offset < self->size && *size <= self->size - *offset))
        return 0;
    PyErr_Format(PyExc_ValueError, "%R (and %llu bytes) lies outside of a bitmap for %llu bytes",
                 first, (unsigned long long)*size, (unsigned long long)self->size);
    return -1;
}

PyDoc_STRVAR(mark_doc,
"mark($self, offset, size=1, /)\n--\n\n"
"Say that the bytes from `offset` on have been written; call it after the write.\n\n"
"Raises:\n"
"    ValueError: part of the range is not described by this bitmap.");

static PyObject *mark(DirtyBitmap *self, PyObject *args)
{
    uint64_t offset, size;

    if (take_range(self, args, "O|O:mark", &offset, &size) < 0)
        return NULL;
    if (size)
        bitmap_mark(self, offset, size);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reset_doc,
"reset($self, offset, size=1, /)\n--\n\n"
"Forget the marks of every page that the range touches.\n\n"
"Raises:\n"
"    ValueError: part of the range is not described by this bitmap.");

static PyObject *reset(DirtyBitmap *self, PyObject *args)
{
    uint64_t offset, size;

    if (take_range(self, args, "O|O:reset", &offset, &size) < 0)
        return NULL;
    if (size)
        clear(self, offset, size);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_dirty_doc,
"is_dirty($self, offset, /)\n--\n\n"
"Whether the page of the byte at `offset` was marked, or is under a live writable view.\n\n"
"Raises:\n"
"    ValueError: `offset` is not described by this bitmap.");

static PyObject *is_dirty(DirtyBitmap *self, PyObject *args)
{
    uint64_t offset, size, page;

    if (take_range(self, args, "O:is_dirty", &offset, &size) < 0)
        return NULL;
    page = offset >> self->shift;
    for (Window *window = self->live; window; window = window->next)
        if (window->offset >> self->shift <= page
            && page <= (window->offset + (uint64_t)window->size - 1) >> self->shift)
            Py_RETURN_TRUE;
    return PyBool_FromLong(
        __atomic_load_n(&self->words[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1);
}

PyDoc_STRVAR(get_and_reset_doc,
"get_and_reset($self, /)\n--\n\n"
"Take all marks: the pages written since the last call, none of them lost or told twice.\n\n"
"A page under a live writable view is in every answer, since it may be written at any time.\n\n"
"Returns:\n"
"    64-bit words, bit i of word w for page 64 * w + i, as `KVM_GET_DIRTY_LOG` has them.");

static PyObject *get_and_reset(DirtyBitmap *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * self->word_count));

    if (result)
        bitmap_take(self, (uint64_t *)PyBytes_AsString(result));
    return result;
}

PyDoc_STRVAR(snapshot_doc,
"snapshot($self, /)\n--\n\n"
"The marks as `get_and_reset` gives them, left in place.");

static PyObject *snapshot(DirtyBitmap *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * self->word_count));
    uint64_t *words;

    if (result == NULL)
        return NULL;
    words = (uint64_t *)PyBytes_AsString(result);
    for (uint64_t i = 0; i < self->word_count; i++)
        words[i] = __atomic_load_n(&self->words[i], __ATOMIC_ACQUIRE);
    add_live(self, words);
    return result;
}

PyDoc_STRVAR(merge_doc,
"merge($self, log, /)\n--\n\n"
"Add the marks of `log`, so that the next harvest is the union of both.\n\n"
"Args:\n"
"    log: words as `get_and_reset` returns them, such as KVM's dirty log of the same memory.\n\n"
"Raises:\n"
"    ValueError: it is not for as many pages.");

static PyObject *merge(DirtyBitmap *self, PyObject *log)
{
    uint64_t size = 8 * self->word_count;
    PyObject *result = NULL;
    Py_buffer view;
    uint64_t *words;

    if (PyObject_GetBuffer(log, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if ((uint64_t)view.len != size)
        PyErr_Format(PyExc_ValueError, "a log of %zd bytes is not for %llu pages: that takes %llu",
                     view.len, (unsigned long long)page_count(self), (unsigned long long)size);
    else if ((words = PyMem_Malloc(size)) == NULL)
        PyErr_NoMemory();
    else {
        memcpy(words, view.buf, size); /* the log may begin at any address */
        bitmap_add(self, words);
        PyMem_Free(words);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&view);
    return result;
}

static uint64_t page_size_of(PyObject *object)
{
    uint64_t value;
    int known = to_u64(object, &value);

    if (known < 0)
        return 0;
    if (known && value >= 8 && (value & (value - 1)) == 0)
        return value;
    PyErr_Format(PyExc_ValueError, "a page of %R bytes is no power of two from 8 on", object);
    return 0;
}

static PyObject *bitmap_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"size", "page_size", NULL};
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *size_object, *page_object;
    uint64_t size, page;
    DirtyBitmap *self;
    void *words;
    int known;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO:DirtyBitmap", names, &size_object,
                                     &page_object)
        || (known = to_u64(size_object, &size)) < 0 || !(page = page_size_of(page_object)))
        return NULL;
    if (!known || size == 0 || size / page >= (uint64_t)1 << 60) {
        PyErr_Format(PyExc_ValueError, "no bitmap for %R bytes", size_object);
        return NULL;
    }
    self = (DirtyBitmap *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->size = size;
    self->shift = (unsigned)__builtin_ctzll(page);
    self->word_count = page_count(self) / 64 + (page_count(self) % 64 != 0);
    /* From the host page by page as it is used: a bitmap for a terabyte costs what is dirty. */
    words = mmap(NULL, 8 * self->word_count, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (words == MAP_FAILED) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    self->words = words;
    return (PyObject *)self;
}

static void bitmap_dealloc(DirtyBitmap *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    if (self->words)
        munmap(self->words, 8 * self->word_count);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF((PyObject *)type);
}

static Py_ssize_t length(DirtyBitmap *self)
{
    return (Py_ssize_t)page_count(self);
}

static PyObject *get_size(DirtyBitmap *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->size);
}

static PyObject *get_page_size(DirtyBitmap *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(UINT64_C(1) << self->shift);
}

static PyObject *get_host_address(DirtyBitmap *self, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(self->words);
}

static PyMethodDef methods[] = {
    {"mark", (PyCFunction)mark, METH_VARARGS, mark_doc},
    {"reset", (PyCFunction)reset, METH_VARARGS, reset_doc},
    {"is_dirty", (PyCFunction)is_dirty, METH_VARARGS, is_dirty_doc},
    {"get_and_reset", (PyCFunction)get_and_reset, METH_NOARGS, get_and_reset_doc},
    {"snapshot", (PyCFunction)snapshot, METH_NOARGS, snapshot_doc},
    {"merge", (PyCFunction)merge, METH_O, merge_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"size", (getter)get_size, NULL, "Bytes that the bitmap describes.", NULL},
    {"page_size", (getter)get_page_size, NULL, "Bytes that one bit stands for.", NULL},
    {"host_address", (getter)get_host_address, NULL,
     "Address of the first word in this process, for C code; good while the bitmap lives.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(doc,
"DirtyBitmap(size, page_size)\n--\n\n"
"One bit for each page of `size` bytes of memory: was it written to?\n\n"
"Its length is the number of pages. Marks may be set and taken by any number of threads and\n"
"by C code at once; each mark is in exactly one harvest.\n\n"
"Args:\n"
"    size: bytes to describe, at least 1.\n"
"    page_size: bytes that one bit stands for, a power of two.\n\n"
"Raises:\n"
"    ValueError: a number that no bitmap can have.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)doc},
    {Py_tp_new, bitmap_new},
    {Py_tp_dealloc, bitmap_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_sq_length, length},
    {0, NULL},
};

PyType_Spec DirtyBitmap_Spec = {
    .name = "vm_memory.DirtyBitmap",
    .basicsize = sizeof(DirtyBitmap),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
