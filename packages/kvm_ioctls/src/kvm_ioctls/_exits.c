/*
 * Exits and the run page: what happens after every KVM_RUN, so it is in C.
 *
 * A page lends out views of itself with its exits.  The next run takes them back: an exit that
 * somebody still holds loses its view, and a view that somebody still holds is released, so that
 * using either is a ValueError.  What nobody else holds is used again: that is why a loop that looks
 * at each exit and lets go of it allocates nothing.
 *
 * All of this runs with the GIL held.
 */
#include "_exits.h"

static PyTypeObject *io_type, *mmio_type;

static void free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *allocate(PyTypeObject *type)
{
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

/* --------------------------------------------------------------------------------- exit objects */

static void exit_dealloc(PyObject *self)
{
    Py_CLEAR(((struct exit_head *)self)->data);
    free_object(self);
}

static int io_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"port", "size", "count", "data", NULL};
    struct io_exit *self = (struct io_exit *)object;
    PyObject *data;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "HBIO", names, &self->port, &self->size,
                                     &self->count, &data))
        return -1;
    Py_INCREF(data);
    replace(&self->head.data, data);
    return 0;
}

static int mmio_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"address", "data", NULL};
    struct mmio_exit *self = (struct mmio_exit *)object;
    PyObject *data;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KO", names, &self->address, &data))
        return -1;
    Py_INCREF(data);
    replace(&self->head.data, data);
    return 0;
}

static PyObject *exit_data(PyObject *self, void *unused)
{
    PyObject *data = ((struct exit_head *)self)->data;

    (void)unused;
    if (data == NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "the exit is over: its data were valid until the next run()");
        return NULL;
    }
    Py_INCREF(data);
    return data;
}

