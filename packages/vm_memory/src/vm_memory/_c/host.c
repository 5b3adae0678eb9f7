/* What Python's mmap module cannot ask the host for.
 *
 * These take bare addresses, so they are for vm_memory.mapping alone, which calls them with
 * ranges inside a mapping that it holds.
 */
#include "core.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

PyDoc_STRVAR(address_of_doc,
"address_of($module, buffer, /)\n--\n\n"
"Address of the first byte; good for as long as the caller keeps the memory in place.");

static PyObject *address_of(PyObject *Py_UNUSED(module), PyObject *buffer)
{
    Py_buffer view;
    void *address;

    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    address = view.buf;
    PyBuffer_Release(&view);
    return PyLong_FromVoidPtr(address);
}

static PyObject *none_or_errno(int failed)
{
    if (failed)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forbid_doc,
"forbid($module, address, size, /)\n--\n\n"
"Make any access to the pages a SIGSEGV (mprotect(2), PROT_NONE).");

static PyObject *forbid(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long address, size;

    if (!PyArg_ParseTuple(args, "KK:forbid", &address, &size))
        return NULL;
    return none_or_errno(mprotect((void *)(uintptr_t)address, size, PROT_NONE));
}

PyDoc_STRVAR(place_doc,
"place($module, owner, address, size, flags, fd, offset, /)\n--\n\n"
"Put a file's pages over a range of the mapping `owner` (mmap(2), MAP_FIXED).");

/* 1: done; 0: refused, and nothing has changed; -1: refused, and the range may be unmapped. */
static int map_over(void *address, size_t size, int flags, int fd, off_t offset)
{
    int protection = PROT_READ | PROT_WRITE;
    void *trial = mmap(NULL, size, protection, flags, fd, offset);

    /* MAP_FIXED unmaps what was there before it finds a reason to fail, so look for one first. */
    if (trial == MAP_FAILED)
        return 0;
    if (munmap(trial, size) < 0)
        return 0;
    return mmap(address, size, protection, flags | MAP_FIXED, fd, offset) == MAP_FAILED ? -1 : 1;
}

static PyObject *place(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long address, size;
    int flags, fd, placed;
    long long offset;
    PyObject *owner;

    if (!PyArg_ParseTuple(args, "OKKiiL:place", &owner, &address, &size, &flags, &fd, &offset))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    placed = map_over((void *)(uintptr_t)address, size, flags, fd, offset);
    Py_END_ALLOW_THREADS
    if (placed < 0) /* somebody else may get the hole, so nobody may ever unmap it for us */
        Py_INCREF(owner);
    return none_or_errno(placed != 1);
}

PyDoc_STRVAR(huge_page_size_doc,
"huge_page_size($module, fd, /)\n--\n\n"
"Bytes of the pages of a file in hugetlbfs; 0 for any other file (fstatfs(2)).");

static PyObject *huge_page_size(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct statfs status;
    int fd;

    if (!PyArg_ParseTuple(args, "i:huge_page_size", &fd))
        return NULL;
    if (fstatfs(fd, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(status.f_type == HUGETLBFS_MAGIC ? (long)status.f_bsize : 0);
}

PyDoc_STRVAR(advise_doc,
"advise($module, address, size, advice, /)\n--\n\n"
"madvise(2) without the GIL: populating gigabytes takes a while.");

static PyObject *advise(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long address, size;
    int advice, failed;

    if (!PyArg_ParseTuple(args, "KKi:advise", &address, &size, &advice))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = madvise((void *)(uintptr_t)address, size, advice);
    Py_END_ALLOW_THREADS
    return none_or_errno(failed);
}

PyDoc_STRVAR(bind_doc,
"bind($module, address, size, mode, nodes, /)\n--\n\n"
"mbind(2): take the pages from the NUMA nodes whose bits are set in `nodes`.");

static PyObject *bind(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long address, size, nodes;
    unsigned long mask;
    int mode;

    if (!PyArg_ParseTuple(args, "KKiK:bind", &address, &size, &mode, &nodes))
        return NULL;
    mask = (unsigned long)nodes;
    /* The kernel reads one bit less than it is told of. */
    return none_or_errno(
        syscall(SYS_mbind, (uintptr_t)address, size, mode, &mask, 8 * sizeof mask + 1, 0) != 0);
}

PyMethodDef host_functions[] = {
    {"address_of", address_of, METH_O, address_of_doc},
    {"forbid", forbid, METH_VARARGS, forbid_doc},
    {"place", place, METH_VARARGS, place_doc},
    {"huge_page_size", huge_page_size, METH_VARARGS, huge_page_size_doc},
    {"advise", advise, METH_VARARGS, advise_doc},
    {"bind", bind, METH_VARARGS, bind_doc},
    {NULL, NULL, 0, NULL},
};
