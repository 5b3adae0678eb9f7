/*
 * The module kvm_ioctls._run: running a vCPU from Python, and system calls (_handle.c).
 *
 * `Runner` is the base of VcpuFd.  KVM_RUN, and what registered zones retire, happens with the GIL
 * released; the runner keeps the page and the zones' memory alive, and neither changes while a thread
 * has the vCPU (_runner.c).
 */
#include "_coalesced.h"
#include "_exits.h"
#include "_handle.h"
#include "_runner.h"

#include <errno.h>

/* The zones of a runner, and the buffers that are their memory. */
struct held_zones {
    struct kvm_zone *zones;
    Py_buffer *memory; /* obj is NULL where there is none */
    Py_ssize_t count;
};

struct runner_object {
    PyObject_HEAD
    struct kvm_runner runner;
    struct run_page *page;
    struct held_zones held; /* the zones are the runner's */
};

static PyTypeObject *page_type;
static PyObject *without_exit_name, *raw_name;

static void release_zones(struct held_zones *held)
{
    for (Py_ssize_t n = 0; held->memory != NULL && n < held->count; n++)
        if (held->memory[n].obj != NULL)
            PyBuffer_Release(&held->memory[n]);
    PyMem_Free(held->memory);
    PyMem_Free(held->zones);
    *held = (struct held_zones){0};
}

