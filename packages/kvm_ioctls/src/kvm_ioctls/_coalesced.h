/* The ring of writes to coalesced zones, as Python objects. */
#ifndef KVM_IOCTLS_COALESCED_H
#define KVM_IOCTLS_COALESCED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* drain_coalesced(page, kind, address): a list of what the ring in `page` has, oldest first. */
PyObject *coalesced_drain(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
