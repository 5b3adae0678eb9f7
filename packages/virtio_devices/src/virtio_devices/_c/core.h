/* What the C files of virtio_devices._core share: access to the rings of a virtqueue.
 *
 * The guest runs meanwhile and may be hostile. So each value in guest memory is read once, into
 * a variable of ours, and that copy is checked and used; no address is followed unless the region
 * table of vm_memory says that it is memory; no loop is longer than the queue has entries.
 *
 * What keeps host addresses good: everything here holds the GIL from the look whether a region is
 * closed to the last access, and closing one needs the GIL (vm_memory.table says so). A queue
 * therefore borrows nothing, and memory may be closed under an idle one. What gives the GIL up in
 * between borrows the regions for that time (pieces.c).
 */
#ifndef VIRTIO_DEVICES_CORE_H
#define VIRTIO_DEVICES_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <endian.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/* guest.c: guest memory by its region table. */

typedef struct {
    uint64_t start, size;
    unsigned char *host; /* NULL: not mapped here, a hole */
    uint64_t *bitmap;    /* of dirty pages, or NULL */
} Row;

typedef struct {
    PyObject *memory;  /* the GuestMemory, which keeps the regions */
    PyObject *regions; /* its tuple of regions, in the order of the rows */
    Row *rows;
    Py_ssize_t count;
    Row *recent; /* the row that was found last: accesses come in runs */
    Row *open;   /* the row that was last seen to be open during this call, or NULL */
    PyObject *wrote; /* the memory's method of that name, or NULL */
    unsigned page_shift;
} Guest;

int guest_open(Guest *guest, PyObject *memory);
void guest_release(Guest *guest);
/* The row that holds `address`, or NULL. */
Row *guest_find(Guest *guest, uint64_t address);
/* Whether all of a range is memory; adjacent rows count as one, nothing is everywhere. */
int guest_holds_anywhere(Guest *guest, uint64_t address, uint64_t size);

static inline int guest_holds(Guest *guest, uint64_t address, uint64_t size)
{
    const Row *row = guest->recent; /* nearly always; there is one even if there are none */
    uint64_t offset = address - row->start;

    if (offset < row->size && size <= row->size - offset && row->host)
        return 1;
    return guest_holds_anywhere(guest, address, size);
}

/* 0 if the row's region is open, else -1 with a ValueError. */
int guest_check_open(Guest *guest, Row *row);
/* Copy out what guest_holds; 0, or -1 with a ValueError: a region is closed. */
int guest_read(Guest *guest, uint64_t address, void *to, size_t size);
/* Copy in, likewise; guest_wrote is the caller's. */
int guest_write(Guest *guest, uint64_t address, const void *from, size_t size);

/* Mark a write of `size` bytes, 1 or more, that has just been made (vm_memory.table). */
static inline void guest_mark(const Guest *guest, const Row *row, uint64_t offset, uint64_t size)
{
    if (row->bitmap == NULL)
        return;
    for (uint64_t page = offset >> guest->page_shift;
         page <= (offset + size - 1) >> guest->page_shift; page++)
        __atomic_fetch_or(&row->bitmap[page / 64], UINT64_C(1) << page % 64, __ATOMIC_RELEASE);
}

/* Mark bytes that C code has written into buffers, and tell the memory of them, if it listens
 * (virtio_devices.device says why): to be called before the chain is given back. The listener is
 * Python, so only borrowed regions are open for sure afterwards. 0, or -1 with its error. */
int guest_wrote(Guest *guest, uint64_t address, uint64_t size);

/* chain.c: a request, and the two streams of its bytes. */

typedef struct {
    uint64_t address, size;
} Buffer;

typedef struct {
    uint32_t index;  /* of the present buffer */
    uint64_t offset; /* in it */
    uint64_t size, remaining;
} Stream;

enum { READABLE, WRITABLE, STREAMS };

typedef struct {
    PyObject_VAR_HEAD
    PyObject *memory;
    uint32_t head;     /* by which the driver knows it */
    uint32_t position; /* where it was taken */
    uint32_t entries;  /* of the ring that it takes */
    char given;        /* is in a batch that is just given back */
    Stream streams[STREAMS];
    Buffer buffers[]; /* readable ones, then writable ones */
} Chain;

/* What a walk through descriptors finds; the buffers are in the ring's `found`. */
typedef struct {
    uint32_t head, position, entries;
    uint32_t count, readable;
    uint64_t bytes[STREAMS];
} Walk;

Chain *chain_new(PyObject *memory, const Walk *walk, const Buffer *buffers);
/* The next piece, at most `size` bytes, of a stream that has as many left. */
Buffer chain_next(const Chain *chain, Stream *stream, uint64_t size);

/* pieces.c: parts of chains as host memory that stays where it is without the GIL. */

enum { MAX_PIECES = 512, MAX_BORROWED = 8 };

