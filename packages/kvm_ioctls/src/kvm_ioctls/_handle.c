/*
 * Descriptors and their ioctls.
 *
 * Two things have to happen in one step here that Python would do in two, with a signal's handler or
 * another thread in between:
 *
 *   - The number is read and used.  A descriptor that is closed while a thread is in the kernel with
 *     it is closed for everybody at once, but its number is given back only when that thread is out:
 *     somebody else's file would get it, and the thread's request.
 *   - A request that has succeeded has an owner for what it made, or an entry for what it changed
 *     (`then`).  An exception that a handler raises would otherwise lose a descriptor, or memory that
 *     the kernel uses from now on.
 *
 * The GIL guards the handles; it is released in the system calls only.
 */
#define _GNU_SOURCE
#include "_handle.h"

#include <errno.h>
#include <linux/ioctl.h>
#include <linux/kcmp.h>
#include <structmember.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct handle {
    PyObject_HEAD
    int number; /* -1 when closed */
    int doomed; /* to be closed by the last user, or -1 */
    int users;  /* threads that are in the kernel with it */
};

static PyTypeObject *handle_type;

static PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *self = PyType_GenericNew(type, args, kwargs);

    if (self != NULL)
        ((struct handle *)self)->number = ((struct handle *)self)->doomed = -1;
    return self;
}

static int handle_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct handle *self = (struct handle *)object;

    (void)kwargs;
    if (self->number >= 0) {
        PyErr_SetString(PyExc_TypeError, "a handle is made once");
        return -1;
    }
    return PyArg_ParseTuple(args, "i", &self->number) ? 0 : -1;
}

static int close_number(int number)
{
    int result;

    Py_BEGIN_ALLOW_THREADS
    result = close(number);
    Py_END_ALLOW_THREADS
    return result;
}

/* Nobody is left to use it.  It is open still where its owner was forgotten, or a handler raised. */
static void handle_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    if (((struct handle *)object)->number >= 0)
        close_number(((struct handle *)object)->number);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *handle_close(PyObject *object, PyObject *unused)
{
    struct handle *self = (struct handle *)object;
    int number = self->number;

    (void)unused;
    self->number = -1;
    if (number < 0)
        Py_RETURN_FALSE;
    if (self->users > 0)
        self->doomed = number;
    else if (close_number(number) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_TRUE;
}

static PyMethodDef handle_methods[] = {
    {"_close", handle_close, METH_NOARGS, "Closes it; False when it was closed before."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef handle_members[] = {
    {"number", T_INT, offsetof(struct handle, number), READONLY, "The number, -1 when closed."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "The number of an open file."},
    {Py_tp_new, handle_new},
    {Py_tp_init, handle_init},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, handle_methods},
    {Py_tp_members, handle_members},
    {0, NULL},
};

static PyType_Spec handle_spec = {"kvm_ioctls._run.Handle", sizeof(struct handle), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, handle_slots};

int handle_add_type(PyObject *module)
{
    handle_type = (PyTypeObject *)PyType_FromSpec(&handle_spec);
    return handle_type == NULL ? -1 : PyModule_AddType(module, handle_type);
}

/* ---------------------------------------------------------------------------------------- ioctl */

/* The system call; its result, or -errno. */
static long call(struct handle *handle, unsigned long request, unsigned long argument)
{
    int number = handle->number;
    long result;

    handle->users++;
    Py_BEGIN_ALLOW_THREADS
    result = ioctl(number, request, argument);
    if (result < 0)
        result = -errno;
    Py_END_ALLOW_THREADS
    if (--handle->users == 0 && handle->doomed >= 0) {
        number = handle->doomed;
        handle->doomed = -1;
        close_number(number);
    }
    return result;
}

/*
 * What becomes true with the request's success: a handle has the descriptor that was made, or a
 * dictionary the new value, None for none: (dictionary, key, value).
 */
static int take_effect(PyObject *then, long result)
{
    PyObject *entries, *key, *value;

    if (PyObject_TypeCheck(then, handle_type)) {
        ((struct handle *)then)->number = (int)result;
        return 0;
    }
    if (!PyArg_ParseTuple(then, "O!OO", &PyDict_Type, &entries, &key, &value))
        return -1;
    if (value != Py_None) {
        if (PyDict_SetItem(entries, key, value) == 0)
            return 0;
        Py_INCREF(value); /* the kernel has it, and we no place for it: it stays for ever */
        return -1;
    }
    if (PyDict_DelItem(entries, key) < 0)
        PyErr_Clear(); /* there was none */
    return 0;
}

static PyObject *finish(long result, PyObject *then)
{
    if (result >= 0 && then != NULL && take_effect(then, result) < 0)
        return NULL;
    return PyLong_FromLong(result);
}

static PyObject *call_with_buffer(struct handle *handle, unsigned long request, PyObject *argument,
                                  PyObject *then)
{
    Py_buffer buffer;

    /* The number says who writes, too: where the kernel answers, the memory is not a constant's. */
    int flags = _IOC_DIR(request) & _IOC_READ ? PyBUF_WRITABLE : PyBUF_SIMPLE;

    if (PyObject_GetBuffer(argument, &buffer, flags) < 0)
        return NULL;
    /* The number says how much the kernel reads or writes, at least. */
    if ((size_t)buffer.len < _IOC_SIZE(request)) {
        PyErr_Format(PyExc_ValueError, "this request takes %d bytes, not %zd",
                     (int)_IOC_SIZE(request), buffer.len);
        PyBuffer_Release(&buffer);
        return NULL;
    }
    long result = call(handle, request, (unsigned long)buffer.buf);
    PyObject *answer = finish(result, then);
    PyBuffer_Release(&buffer);
    return answer;
}

PyObject *handle_ioctl(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count < 3 || count > 4 || !PyObject_TypeCheck(args[0], handle_type)) {
        PyErr_SetString(PyExc_TypeError, "ioctl() takes a handle, a request, an argument");
        return NULL;
    }
    struct handle *handle = (struct handle *)args[0];
    PyObject *then = count == 4 ? args[3] : NULL;
    unsigned long request = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (handle->number < 0)
        return PyObject_CallMethod(args[0], "fileno", NULL); /* raises KvmClosedError */
    if (!PyLong_Check(args[2]))
        return call_with_buffer(handle, request, args[2], then);
    unsigned long value = PyLong_AsUnsignedLong(args[2]);
    return PyErr_Occurred() ? NULL : finish(call(handle, request, value), then);
}

PyObject *handle_same_file(PyObject *module, PyObject *args)
{
    int first, second;

    (void)module;
    if (!PyArg_ParseTuple(args, "ii", &first, &second))
        return NULL;
    pid_t self = getpid();
    long result = syscall(SYS_kcmp, self, self, KCMP_FILE, (long)first, (long)second);
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyBool_FromLong(result == 0);
}
