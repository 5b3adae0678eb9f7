/* The run page of a vCPU as a Python object, and the exits that it makes. */
#ifndef KVM_IOCTLS_EXITS_H
#define KVM_IOCTLS_EXITS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "_newer.h"

#include <stdint.h>
#include <string.h>

enum exit_kind { IO_IN, IO_OUT, MMIO_READ, MMIO_WRITE, EXIT_KINDS };

struct exit_head {
    PyObject_HEAD
    PyObject *data;  /* a view of the page: offset and length say of what */
    uint64_t offset;
    uint64_t length;
};

struct io_exit {
    struct exit_head head;
    uint32_t count;
    uint16_t port;
    uint8_t size;
};

struct mmio_exit {
    struct exit_head head;
    unsigned long long address;
};

struct run_page {
    PyObject_HEAD
    Py_buffer buffer;                     /* buf is NULL when released */
    PyObject *raw;                        /* a memoryview of the whole page */
    PyObject *lent;                       /* the view of an infrequent exit, or NULL */
    PyObject *spare;                      /* a view that nobody has, or NULL */
    uint64_t spare_offset;
    uint64_t spare_length;
    PyObject *types[EXIT_KINDS];
    struct exit_head *exits[EXIT_KINDS];  /* to be used again */
    int last;                             /* which of them was lent last */
    int in_use;                           /* a vCPU runs through it: it cannot be released */
};

/* Stores `value`, a new reference, in place of what was there; which goes last, for it may run code. */
static inline void replace(PyObject **place, PyObject *value)
{
    PyObject *former = *place;
    *place = value;
    Py_XDECREF(former);
}

/* Takes back what the last exit lent. */
void page_expire(struct run_page *self);

/* The exit that the page tells of; NULL with an exception. */
PyObject *page_decode(struct run_page *self);

/* The page's type, NULL with an exception. */
PyTypeObject *exits_add_types(PyObject *module);

#endif
