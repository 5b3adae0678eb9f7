/* The exceptions of vm_memory.errors, looked up when they are needed: never on a good path. */
#include "core.h"

PyObject *raise_access_error(const char *name, PyObject *first, PyObject *second, PyObject *third)
{
    PyObject *module = PyImport_ImportModule("vm_memory.errors");
    PyObject *type, *error;

    if (module == NULL)
        return NULL;
    type = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (type == NULL)
        return NULL;
    error = PyObject_CallFunctionObjArgs(type, first, second, third, NULL);
    if (error)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_DECREF(type);
    return NULL;
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
