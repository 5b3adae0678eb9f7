/* Copies of bytes in and out of guest memory, and views of it.
 *
 * The guest runs meanwhile. Up to 8 bytes move in the largest naturally aligned pieces, each with
 * one access, and so never tear; longer copies are memmove's, with no promise. A write marks the
 * dirty bitmap behind the bytes.
 */
#include "core.h"

#include <string.h>

/* From here on a copy takes long enough (some ten microseconds) to let other threads run, which
 * costs a wait for the GIL afterwards. */
#define WITHOUT_GIL (256 * 1024)

static void copy_piece(void *to, const void *from, size_t size)
{
    switch (size) {
    case 1: __atomic_store_n((uint8_t *)to, __atomic_load_n((const uint8_t *)from, 0), 0); break;
    case 2: __atomic_store_n((uint16_t *)to, __atomic_load_n((const uint16_t *)from, 0), 0); break;
    case 4: __atomic_store_n((uint32_t *)to, __atomic_load_n((const uint32_t *)from, 0), 0); break;
    case 8: __atomic_store_n((uint64_t *)to, __atomic_load_n((const uint64_t *)from, 0), 0); break;
    }
}

/* The largest power of two up to `size` that divides the address. */
static size_t aligned_piece(const unsigned char *guest, size_t size)
{
    size_t piece = 8;

    while (piece > size || (uintptr_t)guest % piece)
        piece /= 2;
    return piece;
}

static void copy_few(unsigned char *to, const unsigned char *from, size_t size,
                     const unsigned char *guest)
{
    uint64_t aside[1]; /* aligned; the host's side may not be */

    while (size) {
        size_t piece = aligned_piece(guest, size);
        if (guest == from) {
            copy_piece(aside, from, piece);
            memcpy(to, aside, piece);
        } else {
            memcpy(aside, from, piece);
            copy_piece(to, aside, piece);
        }
        to += piece, from += piece, guest += piece, size -= piece;
    }
}

/* `guest` is `to` or `from`, inside `region`; the caller has checked the bounds. */
static void copy(Region *region, unsigned char *to, const unsigned char *from, uint64_t size,
                 const unsigned char *guest)
{
    if (size <= 8)
        copy_few(to, from, (size_t)size, guest);
    else if (size < WITHOUT_GIL)
        memmove(to, from, size);
    else {
        region->borrows++;
        Py_BEGIN_ALLOW_THREADS
        memmove(to, from, size);
        Py_END_ALLOW_THREADS
        region->borrows--;
    }
}

static void copy_in(Region *region, uint64_t offset, const void *from, uint64_t size)
{
    unsigned char *to = region->host + offset;

    copy(region, to, from, size, to);
    if (region->bitmap)
        bitmap_mark(region->bitmap, offset, size);
}

static void copy_out(Region *region, uint64_t offset, void *to, uint64_t size)
{
    const unsigned char *from = region->host + offset;

    copy(region, to, from, size, from);
}

/* Copies up to the first hole; `*done` is how far it came. 0, or -1 with an error. */
static int copy_pieces(MemoryMap *map, const Span *span, char *bytes, int into_guest,
                       uint64_t *done)
{
    Pieces pieces = {.map = map, .address = span->address, .left = span->known ? span->size : 0};
    int more;

    *done = 0;
    while ((more = next_piece(&pieces)) > 0) {
        if (into_guest)
            copy_in(pieces.region, pieces.offset, bytes + *done, pieces.size);
        else
            copy_out(pieces.region, pieces.offset, bytes + *done, pieces.size);
        *done += pieces.size;
    }
    return more;
}

const char map_read_doc[] =
"read($self, address, size)\n--\n\n"
"Copy `size` bytes out of the guest. A guest that chooses `size` chooses how much memory the\n"
"copy takes: bound it.";

MAP_METHOD(map_read)
{
    SIGNATURE("read", 2, "address", "size");
    PyObject *result;
    uint64_t done;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || take_whole_span(self, values[0], values[1], &span) < 0)
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)span.size);
    if (result && copy_pieces(self, &span, PyBytes_AsString(result), 0, &done) < 0)
        Py_CLEAR(result);
    return result;
}

/* What `write` and `read_into` share: a buffer against the guest memory at `address`. */
static PyObject *copy_buffer(MemoryMap *self, PyObject *address, PyObject *buffer, int into_guest)
{
    PyObject *size, *result = NULL;
    Py_buffer view;
    uint64_t done;
    Span span;

    if (PyObject_GetBuffer(buffer, &view, into_guest ? PyBUF_SIMPLE : PyBUF_WRITABLE) < 0)
        return NULL;
    size = PyLong_FromSsize_t(view.len);
    if (size && take_span(address, size, &span) == 0
        && copy_pieces(self, &span, view.buf, into_guest, &done) == 0)
        result = done == span.size ? Py_NewRef(Py_None) : raise_short(self, &span, done);
    Py_XDECREF(size);
    PyBuffer_Release(&view);
    return result;
}

const char map_read_into_doc[] =
"read_into($self, address, buffer)\n--\n\n"
"Copy guest bytes into `buffer` (writable, C-contiguous, any item format), filling it.";