static int runner_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct runner_object *self = (struct runner_object *)object;
    PyObject *page;
    int fd;

    (void)kwargs;
    if (self->page != NULL) {
        PyErr_SetString(PyExc_TypeError, "a runner is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "iO", &fd, &page))
        return -1;
    if (!PyObject_TypeCheck(page, page_type) || ((struct run_page *)page)->buffer.buf == NULL) {
        PyErr_SetString(PyExc_TypeError, "a runner needs a run page");
        return -1;
    }
    Py_INCREF(page);
    self->page = (struct run_page *)page;
    self->page->in_use = 1;
    kvm_runner_open(&self->runner, fd, self->page->buffer.buf, (uint64_t)self->page->buffer.len);
    return 0;
}

static void runner_dealloc(PyObject *object)
{
    struct runner_object *self = (struct runner_object *)object;
    PyTypeObject *type = Py_TYPE(object);

    release_zones(&self->held);
    Py_XDECREF((PyObject *)self->page);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* Runs the vCPU, which the thread has entered; KVM's result, or 1 with an exception. */
static int run_until_exit(struct kvm_runner *runner)
{
    for (;;) {
        int result;
        Py_BEGIN_ALLOW_THREADS
        result = kvm_runner_run(runner);
        Py_END_ALLOW_THREADS
        if (result != -EAGAIN)
            return result;
        if (PyErr_CheckSignals() < 0)
            return 1;
    }
}

/* What VcpuFd makes of a result that is no exit. */
static PyObject *without_exit(PyObject *object, int result)
{
    PyObject *code = PyLong_FromLong(result);
    if (code == NULL)
        return NULL;
    PyObject *exit = PyObject_CallMethodObjArgs(object, without_exit_name, code, NULL);
    Py_DECREF(code);
    return exit;
}

static PyObject *runner_run(PyObject *object, PyObject *unused)
{
    struct runner_object *self = (struct runner_object *)object;
    int result = self->page == NULL ? KVM_RUNNER_CLOSED : kvm_runner_enter(&self->runner);

    (void)unused;
    if (result != 0)
        return without_exit(object, result);
    page_expire(self->page);
    result = run_until_exit(&self->runner);
    if (result == -EINTR) { /* the page says nothing, and the signal's handler may want the vCPU */
        kvm_runner_leave(&self->runner);
        return without_exit(object, result);
    }
    PyObject *exit = NULL;
    if (result <= 0)
        exit = result == 0 ? page_decode(self->page) : without_exit(object, result);
    kvm_runner_leave(&self->runner);
    return exit;
}

static PyObject *runner_kick(PyObject *object, PyObject *unused)
{
    struct runner_object *self = (struct runner_object *)object;

    (void)unused;
    return PyLong_FromLong(self->page == NULL ? KVM_RUNNER_CLOSED : kvm_runner_kick(&self->runner));
}

static PyObject *runner_close(PyObject *object, PyObject *unused)
{
    struct runner_object *self = (struct runner_object *)object;
    int result = self->page == NULL ? 0 : kvm_runner_close(&self->runner);

    (void)unused;
    if (result == 0 && self->page != NULL) {
        struct held_zones held = self->held;
        self->held = (struct held_zones){0};
        self->page->in_use = 0;
        release_zones(&held);
    }
    return PyLong_FromLong(result);
}

static PyObject *runner_set_mask(PyObject *object, PyObject *bits)
{
    struct kvm_signal_set mask = {0};

    if (bits != Py_None) {
        mask.bits = PyLong_AsUnsignedLongLong(bits);
        mask.given = 1;
        if (PyErr_Occurred())
            return NULL;
    }
    kvm_runner_set_mask(&((struct runner_object *)object)->runner, mask);
    Py_RETURN_NONE;
}

/* Whether what the zone's memory is for fits into it. */
static int has_room(const struct kvm_zone *zone, size_t length)
{
    if (zone->kind == KVM_ZONE_MEMORY)
        return length > 0 && length - 1 == zone->last - zone->first;
    if (zone->kind == KVM_ZONE_LOG)
        return zone->capacity > 0 && length >= sizeof(struct kvm_zone_log)
               && length - sizeof(struct kvm_zone_log) >= zone->capacity
               && (uintptr_t)zone->memory % _Alignof(struct kvm_zone_log) == 0;
    return 1;
}

/* Reads one (kind, pio, first, last, capacity, memory) into `zone`, whose memory is borrowed. */
static int read_zone(PyObject *tuple, struct kvm_zone *zone, Py_buffer *memory)
{
    PyObject *first, *last, *object;

    if (!PyArg_ParseTuple(tuple, "bpOOIO", &zone->kind, &zone->pio, &first, &last, &zone->capacity,
                          &object))
        return -1;
    zone->first = PyLong_AsUnsignedLongLong(first);
    zone->last = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(last);
    if (PyErr_Occurred())
        return -1;
    if (object != Py_None && PyObject_GetBuffer(object, memory, PyBUF_WRITABLE) < 0) {
        memory->obj = NULL;
        return -1;
    }
    zone->memory = memory->buf;
    if (zone->kind > KVM_ZONE_LOG || zone->last < zone->first
        || !has_room(zone, (size_t)memory->len)) {
        PyErr_SetString(PyExc_ValueError, "a zone's memory has not the zone's size");
        return -1;
    }
    return 0;
}

static int read_zones(PyObject *list, struct held_zones *new)
{
    Py_ssize_t count = PyList_Size(list);

    new->zones = PyMem_Calloc((size_t)count + 1, sizeof *new->zones);
    new->memory = PyMem_Calloc((size_t)count + 1, sizeof *new->memory);
    if (new->zones == NULL || new->memory == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    /* What is in the list may change it: a buffer is asked of somebody's object. */
    for (; new->count < count && new->count < PyList_Size(list); new->count++) {
        PyObject *tuple = PyList_GetItem(list, new->count);
        Py_INCREF(tuple);
        int result = read_zone(tuple, &new->zones[new->count], &new->memory[new->count]);
        Py_DECREF(tuple);
        if (result < 0) {
            new->count++; /* its buffer, if there is one, is released with the others */
            return -1;
        }
    }
    return 0;
}

/* The runner's zones and their memory change together: nothing here lets another thread in between. */
static PyObject *runner_set_zones(PyObject *object, PyObject *list)
{
    struct runner_object *self = (struct runner_object *)object;
    struct held_zones new = {0}, unused = {0};

    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "zones come in a list");
        return NULL;
    }
    if (read_zones(list, &new) < 0) {
        release_zones(&new);
        return NULL;
    }
    struct kvm_zone *zones = new.zones;
    int result = self->page == NULL
                     ? KVM_RUNNER_CLOSED
                     : kvm_runner_set_zones(&self->runner, &zones, (unsigned)new.count);
    if (result == 0) {
        unused = self->held;
        self->held = new;
    } else {
        unused = new;
    }
    release_zones(&unused);
    return PyLong_FromLong(result);
}

static const char run_doc[] =
    "run($self, /)\n--\n\n"
    "KVM_RUN: runs the guest until it needs us; other Python threads run meanwhile.\n\n"
    "What zones retire (`set_zones()`) does not count.  When KVM asks to be called again (EAGAIN,\n"
    "an application processor that was woken), it is.\n\n"
    "Returns:\n"
    "    The exit; its views are valid until the next call.  A signal or a kick gives\n"
    "    `Interrupted`, and clears `immediate_exit`.\n\n"
    "Raises:\n"
    "    KvmError: KVM_RUN failed; the guest's memory is gone (EFAULT), for instance.\n"
    "    VcpuBusyError: another thread is inside this call.\n"
    "    KvmClosedError: the vCPU is closed.\n";

static PyMethodDef runner_methods[] = {
    {"run", runner_run, METH_NOARGS, run_doc},
    {"_kick", runner_kick, METH_NOARGS, "Ends the current run or the next one."},
    {"_close", runner_close, METH_NOARGS, "Forbids further runs; KVM_RUNNER_BUSY during one."},
    {"_set_mask", runner_set_mask, METH_O, "Which signals wait while the guest runs, or None."},
    {"_set_zones", runner_set_zones, METH_O, "Replaces the zones."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot runner_slots[] = {
    {Py_tp_doc, "What runs a vCPU."},
    {Py_tp_init, runner_init},
    {Py_tp_dealloc, runner_dealloc},
    {Py_tp_methods, runner_methods},
    {0, NULL},
};

static PyType_Spec runner_spec = {"kvm_ioctls._run.Runner", sizeof(struct runner_object), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, runner_slots};

/* blank(kind, size): what kind() is, a structure over `size` zero bytes of its own. */
static PyObject *blank(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 2 || !PyType_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "blank() takes a class and a size");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)args[0], Py_tp_alloc);
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    PyObject *bytes = PyErr_Occurred() ? NULL : PyByteArray_FromStringAndSize(NULL, size);
    if (bytes == NULL)
        return NULL;
    memset(PyByteArray_AsString(bytes), 0, (size_t)size);
    PyObject *raw = PyMemoryView_FromObject(bytes);
    PyObject *made = raw == NULL ? NULL : allocate((PyTypeObject *)args[0], 0);
    if (made != NULL && PyObject_SetAttr(made, raw_name, raw) < 0)
        Py_CLEAR(made);
    Py_XDECREF(raw);
    Py_DECREF(bytes);
    return made;
}

