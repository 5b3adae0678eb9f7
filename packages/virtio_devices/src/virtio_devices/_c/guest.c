/* Guest memory by its region table (vm_memory.table, layout version 1).
 *
 * Assumed: `memory` is a vm_memory.GuestMemory; its regions do not change as long as it lives.
 * Checked: the version of the table; each range against its rows; that a region is open.
 */
#include "core.h"

enum { TABLE_VERSION = 1, HEADER_WORDS = 4, ROW_WORDS = 4 };

static int read_rows(Guest *guest, const uint64_t *words, Py_ssize_t size)
{
    if (size < HEADER_WORDS || words[0] != TABLE_VERSION) {
        PyErr_SetString(PyExc_ValueError, "the region table has a layout that is not known here");
        return -1;
    }
    guest->count = (Py_ssize_t)words[2];
    guest->page_shift = (unsigned)words[3];
    if (PyTuple_Size(guest->regions) != guest->count
        || size != HEADER_WORDS + ROW_WORDS * guest->count) {
        PyErr_SetString(PyExc_ValueError, "the region table does not fit its memory");
        return -1;
    }
    guest->rows = PyMem_Calloc((size_t)guest->count + 1, sizeof(Row));
    if (guest->rows == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < guest->count; i++) {
        const uint64_t *row = words + HEADER_WORDS + ROW_WORDS * i;
        guest->rows[i] = (Row){row[0], row[1], (unsigned char *)(uintptr_t)row[2],
                               (uint64_t *)(uintptr_t)row[3]};
    }
    guest->recent = guest->rows;
    return 0;
}

/* The listener to what is written, if there is one; -1 with another error than its absence. */
static int find_listener(Guest *guest, PyObject *memory)
{
    guest->wrote = PyObject_GetAttrString(memory, "wrote");
    if (guest->wrote == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

int guest_open(Guest *guest, PyObject *memory)
{
    PyObject *table = PyObject_GetAttrString(memory, "table");
    Py_buffer view;
    int result;

    guest->memory = Py_NewRef(memory);
    if (table && find_listener(guest, memory) < 0)
        Py_CLEAR(table);
    guest->regions = table ? PyObject_GetAttrString(memory, "regions") : NULL;
    if (guest->regions == NULL || PyObject_GetBuffer(table, &view, PyBUF_SIMPLE) < 0) {
        Py_XDECREF(table);
        return -1;
    }
    result = read_rows(guest, view.buf, view.len / (Py_ssize_t)sizeof(uint64_t));
    PyBuffer_Release(&view);
    Py_DECREF(table); /* and with it the borrow of the regions: see core.h */
    return result;
}

void guest_release(Guest *guest)
{
    PyMem_Free(guest->rows);
    Py_XDECREF(guest->wrote);
    Py_XDECREF(guest->regions);
    Py_XDECREF(guest->memory);
}

Row *guest_find(Guest *guest, uint64_t address)
{
    Py_ssize_t low = 0, high = guest->count;

    if (high && address - guest->recent->start < guest->recent->size)
        return guest->recent;
    while (low < high) { /* the first row that starts behind `address` is in [low, high] */
        Py_ssize_t middle = low + (high - low) / 2;
        if (guest->rows[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address - guest->rows[low - 1].start >= guest->rows[low - 1].size)
        return NULL;
    guest->recent = &guest->rows[low - 1];
    return guest->recent;
}

int guest_holds_anywhere(Guest *guest, uint64_t address, uint64_t size)
{
    while (size) {
        Row *row = guest_find(guest, address);
        uint64_t room;
        if (row == NULL || row->host == NULL)
            return 0;
        room = row->size - (address - row->start);
        if (size <= room)
            return 1;
        address += room;
        size -= room;
        if (address == 0) /* the end of the address space */
            return 0;
    }
    return 1;
}

int guest_check_open(Guest *guest, Row *row)
{
    PyObject *region, *closed;
    int result;

    if (row == guest->open)
        return 0;
    region = PyTuple_GetItem(guest->regions, row - guest->rows);
    closed = region ? PyObject_GetAttr(region, name_closed) : NULL;
    if (closed == NULL)
        return -1;
    result = closed == Py_False ? 0 : -1;
    Py_DECREF(closed);
    if (result == 0)
        guest->open = row;
    else
        PyErr_Format(PyExc_ValueError, "%R is closed", region);
    return result;
}

int guest_read(Guest *guest, uint64_t address, void *to, size_t size)
{
    unsigned char *bytes = to;

    while (size) {
        Row *row = guest_find(guest, address);
        uint64_t offset = address - row->start;
        size_t piece = row->size - offset < size ? (size_t)(row->size - offset) : size;
        if (guest_check_open(guest, row) < 0)
            return -1;
        memcpy(bytes, row->host + offset, piece);
        bytes += piece, address += piece, size -= piece;
    }
    __asm__ volatile("" ::: "memory"); /* the copy is what is used from here on */
    return 0;
}

int guest_write(Guest *guest, uint64_t address, const void *from, size_t size)
{
    const unsigned char *bytes = from;

    while (size) {
        Row *row = guest_find(guest, address);
        uint64_t offset = address - row->start;
        size_t piece = row->size - offset < size ? (size_t)(row->size - offset) : size;
        if (guest_check_open(guest, row) < 0)
            return -1;
        memcpy(row->host + offset, bytes, piece);
        bytes += piece, address += piece, size -= piece;
    }
    return 0;
}

static int tell(const Guest *guest, uint64_t address, uint64_t size)
{
    PyObject *result = PyObject_CallFunction(guest->wrote, "KK", (unsigned long long)address,
                                             (unsigned long long)size);

    Py_XDECREF(result);
    return result ? 0 : -1;
}

int guest_wrote(Guest *guest, uint64_t address, uint64_t size)
{
    uint64_t first = address, left = size;

    while (left) {
        Row *row = guest_find(guest, first);
        uint64_t offset = first - row->start;
        uint64_t part = row->size - offset < left ? row->size - offset : left;
        guest_mark(guest, row, offset, part);
        first += part;
        left -= part;
    }
    return size && guest->wrote ? tell(guest, address, size) : 0;
}