typedef struct {
    Guest *guest;
    unsigned count, borrowed;
    struct iovec vector[MAX_PIECES];
    Row *rows[MAX_BORROWED]; /* whose regions are borrowed, by these views: */
    PyObject *views[MAX_BORROWED];
} Pieces;

void pieces_begin(Pieces *pieces, Guest *guest);
void pieces_end(Pieces *pieces);
/* Append the next `size` bytes, which the stream has left: 1; no room for all of them: 0; a region
 * is closed: -1 with an error. Nothing is taken unless all is. */
int pieces_take(Pieces *pieces, Chain *chain, int stream, uint64_t size);
/* Copy the next `size` bytes, which the stream has left; 0, or -1: as guest_read. */
int chain_read(Guest *guest, Chain *chain, Stream *from, void *to, uint64_t size);
/* guest_wrote for the first `size` bytes of a stream as it was before they were taken. */
int chain_wrote(Guest *guest, Chain *chain, Stream from, uint64_t size);

/* move.c: data between a file and memory. */

enum { MAX_OPERATIONS = 16 };

typedef struct {
    const struct iovec *vector;
    unsigned count; /* of pieces */
    int write;
    uint64_t offset, size;
    int64_t result; /* bytes, or a negative number */
} Operation;

static inline int is_whole(const Operation *operation)
{
    return operation->result == (int64_t)operation->size;
}

typedef struct uring Uring;

/* How operations are carried out; zeroed at first. */
typedef struct {
    Uring *uring;
    char asked; /* whether there is io_uring: the answer stays */
    char busy;  /* a thread uses it, and may have given the GIL up */
} Mover;

/* Carry operations out with the GIL given up: how many were tried. Each of them has a result; after
 * one that failed, others may be left for another time. */
unsigned move(Mover *mover, int fd, Operation *operations, unsigned count);
/* Close what it opened, unless it is in use. */
void mover_release(Mover *mover);

/* uring.c: several operations at once. */

/* For up to `entries` operations at a time; NULL: the kernel does not permit it. */
Uring *uring_open(unsigned entries);
void uring_close(Uring *uring);
/* Carry out all, in any order, each with a result; the GIL is not needed. */
void uring_run(Uring *uring, int fd, Operation *operations, unsigned count);

/* ring.c: what both formats have in common. */

/* Parts of a ring's memory, in the order of their areas. */
enum { DESCRIPTORS, DRIVER, DEVICE, PARTS };

typedef struct {
    uint64_t address;
    Row *row; /* NULL: the part lies in several */
    unsigned char *host;
} Part;

typedef struct format Format;

typedef struct {
    PyObject_HEAD
    const Format *format;
    Guest guest;
    Part parts[PARTS];
    uint32_t size;
    uint32_t next_avail, next_used;
    unsigned long long walked; /* descriptors of all chains that were taken so far */
    uint32_t added; /* entries given back since the driver was last considered */
    uint32_t held_entries;
    uint32_t held_count;
    Chain **held;  /* owned: chains in flight, by head */
    Buffer *found; /* of the last walk; room for `found_size`, at most `size` */
    uint32_t found_size;
    char event_idx, indirect, running;
    char busy; /* a batch of transfers is under way, and may have given the GIL up */
    char unpublished; /* packed: a batch was begun, by the used descriptor at first_used */
    uint16_t first_flags;
    uint64_t first_used;
} Ring;

/* Where the rules about chains stand. */
typedef struct {
    const char *length, *order, *total, *memory, *indirect;
} Clauses;

struct format {
    Clauses clauses;
    uint32_t heads; /* that may be in flight; 0: as many as entries */
    /* The next chain, into `walk` and `found`: 1; none: 0; broken: -1 with an error. */
    int (*walk)(Ring *ring, Walk *walk);
    /* The position `entries` after another one. */
    uint32_t (*advance)(const Ring *ring, uint32_t position, uint32_t entries);
    /* Write a used element at next_used; the driver sees none of a batch before `publish`. */
    void (*use)(Ring *ring, uint32_t head, uint32_t length, uint32_t entries);
    /* Make what was used visible. */
    void (*publish)(Ring *ring);
    /* Whether the driver wishes to hear of `added` entries up to next_used. */
    int (*wants)(Ring *ring, uint32_t added);
    /* Ask for a notification of the next chain, or for none. */
    void (*ask)(Ring *ring, int wish);
    /* How many chains are there, of which more than `limit` need not be counted; -1 with an
     * error. */
    int (*pending)(Ring *ring, uint32_t limit);
};

extern const Format split_format, packed_format;

/* 1: guest memory may be touched until Python runs again; 0: stopped; -1: closed, error set. */
int ring_enter(Ring *ring);
/* How many heads there are: the length of `held`. */
uint32_t ring_heads(const Ring *ring);

/* Descriptors after which a call takes no further chain. One has up to 32768, which cost 1 ms. */
enum { MAX_WALK = 1 << 16 };

