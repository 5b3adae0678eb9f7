/* A file descriptor with an owner, and ioctl(2) on it, as Python has them. */
#ifndef KVM_IOCTLS_HANDLE_H
#define KVM_IOCTLS_HANDLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* ioctl(handle, request, argument[, then]): the result, or -errno. */
PyObject *handle_ioctl(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* same_file(number, number): whether both are descriptors of one open file. */
PyObject *handle_same_file(PyObject *module, PyObject *args);

/* Adds the type Handle; -1 with an exception. */
int handle_add_type(PyObject *module);

#endif
