/* A request, and the two streams of its bytes: where a buffer ends is not shown.
 *
 * The bytes themselves go through GuestMemory's read and write, which check, mark and refuse
 * after a close as they do for anyone.
 */
#include "core.h"

#include <stddef.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    Chain *chain;
} StreamView;

int to_u64(PyObject *object, uint64_t *value)
{
    if (!PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%R is no integer", object);
        return -1;
    }
    *value = PyLong_AsUnsignedLongLong(object);
    if (*value != UINT64_MAX || !PyErr_Occurred())
        return 1;
    PyErr_Clear(); /* negative, or 2^64 and more */
    return 0;
}

Chain *chain_new(PyObject *memory, const Walk *walk, const Buffer *buffers)
{
    Chain *chain = (Chain *)PyType_GenericAlloc(Chain_Type, walk->count);

    if (chain == NULL)
        return NULL;
    chain->memory = Py_NewRef(memory);
    chain->head = walk->head;
    chain->position = walk->position;
    chain->entries = walk->entries;
    memcpy(chain->buffers, buffers, walk->count * sizeof(Buffer));
    chain->streams[READABLE] = (Stream){0, 0, walk->bytes[READABLE], walk->bytes[READABLE]};
    chain->streams[WRITABLE] = (Stream){walk->readable, 0, walk->bytes[WRITABLE],
                                        walk->bytes[WRITABLE]};
    return chain;
}