/* transfer.c: from the driver and back; between ring_enter and the last of these no Python runs,
 * except for an error's sake. */

/* The next chain, a reference for the caller: 1, none: 0, an error: -1. */
int ring_take(Ring *ring, Chain **chain);
/* Make the chain that was taken last available again: 1; it is another one: 0. */
int ring_untake(Ring *ring, Chain *chain);
/* Write the used element of a chain in flight; `publish` is the caller's. */
void ring_give(Ring *ring, Chain *chain, uint32_t length);

/* transfer.c: methods. */
PyObject *ring_pop(Ring *self, PyObject *ignored);
PyObject *ring_pop_batch(Ring *self, PyObject *limit);
PyObject *ring_put_back(Ring *self, PyObject *chain);
PyObject *ring_add_used(Ring *self, PyObject *const *args, Py_ssize_t count);
PyObject *ring_add_used_batch(Ring *self, PyObject *chains);
PyObject *ring_discard(Ring *self, PyObject *limit);

/* Where `offset` of a part is. A field lies in one region, as the layout was checked to. */
typedef struct {
    unsigned char *host;
    Row *row;
    uint64_t offset; /* in the row */
} Place;

static inline Place place(Ring *ring, int index, uint64_t offset)
{
    Part *part = &ring->parts[index];
    uint64_t address = part->address + offset;
    Row *row = part->row ? part->row : guest_find(&ring->guest, address);
    uint64_t in_row = address - row->start;

    return (Place){row->host + in_row, row, in_row};
}

static inline uint16_t load16(Ring *ring, int part, uint64_t offset)
{
    void *from = place(ring, part, offset).host;

    return le16toh(__atomic_load_n((uint16_t *)from, __ATOMIC_ACQUIRE));
}

static inline uint32_t load32(Ring *ring, int part, uint64_t offset)
{
    void *from = place(ring, part, offset).host;

    return le32toh(__atomic_load_n((uint32_t *)from, __ATOMIC_ACQUIRE));
}

static inline void store16(Ring *ring, int part, uint64_t offset, uint16_t value)
{
    Place to = place(ring, part, offset);

    __atomic_store_n((uint16_t *)(void *)to.host, htole16(value), __ATOMIC_RELEASE);
    guest_mark(&ring->guest, to.row, to.offset, sizeof value);
}

static inline void store32(Ring *ring, int part, uint64_t offset, uint32_t value)
{
    Place to = place(ring, part, offset);

    __atomic_store_n((uint32_t *)(void *)to.host, htole32(value), __ATOMIC_RELEASE);
    guest_mark(&ring->guest, to.row, to.offset, sizeof value);
}

/* Both rules about events (virtio 1.2 §2.7.7.2, §2.8.10): all but `added` count modulo 2^16. */
static inline int crosses_event(uint32_t event, uint32_t index, uint32_t added)
{
    return (uint16_t)(index - event - 1) < added;
}

/* walk.c: collecting the buffers of one chain. */

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, DESCRIPTOR_SIZE = 16 };

typedef struct {
    uint64_t address;
    uint32_t size;
    uint16_t third, fourth; /* flags and next, or id and flags */
} Descriptor;

/* One of the ring's own descriptors; `index` is less than the size. */
Descriptor read_descriptor(Ring *ring, uint32_t index);
/* One of an indirect table that lies in memory; 0, or -1 with an error. */
int read_table(Ring *ring, uint64_t table, uint32_t index, Descriptor *descriptor);
/* Take one more buffer; 0, or -1 with the error for the rule that it breaks. */
int walk_append(Ring *ring, Walk *walk, uint32_t start, const Descriptor *descriptor, int writable);
/* 0 if the descriptor may refer to an indirect table, or -1 with the error. */
int walk_check_table(Ring *ring, uint32_t start, const Descriptor *descriptor, int nested,
                     int linked);
/* InvalidChain for the chain that starts at this descriptor; returns -1. */
int walk_fail(uint32_t start, const char *clause, const char *reason, ...);

/* chain.c: an integer as an unsigned one: 1; it is none: 0; no integer at all: -1, error set. No
 * code of Python's runs. */
int to_u64(PyObject *object, uint64_t *value);

/* errors.c: an exception of virtio_devices.errors from its arguments, as for Py_BuildValue;
 * returns NULL. */
PyObject *raise_error(const char *name, const char *arguments, ...);

/* module.c: attributes that are looked up often. */
extern PyObject *name_closed, *name_read, *name_slot_memory, *name_write;

extern PyTypeObject *Chain_Type, *Reader_Type, *Writer_Type, *Ring_Type;
extern PyTypeObject *Transfers_Type, *Arrivals_Type, *Departures_Type;
extern PyType_Spec Chain_Spec, Reader_Spec, Writer_Spec, Ring_Spec;
extern PyType_Spec Transfers_Spec, Arrivals_Spec, Departures_Spec;

#endif
