/* What the C files of vm_memory._core share.
 *
 * Who owns what: an mmap object of Python's owns the host memory; a Region holds one buffer of
 * it for as long as it is open; a Window (what a memoryview of ours looks at) and a copy that
 * runs without the GIL count as borrows of the Region. A Region with borrows refuses to close,
 * so `host` is good for whoever holds the GIL or a borrow. All fields are read and written with
 * the GIL held; only guest memory and the words of a bitmap are touched without it.
 */
#ifndef VM_MEMORY_CORE_H
#define VM_MEMORY_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* How one may use the memory behind a view. */
enum window_mode {
    READ_ONLY,
    TRACKED,   /* writable; its pages are dirty while it lives and when it ends */
    UNTRACKED, /* writable; whoever writes marks what was written, as KVM does for a slot */
    WINDOW_MODES
};

/* The names of C11 and Rust; CONSUME and ACQ_REL mean nothing to a load or a store. */
enum ordering { RELAXED, ACQUIRE, RELEASE, SEQ_CST };

typedef struct window Window;

typedef struct {
    PyObject_HEAD
    uint64_t *words; /* bit i of word w: page 64 * w + i, as in KVM's dirty log */
    uint64_t word_count;
    uint64_t size; /* bytes that the bitmap describes, at least 1 */
    unsigned shift; /* log2 of the bytes of a page */
    Window *live;   /* tracked windows that somebody looks at */
} DirtyBitmap;

typedef struct {
    PyObject_HEAD
    uint64_t start, last; /* guest physical; last is the last byte, so 2^64 - 1 is no overflow */
    uint64_t size;
    unsigned char *host; /* NULL: closed, or never mapped here */
    DirtyBitmap *bitmap; /* NULL: not tracked; kept until the object goes */
    Py_ssize_t borrows;
    PyObject *mapping; /* owner of the memory; NULL: closed, or never mapped here */
    Py_buffer held;    /* our buffer of `mapping` */
    int fd;            /* our own descriptor of the file behind it, or -1 */
    uint64_t file_offset;
    char closed;
} Region;

extern PyTypeObject *DirtyBitmap_Type, *Region_Type, *Window_Type, *MemoryMap_Type;
extern PyType_Spec DirtyBitmap_Spec, Region_Spec, Window_Spec, MemoryMap_Spec;
extern PyMethodDef host_functions[];

/* dirty.c: marking needs no GIL; `offset` + `size` must lie inside the bitmap, `size` > 0. */
void bitmap_mark(DirtyBitmap *bitmap, uint64_t offset, uint64_t size);
/* Take all marks into `words`, or add marks. */
void bitmap_take(DirtyBitmap *bitmap, uint64_t *words);
void bitmap_add(DirtyBitmap *bitmap, const uint64_t *words);


/* window.c: a memoryview of part of an open region. */
struct window {
    PyObject_HEAD
    Region *region;
    uint64_t offset;
    Py_ssize_t size;
    enum window_mode mode;
    Py_ssize_t exports;
    Window *next, **link; /* in the list of live windows while exports > 0, else NULL */
};
PyObject *window_view(Region *region, uint64_t offset, uint64_t size, enum window_mode mode);

/* errors.c: set an exception of vm_memory.errors (`completed` may be NULL); returns NULL. */
PyObject *raise_access_error(const char *name, PyObject *address, PyObject *size,
                             PyObject *completed);
/* HostMemoryFault for guest memory whose host memory is gone; returns NULL. */
PyObject *raise_host_fault(uint64_t address, uint64_t size);
/* The region has no memory here: it is closed (ValueError) or was never mapped. */
PyObject *raise_unreachable(Region *region);

/* numbers.c: 1: `*value` is set; 0: no unsigned 64-bit integer; -1: not an integer, error set. */
int to_u64(PyObject *object, uint64_t *value);
/* The same for a size: beyond 2^64 counts as 2^64 - 1, below 0 is a ValueError. */
int to_size(PyObject *object, uint64_t *size);
/* What a function takes: the names of its arguments, the first `required` of which it needs. */
typedef struct {
    const char *function;
    const char *const *names;
    int required, most;
} Signature;
#define SIGNATURE(function, required, ...) \
    static const char *const names[] = {__VA_ARGS__}; \
    static const Signature signature = {function, names, required, sizeof names / sizeof *names}; \
    PyObject *values[sizeof names / sizeof *names]
