/* The exceptions of virtio_devices.errors, looked up when they are needed: never on a good path. */
#include "core.h"

#include <stdarg.h>

PyObject *raise_error(const char *name, const char *arguments, ...)
{
    PyObject *module = PyImport_ImportModule("virtio_devices.errors");
    PyObject *type = module ? PyObject_GetAttrString(module, name) : NULL;
    PyObject *values = NULL, *error = NULL;
    va_list list;

    va_start(list, arguments);
    if (type)
        values = Py_VaBuildValue(arguments, list);
    va_end(list);
    if (values)
        error = PyObject_CallObject(type, values);
    if (error)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_XDECREF(values);
    Py_XDECREF(type);
    Py_XDECREF(module);
    return NULL;
}