static PyObject *kick_signal(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(kvm_kick_signal());
}

static PyMethodDef functions[] = {
    {"ioctl", (PyCFunction)(void (*)(void))handle_ioctl, METH_FASTCALL,
     "ioctl(2) with a number or a buffer; -errno if it failed."},
    {"same_file", handle_same_file, METH_VARARGS, "Whether two descriptors are of one open file."},
    {"blank", (PyCFunction)(void (*)(void))blank, METH_FASTCALL,
     "A structure of zero bytes, as its class makes one, but quicker."},
    {"drain_coalesced", (PyCFunction)(void (*)(void))coalesced_drain, METH_FASTCALL,
     "The writes in a coalesced ring, which is empty then."},
    {"kick_signal", kick_signal, METH_NOARGS, "The signal that kicks vCPU threads, or -errno."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "kvm_ioctls._run", "Running a vCPU.", -1, functions, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__run(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    without_exit_name = PyUnicode_InternFromString("_without_exit");
    raw_name = PyUnicode_InternFromString("raw");
    page_type = exits_add_types(module);
    PyTypeObject *runner_type = (PyTypeObject *)PyType_FromSpec(&runner_spec);
    if (without_exit_name == NULL || raw_name == NULL || page_type == NULL || runner_type == NULL
        || handle_add_type(module) < 0 || PyModule_AddType(module, runner_type) < 0
        || PyModule_AddIntConstant(module, "CLOSED", KVM_RUNNER_CLOSED) < 0
        || PyModule_AddIntConstant(module, "BUSY", KVM_RUNNER_BUSY) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
