/*
 * The module kvm_ioctls._run: system calls, and running a vCPU from Python.
 *
 * `Runner` is the base of VcpuFd.  KVM_RUN, and what registered zones retire, happens with the GIL
 * released; the runner keeps the page alive and VcpuFd the zones' memory, and kvm_runner_close()
 * refuses while a thread is inside.
 */
#include "_coalesced.h"
#include "_exits.h"
#include "_runner.h"

#include <errno.h>
#include <sys/ioctl.h>

struct runner_object {
    PyObject_HEAD
    struct kvm_runner runner;
    struct run_page *page;
};

static PyTypeObject *page_type;
static PyObject *without_exit_name, *raw_name;

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
    kvm_runner_open(&self->runner, fd, self->page->buffer.buf, (uint64_t)self->page->buffer.len);
    return 0;
}

static void runner_dealloc(PyObject *object)
{
    struct runner_object *self = (struct runner_object *)object;
    PyTypeObject *type = Py_TYPE(object);

    PyMem_Free(self->runner.zones);
    Py_XDECREF((PyObject *)self->page);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *runner_run(PyObject *object, PyObject *unused)
{
    struct runner_object *self = (struct runner_object *)object;
    int result = KVM_RUNNER_CLOSED;

    (void)unused;
    if (self->page != NULL) {
        page_expire(self->page);
        Py_BEGIN_ALLOW_THREADS
        result = kvm_runner_run(&self->runner);
        Py_END_ALLOW_THREADS
        if (result == 0)
            return page_decode(self->page);
    }
    PyObject *code = PyLong_FromLong(result);
    if (code == NULL)
        return NULL;
    PyObject *exit = PyObject_CallMethodObjArgs(object, without_exit_name, code, NULL);
    Py_DECREF(code);
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

    (void)unused;
    return PyLong_FromLong(self->page == NULL ? 0 : kvm_runner_close(&self->runner));
}

/* Reads one (kind, pio, first, size, capacity, memory) into `zone`. */
static int read_zone(PyObject *tuple, struct kvm_zone *zone)
{
    unsigned long long first, size, memory;
    unsigned int capacity;

    if (!PyArg_ParseTuple(tuple, "BpKKIK", &zone->kind, &zone->pio, &first, &size, &capacity,
                          &memory))
        return -1;
    zone->first = first;
    zone->size = size;
    zone->capacity = capacity;
    zone->memory = (uint8_t *)(uintptr_t)memory;
    return 0;
}

static PyObject *runner_set_zones(PyObject *object, PyObject *args)
{
    struct runner_object *self = (struct runner_object *)object;
    PyObject *list;

    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &list))
        return NULL;
    Py_ssize_t count = PyList_Size(list);
    struct kvm_zone *zones = PyMem_Calloc((size_t)count + 1, sizeof *zones);
    if (zones == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t n = 0; n < count; n++)
        if (read_zone(PyList_GetItem(list, n), &zones[n]) < 0) {
            PyMem_Free(zones);
            return NULL;
        }
    struct kvm_zone *former = zones;
    int result = kvm_runner_set_zones(&self->runner, &former, (unsigned)count);
    PyMem_Free(former); /* what is not in use: the old ones, or the new ones if refused */
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
    "    VcpuBusyError: another thread is inside this call.\n";

static PyMethodDef runner_methods[] = {
    {"run", runner_run, METH_NOARGS, run_doc},
    {"_kick", runner_kick, METH_NOARGS, "Ends the current run or the next one."},
    {"_close", runner_close, METH_NOARGS, "Forbids further runs; KVM_RUNNER_BUSY during one."},
    {"_set_zones", runner_set_zones, METH_VARARGS, "Replaces the zones."},
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

static PyObject *finish(long result, int code)
{
    return PyLong_FromLong(result < 0 ? -(long)code : result);
}

static PyObject *ioctl_value(int fd, unsigned long request, unsigned long value)
{
    long result;
    int code;

    Py_BEGIN_ALLOW_THREADS
    result = ioctl(fd, request, value);
    code = errno;
    Py_END_ALLOW_THREADS
    return finish(result, code);
}

static PyObject *ioctl_buffer(int fd, unsigned long request, PyObject *argument)
{
    Py_buffer buffer;
    long result;
    int code;

    if (PyObject_GetBuffer(argument, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    /* The number says how much the kernel reads or writes, at least. */
    if ((size_t)buffer.len < _IOC_SIZE(request)) {
        PyErr_Format(PyExc_ValueError, "this request takes %d bytes, not %zd",
                     (int)_IOC_SIZE(request), buffer.len);
        PyBuffer_Release(&buffer);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = ioctl(fd, request, buffer.buf);
    code = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    return finish(result, code);
}

static PyObject *system_call(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "ioctl() takes a descriptor, a request and an argument");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    unsigned long request = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyLong_Check(args[2]))
        return ioctl_buffer((int)fd, request, args[2]);
    unsigned long value = PyLong_AsUnsignedLong(args[2]);
    return PyErr_Occurred() ? NULL : ioctl_value((int)fd, request, value);
}

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
    {"ioctl", (PyCFunction)(void (*)(void))system_call, METH_FASTCALL,
     "ioctl(2) with a number or a buffer; -errno if it failed."},
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
        || PyModule_AddType(module, runner_type) < 0
        || PyModule_AddIntConstant(module, "CLOSED", KVM_RUNNER_CLOSED) < 0
        || PyModule_AddIntConstant(module, "BUSY", KVM_RUNNER_BUSY) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