static PyGetSetDef exit_properties[] = {
    {"data", exit_data, NULL, "A view of the run page, until the next run().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef io_members[] = {
    {"port", T_USHORT, offsetof(struct io_exit, port), READONLY, "The port."},
    {"size", T_UBYTE, offsetof(struct io_exit, size), READONLY, "Bytes of each element."},
    {"count", T_UINT, offsetof(struct io_exit, count), READONLY, "How many elements."},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef mmio_members[] = {
    {"address", T_ULONGLONG, offsetof(struct mmio_exit, address), READONLY,
     "The guest physical address."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot io_slots[] = {
    {Py_tp_doc, "An access to an I/O port."},
    {Py_tp_init, io_init},
    {Py_tp_dealloc, exit_dealloc},
    {Py_tp_members, io_members},
    {Py_tp_getset, exit_properties},
    {0, NULL},
};

static PyType_Slot mmio_slots[] = {
    {Py_tp_doc, "An access to memory that is not there."},
    {Py_tp_init, mmio_init},
    {Py_tp_dealloc, exit_dealloc},
    {Py_tp_members, mmio_members},
    {Py_tp_getset, exit_properties},
    {0, NULL},
};

static PyType_Spec io_spec = {"kvm_ioctls._run.IoExit", sizeof(struct io_exit), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, io_slots};
static PyType_Spec mmio_spec = {"kvm_ioctls._run.MmioExit", sizeof(struct mmio_exit), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, mmio_slots};

/* -------------------------------------------------------------------------------------- lending */

static PyObject *release_name, *rare_name;

/* Makes a view useless to whoever holds it; one that C code is reading from stays as it is. */
static void release_view(PyObject *view)
{
    PyObject *done = PyObject_CallMethodObjArgs(view, release_name, NULL);
    if (done == NULL)
        PyErr_Clear();
    Py_XDECREF(done);
}

static int is_ours_alone(PyObject *object)
{
#ifdef Py_GIL_DISABLED
    (void)object;
    return 0; /* another thread may be taking a reference right now */
#else
    return Py_REFCNT(object) == 1;
#endif
}

void page_expire(struct run_page *self)
{
    struct exit_head *exit = self->exits[self->last];

    if (self->lent != NULL) {
        PyObject *lent = self->lent;
        self->lent = NULL;
        release_view(lent);
        Py_DECREF(lent);
    }
    if (exit == NULL || exit->data == NULL)
        return;
    if (!is_ours_alone(exit->data)) {
        release_view(exit->data);
        replace(&exit->data, NULL);
    }
    if (!is_ours_alone((PyObject *)exit)) {
        /* Whoever holds it keeps what it says, without the view; that is for the next one. */
        replace(&self->spare, exit->data);
        self->spare_offset = exit->offset;
        self->spare_length = exit->length;
        exit->data = NULL;
        self->exits[self->last] = NULL;
        Py_DECREF((PyObject *)exit);
    }
}

/* Gives `exit` a view of `length` bytes at `offset`. */
static int lend_view(struct run_page *self, struct exit_head *exit, uint64_t offset, uint64_t length)
{
    if (exit->data != NULL && exit->offset == offset && exit->length == length)
        return 0;
    PyObject *view = self->spare;
    if (view != NULL && self->spare_offset == offset && self->spare_length == length)
        self->spare = NULL;
    else
        view = PySequence_GetSlice(self->raw, (Py_ssize_t)offset, (Py_ssize_t)(offset + length));
    if (view == NULL)
        return -1;
    replace(&exit->data, view);
    exit->offset = offset;
    exit->length = length;
    return 0;
}

/* The exit object of this kind, with a view of `length` bytes at `offset`. */
static struct exit_head *lend_exit(struct run_page *self, int kind, uint64_t offset, uint64_t length)
{
    struct exit_head *exit = self->exits[kind];

    /* A page that makes no sense is still an exit: with nothing in it. */
    if (offset > (uint64_t)self->buffer.len || length > (uint64_t)self->buffer.len - offset)
        offset = length = 0;
    self->last = kind;
    if (exit == NULL) {
        exit = (struct exit_head *)allocate((PyTypeObject *)self->types[kind]);
        if (exit == NULL)
            return NULL;
        self->exits[kind] = exit;
    }
    if (lend_view(self, exit, offset, length) < 0)
        return NULL;
    Py_INCREF((PyObject *)exit);
    return exit;
}

static PyObject *decode_io(struct run_page *self, const struct kvm_run *run)
{
    int kind = run->io.direction == KVM_EXIT_IO_OUT ? IO_OUT : IO_IN;
    struct io_exit *exit = (struct io_exit *)lend_exit(
        self, kind, run->io.data_offset, (uint64_t)run->io.size * run->io.count);

    if (exit != NULL) {
        exit->port = run->io.port;
        exit->size = run->io.size;
        exit->count = run->io.count;
    }
    return (PyObject *)exit;
}

static PyObject *decode_mmio(struct run_page *self, const struct kvm_run *run)
{
    int kind = run->mmio.is_write ? MMIO_WRITE : MMIO_READ;
    uint32_t length = run->mmio.len <= sizeof run->mmio.data ? run->mmio.len : 0;
    struct mmio_exit *exit = (struct mmio_exit *)lend_exit(
        self, kind, offsetof(struct kvm_run, mmio.data), length);

    if (exit != NULL)
        exit->address = run->mmio.phys_addr;
    return (PyObject *)exit;
}

PyObject *page_decode(struct run_page *self)
{
    const struct kvm_run *run = self->buffer.buf;

    if (run == NULL) {
        PyErr_SetString(PyExc_ValueError, "the run page is released");
        return NULL;
    }
    if (run->exit_reason == KVM_EXIT_IO)
        return decode_io(self, run);
    if (run->exit_reason == KVM_EXIT_MMIO)
        return decode_mmio(self, run);
    return PyObject_CallMethodObjArgs((PyObject *)self, rare_name, NULL);
}

/* -------------------------------------------------------------------------------- the page's type */

static int page_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct run_page *self = (struct run_page *)object;
    PyObject *raw, **types = self->types;

    (void)kwargs;
    if (self->raw != NULL) {
        PyErr_SetString(PyExc_TypeError, "a run page is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOOO", &raw, &types[0], &types[1], &types[2], &types[3]))
        return -1;
    for (int kind = 0; kind < EXIT_KINDS; kind++) {
        PyTypeObject *base = kind <= IO_OUT ? io_type : mmio_type;
        if (!PyType_Check(types[kind]) || !PyType_IsSubtype((PyTypeObject *)types[kind], base)) {
            memset(types, 0, sizeof self->types);
            PyErr_SetString(PyExc_TypeError, "the exits of a run page derive from IoExit, MmioExit");
            return -1;
        }
    }
    for (int kind = 0; kind < EXIT_KINDS; kind++)
        Py_INCREF(types[kind]);
    if (PyObject_GetBuffer(raw, &self->buffer, PyBUF_WRITABLE) < 0)
        return -1;
    if (self->buffer.len < (Py_ssize_t)sizeof(struct kvm_run)) {
        PyBuffer_Release(&self->buffer);
        PyErr_SetString(PyExc_ValueError, "a run page is at least as long as struct kvm_run");
        return -1;
    }
    Py_INCREF(raw);
    self->raw = raw;
    return 0;
}

static void page_free(struct run_page *self)
{
    Py_CLEAR(self->lent);
    Py_CLEAR(self->spare);
    for (int kind = 0; kind < EXIT_KINDS; kind++)
        replace((PyObject **)&self->exits[kind], NULL);
    if (self->buffer.buf != NULL)
        PyBuffer_Release(&self->buffer);
    self->buffer.buf = NULL;
}

static void page_dealloc(PyObject *object)
{
    struct run_page *self = (struct run_page *)object;

    page_free(self);
    Py_CLEAR(self->raw);
    for (int kind = 0; kind < EXIT_KINDS; kind++)
        Py_CLEAR(self->types[kind]);
    free_object(object);
}

static PyObject *page_decode_method(PyObject *self, PyObject *unused)
{
    (void)unused;
    page_expire((struct run_page *)self);
    return page_decode((struct run_page *)self);
}

static PyObject *page_expire_method(PyObject *self, PyObject *unused)
{
    (void)unused;
    page_expire((struct run_page *)self);
    Py_RETURN_NONE;
}

static PyObject *page_lend(PyObject *object, PyObject *args)
{
    struct run_page *self = (struct run_page *)object;
    Py_ssize_t start, end;

    if (!PyArg_ParseTuple(args, "nn", &start, &end))
        return NULL;
    PyObject *view = PySequence_GetSlice(self->raw, start, end);
    if (view != NULL) {
        Py_INCREF(view);
        replace(&self->lent, view);
    }
    return view;
}

static PyObject *page_release(PyObject *object, PyObject *unused)
{
    struct run_page *self = (struct run_page *)object;

    (void)unused;
    if (self->in_use) {
        PyErr_SetString(PyExc_ValueError, "the run page is a vCPU's: it goes when that is closed");
        return NULL;
    }
    page_expire(self);
    page_free(self);
    Py_RETURN_NONE;
}

static PyMethodDef page_methods[] = {
    {"decode", page_decode_method, METH_NOARGS,
     "decode($self, /)\n--\n\nThe exit that the page tells of; takes back the one before."},
    {"_expire", page_expire_method, METH_NOARGS, "Takes back what was lent."},
    {"_lend", page_lend, METH_VARARGS, "A view of bytes `start` to `end` until the next exit."},
    {"_free", page_release, METH_NOARGS, "Lets go of the buffer."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef page_members[] = {
    {"raw", T_OBJECT_EX, offsetof(struct run_page, raw), READONLY, "The page's bytes, writable."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot page_slots[] = {
    {Py_tp_doc, "The run page: decodes the frequent exits."},
    {Py_tp_init, page_init},
    {Py_tp_dealloc, page_dealloc},
    {Py_tp_methods, page_methods},
    {Py_tp_members, page_members},
    {0, NULL},
};

static PyType_Spec page_spec = {"kvm_ioctls._run.Page", sizeof(struct run_page), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, page_slots};

PyTypeObject *exits_add_types(PyObject *module)
{
    release_name = PyUnicode_InternFromString("release");
    rare_name = PyUnicode_InternFromString("_rare");
    io_type = (PyTypeObject *)PyType_FromSpec(&io_spec);
    mmio_type = (PyTypeObject *)PyType_FromSpec(&mmio_spec);
    PyTypeObject *page_type = (PyTypeObject *)PyType_FromSpec(&page_spec);
    if (release_name == NULL || rare_name == NULL || io_type == NULL || mmio_type == NULL
        || page_type == NULL || PyModule_AddType(module, io_type) < 0
        || PyModule_AddType(module, mmio_type) < 0 || PyModule_AddType(module, page_type) < 0)
        return NULL;
    return page_type;
}