MAP_METHOD(map_read_into)
{
    SIGNATURE("read_into", 2, "address", "buffer");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return copy_buffer(self, values[0], values[1], 0);
}

const char map_write_doc[] =
"write($self, address, data)\n--\n\n"
"Copy all bytes of `data` (C-contiguous, any item format) into the guest.\n\n"
"`data` may be a view of this very memory; overlapping ranges within one region copy as by\n"
"``memmove``.";

MAP_METHOD(map_write)
{
    SIGNATURE("write", 2, "address", "data");

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    return copy_buffer(self, values[0], values[1], 1);
}

/* The mode for the argument `writable`, or -1. */
static int mode_of(PyObject *writable)
{
    int truth = writable ? PyObject_IsTrue(writable) : 1;

    return truth < 0 ? -1 : truth ? TRACKED : READ_ONLY;
}

static int append_windows(MemoryMap *map, const Span *span, int mode, PyObject *list)
{
    Pieces pieces = {.map = map, .address = span->address, .left = span->size};
    int more;

    while ((more = next_piece(&pieces)) > 0) {
        PyObject *view = window_view(pieces.region, pieces.offset, pieces.size, mode);
        int failed = view == NULL || PyList_Append(list, view) < 0;
        Py_XDECREF(view);
        if (failed)
            return -1;
    }
    return more;
}

const char map_view_doc[] =
"view($self, address, size, writable=True)\n--\n\n"
"The bytes themselves, without a copy, as a memoryview; they must lie in one region.\n\n"
"A view is a borrow: the region cannot be closed while it lives. As long as a writable one\n"
"lives its pages count as dirty: release it when the writing is done (``with`` does).\n\n"
"Raises:\n"
"    PartialBuffer: the range leaves its region (use `iovec` to cross into the next).";

MAP_METHOD(map_view)
{
    SIGNATURE("view", 2, "address", "size", "writable");
    static char nothing[1];
    int mode;
    Row *row;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || (mode = mode_of(values[2])) < 0 || take_span(values[0], values[1], &span) < 0)
        return NULL;
    if (span.size == 0)
        return PyMemoryView_FromMemory(nothing, 0, mode == READ_ONLY ? PyBUF_READ : PyBUF_WRITE);
    row = span.known ? map_find(self, span.address) : NULL;
    if (row == NULL || row->region->host == NULL)
        return raise_short(self, &span, 0);
    if (span.size - 1 > row->last - span.address)
        return raise_short(self, &span, row->last - span.address + 1);
    return window_view(row->region, span.address - row->start, span.size, mode);
}

const char map_iovec_doc[] =
"iovec($self, address, size, writable=True)\n--\n\n"
"Views of the whole range, one per region that it touches, without a copy; see `view`.";

MAP_METHOD(map_iovec)
{
    SIGNATURE("iovec", 2, "address", "size", "writable");
    PyObject *list;
    int mode;
    Span span;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || (mode = mode_of(values[2])) < 0
        || take_whole_span(self, values[0], values[1], &span) < 0)
        return NULL;
    list = PyList_New(0);
    if (list && append_windows(self, &span, mode, list) < 0)
        Py_CLEAR(list);
    return list;
}

static int append_range(MemoryMap *map, PyObject *item, int mode, PyObject *list)
{
    Span span;

    return take_span_item(map, item, &span) < 0 ? -1 : append_windows(map, &span, mode, list);
}

const char map_windows_doc[] =
"_windows($self, ranges, mode)\n--\n\n"
"Views of all of several (address, size) ranges, in order; `mode` is a constant of this module.";

MAP_METHOD(map_windows)
{
    SIGNATURE("_windows", 2, "ranges", "mode");
    PyObject *list, *range, *iterator;
    uint64_t mode;
    int failed = 0;

    if (take_arguments(&signature, args, count, keywords, values) < 0)
        return NULL;
    if (to_u64(values[1], &mode) < 1 || mode >= WINDOW_MODES)
        return PyErr_Format(PyExc_ValueError, "%R is no mode", values[1]);
    iterator = PyObject_GetIter(values[0]);
    list = iterator ? PyList_New(0) : NULL;
    while (list && !failed && (range = PyIter_Next(iterator)) != NULL) {
        failed = append_range(self, range, (int)mode, list) < 0;
        Py_DECREF(range);
    }
    Py_XDECREF(iterator);
    if (list && (failed || PyErr_Occurred()))
        Py_CLEAR(list);
    return list;
}

const char map_mark_dirty_doc[] =
"mark_dirty($self, address, size)\n--\n\n"
"Say that the range has been written, by someone who does not mark by himself; call it after\n"
"the write. Regions that do not track forget it.";

MAP_METHOD(map_mark_dirty)
{
    SIGNATURE("mark_dirty", 2, "address", "size");
    Span span;
    int more;

    if (take_arguments(&signature, args, count, keywords, values) < 0
        || take_whole_span(self, values[0], values[1], &span) < 0)
        return NULL;
    Pieces pieces = {.map = self, .address = span.address, .left = span.size};
    while ((more = next_piece(&pieces)) > 0)
        if (pieces.region->bitmap)
            bitmap_mark(pieces.region->bitmap, pieces.offset, pieces.size);
    return more < 0 ? NULL : Py_NewRef(Py_None);
}
