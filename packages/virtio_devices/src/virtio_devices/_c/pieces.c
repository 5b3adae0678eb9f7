/* Buffers of chains as host memory for a system call, which may run without the GIL.
 *
 * Assumed: the chain came from a ring of this guest, so its buffers are memory. Checked: that the
 * regions are open; each is borrowed (vm_memory.table says that a borrow keeps it open) from the
 * look at it to `pieces_end`, whoever has the GIL meanwhile. The vector is a copy: neither the
 * guest nor another thread can change it.
 */
#include "core.h"

/* Borrow a row's region: 1; no room for one more: 0; it is closed: -1 with an error. */
static int borrow(Pieces *pieces, Row *row)
{
    Guest *guest = pieces->guest;
    PyObject *view;

    for (unsigned i = 0; i < pieces->borrowed; i++)
        if (pieces->rows[i] == row)
            return 1;
    if (pieces->borrowed == MAX_BORROWED)
        return 0;
    if (guest_check_open(guest, row) < 0)
        return -1;
    view = PyObject_GetAttr(PyTuple_GetItem(guest->regions, row - guest->rows), name_slot_memory);
    if (view == NULL)
        return -1;
    pieces->rows[pieces->borrowed] = row;
    pieces->views[pieces->borrowed++] = view;
    return 1;
}

void pieces_begin(Pieces *pieces, Guest *guest)
{
    pieces->guest = guest;
    pieces->count = pieces->borrowed = 0;
}

void pieces_end(Pieces *pieces)
{
    while (pieces->borrowed)
        Py_DECREF(pieces->views[--pieces->borrowed]);
}

/* One buffer, which may lie in several regions that touch. */
static int append(Pieces *pieces, Buffer buffer)
{
    while (buffer.size) {
        Row *row = guest_find(pieces->guest, buffer.address);
        uint64_t offset = buffer.address - row->start, size = row->size - offset;
        int room = pieces->count < MAX_PIECES ? borrow(pieces, row) : 0;
        if (room <= 0)
            return room;
        if (size > buffer.size)
            size = buffer.size;
        pieces->vector[pieces->count++] = (struct iovec){row->host + offset, (size_t)size};
        buffer.address += size;
        buffer.size -= size;
    }
    return 1;
}

int pieces_take(Pieces *pieces, Chain *chain, int stream, uint64_t size)
{
    Stream before = chain->streams[stream];
    unsigned count = pieces->count;

    while (size) {
        Buffer buffer = chain_next(chain, &chain->streams[stream], size);
        int taken = append(pieces, buffer);
        if (taken <= 0) {
            chain->streams[stream] = before;
            pieces->count = count;
            return taken;
        }
        size -= buffer.size;
    }
    return 1;
}

int chain_read(Guest *guest, Chain *chain, Stream *from, void *to, uint64_t size)
{
    unsigned char *bytes = to;

    while (size) {
        Buffer buffer = chain_next(chain, from, size);
        if (guest_read(guest, buffer.address, bytes, (size_t)buffer.size) < 0)
            return -1;
        bytes += buffer.size;
        size -= buffer.size;
    }
    return 0;
}

int chain_wrote(Guest *guest, Chain *chain, Stream from, uint64_t size)
{
    while (size) {
        Buffer buffer = chain_next(chain, &from, size);
        if (guest_wrote(guest, buffer.address, buffer.size) < 0)
            return -1;
        size -= buffer.size;
    }
    return 0;
}
