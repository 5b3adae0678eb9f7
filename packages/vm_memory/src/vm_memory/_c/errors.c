/* The exceptions of vm_memory.errors, looked up when they are needed: never on a good path. */
#include "core.h"

#include <errno.h>

static PyObject *type_of(const char *name)
{
    PyObject *module = PyImport_ImportModule("vm_memory.errors");
    PyObject *type = module ? PyObject_GetAttrString(module, name) : NULL;

    Py_XDECREF(module);
    return type;
}

/* Steals both; `error` may be NULL, with another exception set. */
static PyObject *raise(PyObject *type, PyObject *error)
{
    if (error)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_XDECREF(type);
    return NULL;
}

PyObject *raise_access_error(const char *name, PyObject *address, PyObject *size,
                             PyObject *completed)
{
    /* What only has an __index__ is no number to print. */
    PyObject *first = PyNumber_Index(address), *second = PyNumber_Index(size);
    PyObject *type = first && second ? type_of(name) : NULL;

    if (type)
        raise(type, PyObject_CallFunctionObjArgs(type, first, second, completed, NULL));
    Py_XDECREF(first);
    Py_XDECREF(second);
    return NULL;
}

PyObject *raise_host_fault(uint64_t address, uint64_t size)
{
    PyObject *type = type_of("HostMemoryFault");

    return raise(type, type ? PyObject_CallFunction(type, "KKis", (unsigned long long)address,
                                                    (unsigned long long)size, EFAULT,
                                                    "was its file truncated?")
                            : NULL);
}

PyObject *raise_unreachable(Region *region)
{
    PyObject *start, *size;

    if (region->closed)
        return PyErr_Format(PyExc_ValueError, "%R is closed", region);
    start = PyLong_FromUnsignedLongLong(region->start);
    size = PyLong_FromUnsignedLongLong(region->size);
    if (start && size)
        raise_access_error("HostAddressNotAvailable", start, size, NULL);
    Py_XDECREF(start);
    Py_XDECREF(size);
    return NULL;
}