static void chain_dealloc(Chain *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    Py_XDECREF(self->memory);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *chain_repr(Chain *self)
{
    return PyUnicode_FromFormat("<DescriptorChain head=%u readable=%llu writable=%llu>",
                                (unsigned)self->head,
                                (unsigned long long)self->streams[READABLE].size,
                                (unsigned long long)self->streams[WRITABLE].size);
}

static PyObject *view_new(Chain *chain, PyTypeObject *type)
{
    StreamView *view = (StreamView *)PyType_GenericAlloc(type, 0);

    if (view)
        view->chain = (Chain *)Py_NewRef((PyObject *)chain);
    return (PyObject *)view;
}

static PyObject *get_reader(Chain *self, void *Py_UNUSED(closure))
{
    return view_new(self, Reader_Type);
}

static PyObject *get_writer(Chain *self, void *Py_UNUSED(closure))
{
    return view_new(self, Writer_Type);
}

static PyGetSetDef chain_getters[] = {
    {"reader", (getter)get_reader, NULL, "The bytes that the device may read.", NULL},
    {"writer", (getter)get_writer, NULL, "The bytes that the device may write.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef chain_members[] = {
    {"head", T_UINT, offsetof(Chain, head), READONLY,
     "What the driver knows it by: the index of its first descriptor in a split queue, its\n"
     "buffer id in a packed one."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot chain_slots[] = {
    {Py_tp_doc, (void *)"A request that the driver made available."},
    {Py_tp_dealloc, chain_dealloc},
    {Py_tp_repr, chain_repr},
    {Py_tp_getset, chain_getters},
    {Py_tp_members, chain_members},
    {0, NULL},
};

PyType_Spec Chain_Spec = {
    .name = "virtio_devices.DescriptorChain",
    .basicsize = offsetof(Chain, buffers),
    .itemsize = sizeof(Buffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = chain_slots,
};

/* The streams */

static Stream *stream_of(StreamView *view)
{
    return &view->chain->streams[Py_TYPE((PyObject *)view) == Writer_Type ? WRITABLE : READABLE];
}

/* `size` bytes are left: 0; else -1 with RequestTooShort, and nothing is taken. */
static int take_size(Stream *stream, PyObject *object, uint64_t *size)
{
    int known = to_u64(object, size);

    if (known < 0)
        return -1;
    if (known && *size <= stream->remaining)
        return 0;
    raise_error("RequestTooShort", "(OK)", object, (unsigned long long)stream->remaining);
    return -1;
}

Buffer chain_next(const Chain *chain, Stream *stream, uint64_t size)
{
    const Buffer *buffer = &chain->buffers[stream->index];
    Buffer piece;

    while (stream->offset == buffer->size) {
        buffer = &chain->buffers[++stream->index];
        stream->offset = 0;
    }
    piece.address = buffer->address + stream->offset;
    piece.size = buffer->size - stream->offset;
    if (piece.size > size)
        piece.size = size;
    stream->offset += piece.size;
    stream->remaining -= piece.size;
    return piece;
}

static PyObject *piece_tuple(Buffer piece)
{
    return Py_BuildValue("(KK)", (unsigned long long)piece.address, (unsigned long long)piece.size);
}

static PyObject *view_spans(StreamView *self, PyObject *object)
{
    Stream *stream = stream_of(self);
    PyObject *spans;
    uint64_t size;

    if (take_size(stream, object, &size) < 0)
        return NULL;
    spans = PyList_New(0);
    while (spans && size) {
        Buffer piece = chain_next(self->chain, stream, size);
        PyObject *span = piece_tuple(piece);
        if (span == NULL || PyList_Append(spans, span) < 0)
            Py_CLEAR(spans);
        Py_XDECREF(span);
        size -= piece.size;
    }
    return spans;
}

static PyObject *read_piece(PyObject *memory, Buffer piece)
{
    PyObject *address = PyLong_FromUnsignedLongLong(piece.address);
    PyObject *size = PyLong_FromUnsignedLongLong(piece.size);
    PyObject *bytes = NULL;

    if (address && size)
        bytes = PyObject_CallMethodObjArgs(memory, name_read, address, size, NULL);
    Py_XDECREF(address);
    Py_XDECREF(size);
    return bytes;
}

static PyObject *reader_read(StreamView *self, PyObject *object)
{
    Stream *stream = stream_of(self);
    PyObject *result = NULL;
    uint64_t size;

    if (take_size(stream, object, &size) < 0)
        return NULL;
    while (size) {
        Buffer piece = chain_next(self->chain, stream, size);
        PyObject *bytes = read_piece(self->chain->memory, piece), *both = bytes;
        if (result && bytes) {
            both = PySequence_Concat(result, bytes);
            Py_DECREF(bytes);
        }
        Py_XDECREF(result);
        result = both;
        if (result == NULL)
            return NULL;
        size -= piece.size;
    }
    return result ? result : PyBytes_FromStringAndSize(NULL, 0);
}

/* Write a part of a buffer of bytes; 0, or -1 with an error. */
static int write_piece(PyObject *memory, Buffer piece, PyObject *bytes, uint64_t offset)
{
    PyObject *address = PyLong_FromUnsignedLongLong(piece.address);
    PyObject *part = PySequence_GetSlice(bytes, (Py_ssize_t)offset,
                                         (Py_ssize_t)(offset + piece.size));
    PyObject *done = NULL;

    if (address && part)
        done = PyObject_CallMethodObjArgs(memory, name_write, address, part, NULL);
    Py_XDECREF(address);
    Py_XDECREF(part);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* A view of the bytes of any contiguous buffer, and how many there are. */
static PyObject *bytes_of(PyObject *data, PyObject **size)
{
    PyObject *view = PyMemoryView_FromObject(data);
    PyObject *bytes = view ? PyObject_CallMethod(view, "cast", "s", "B") : NULL;

    Py_XDECREF(view);
    *size = bytes ? PyLong_FromSsize_t(PySequence_Size(bytes)) : NULL;
    if (*size == NULL)
        Py_CLEAR(bytes);
    return bytes;
}

static PyObject *writer_write(StreamView *self, PyObject *data)
{
    Stream *stream = stream_of(self);
    PyObject *bytes, *size_object;
    uint64_t size, done = 0;
    int result;

    bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : NULL;
    if (bytes)
        size_object = PyLong_FromSsize_t(PyBytes_Size(bytes));
    else
        bytes = bytes_of(data, &size_object);
    if (bytes == NULL || size_object == NULL) {
        Py_XDECREF(bytes);
        return NULL;
    }
    result = take_size(stream, size_object, &size);
    while (result == 0 && done < size) {
        Buffer piece = chain_next(self->chain, stream, size - done);
        result = write_piece(self->chain->memory, piece, bytes, done);
        done += piece.size;
    }
    Py_DECREF(size_object);
    Py_DECREF(bytes);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *get_size(StreamView *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(stream_of(self)->size);
}

static PyObject *get_remaining(StreamView *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(stream_of(self)->remaining);
}

static PyObject *get_written(StreamView *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(stream_of(self)->size - stream_of(self)->remaining);
}

static void view_dealloc(StreamView *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    Py_XDECREF((PyObject *)self->chain);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)reader_read, METH_O,
     "read($self, size, /)\n--\n\n"
     "Copy the next `size` bytes; a guest chooses how many there are, so bound `size`.\n\n"
     "Raises:\n"
     "    RequestTooShort: fewer are left; nothing was taken."},
    {"spans", (PyCFunction)view_spans, METH_O,
     "spans($self, size, /)\n--\n\n"
     "Where the next `size` bytes are, as (address, bytes): for `GuestMemory.writev`.\n\n"
     "Raises:\n"
     "    RequestTooShort: fewer are left; nothing was taken."},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef writer_methods[] = {
    {"write", (PyCFunction)writer_write, METH_O,
     "write($self, data, /)\n--\n\n"
     "Write all bytes of `data` (C-contiguous) into the guest.\n\n"
     "Raises:\n"
     "    RequestTooShort: less room is left; nothing was written."},
    {"spans", (PyCFunction)view_spans, METH_O,
     "spans($self, size, /)\n--\n\n"
     "Where the next `size` bytes are, as (address, bytes): for `GuestMemory.readv`.\n\n"
     "They count as written from now on; whoever fills less says so to `Queue.add_used`.\n\n"
     "Raises:\n"
     "    RequestTooShort: less room is left; nothing was taken."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getters[] = {
    {"size", (getter)get_size, NULL, "All readable bytes of the chain.", NULL},
    {"remaining", (getter)get_remaining, NULL, "Readable bytes that were not taken yet.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef writer_getters[] = {
    {"size", (getter)get_size, NULL, "All writable bytes of the chain.", NULL},
    {"remaining", (getter)get_remaining, NULL, "Writable bytes that were not taken yet.", NULL},
    {"written", (getter)get_written, NULL,
     "Bytes written so far, spans included: what `Queue.add_used` wants.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc,
     (void *)"The readable bytes of a chain, from first to last.\n\n"
             "What it returns is a copy: the guest may change its memory at any time, so a device\n"
             "checks and uses the same copy. `spans` is for bulk data that is passed on unchecked."},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getters},
    {0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, (void *)"The writable bytes of a chain, from first to last."},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getters},
    {0, NULL},
};

PyType_Spec Reader_Spec = {
    .name = "virtio_devices.Reader",
    .basicsize = sizeof(StreamView),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = reader_slots,
};

PyType_Spec Writer_Spec = {
    .name = "virtio_devices.Writer",
    .basicsize = sizeof(StreamView),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = writer_slots,
};