int take_named_arguments(const Signature *signature, PyObject *const *args, Py_ssize_t positional,
                         PyObject *keywords, PyObject **values);

/* Positional or keyword arguments into `values` (NULL where absent); 0, or -1 with an error. */
static inline int take_arguments(const Signature *signature, PyObject *const *args,
                                 Py_ssize_t positional, PyObject *keywords, PyObject **values)
{
    if (keywords || positional < signature->required || positional > signature->most)
        return take_named_arguments(signature, args, positional, keywords, values);
    for (int i = 0; i < signature->most; i++)
        values[i] = i < positional ? args[i] : NULL;
    return 0;
}

/* A map: rows sorted by address, without overlap. */
typedef struct {
    uint64_t start, last;
    Region *region; /* owned by the tuple of the map */
} Row;

typedef struct {
    PyObject_HEAD
    PyObject *regions; /* tuple, in the order of the rows */
    Py_ssize_t count;
    Py_ssize_t recent; /* the row that was found last: accesses come in runs */
    Row *rows;
} MemoryMap;

/* map.c: the row that holds `address`, or NULL. */
Row *map_find(MemoryMap *map, uint64_t address);

/* The pieces of a guest range, one per region that it touches, up to its first hole. */
typedef struct {
    MemoryMap *map;
    uint64_t address; /* of the next piece */
    uint64_t left;    /* bytes from there on */
    Region *region;   /* of the present piece: `size` bytes from `offset` of it */
    uint64_t offset, size;
} Pieces;
/* 1: the next piece is there; 0: the range or the memory ended; -1: error set (closed). */
int next_piece(Pieces *pieces);
/* How many bytes from `address` on are memory that can be reached, at most `size`; -1: error. */
int measure(MemoryMap *map, uint64_t address, uint64_t size, uint64_t *reached);
/* (address, size) of an access to an open map. 0, or -1 with an error. `known` is 0 when the
 * address is beyond 64 bits: no memory is there. */
typedef struct {
    PyObject *address_object, *size_object;
    uint64_t address, size;
    int known;
} Span;
int take_span(PyObject *address, PyObject *size, Span *span);
/* As take_span, and all of it must be memory: else the error that says how much is. */
int take_whole_span(MemoryMap *map, PyObject *address, PyObject *size, Span *span);
/* The same for a tuple (address, size). */
int take_span_item(MemoryMap *map, PyObject *item, Span *span);
/* The error for a span of which only `reached` bytes can be reached; returns NULL. */
PyObject *raise_short(MemoryMap *map, const Span *span, uint64_t reached);

/* harvest.c */
PyObject *map_get_and_reset_dirty(MemoryMap *map, PyObject *ignored);
extern const char map_get_and_reset_dirty_doc[];

#define MAP_METHOD(name) \
    PyObject *name(MemoryMap *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
MAP_METHOD(map_read);
MAP_METHOD(map_read_into);
MAP_METHOD(map_write);
MAP_METHOD(map_view);
MAP_METHOD(map_iovec);
MAP_METHOD(map_windows);
MAP_METHOD(map_mark_dirty);
MAP_METHOD(map_read_from_fd);
MAP_METHOD(map_write_to_fd);
MAP_METHOD(map_readv);
MAP_METHOD(map_writev);
MAP_METHOD(map_load);
MAP_METHOD(map_store);
extern const char map_read_doc[], map_read_into_doc[], map_write_doc[], map_view_doc[],
    map_iovec_doc[], map_windows_doc[], map_mark_dirty_doc[], map_read_from_fd_doc[],
    map_write_to_fd_doc[], map_readv_doc[], map_writev_doc[], map_load_doc[], map_store_doc[];
extern PyMethodDef integer_functions[];

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

#endif
