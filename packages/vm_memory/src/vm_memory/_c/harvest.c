/* Which pieces of guest memory were written, of all regions at once, and nothing told twice.
 *
 * All marks are taken before the first piece is made, and put back if that fails: no exception,
 * not even one for want of memory, loses a mark.
 */
#include "core.h"

typedef struct {
    PyObject *pieces;
    uint64_t start, size; /* the last piece, which the next page may lengthen */
} Harvest;

static int finish_piece(Harvest *harvest)
{
    PyObject *piece;
    int failed;

    if (harvest->size == 0)
        return 0;
    piece = Py_BuildValue("KK", (unsigned long long)harvest->start,
                          (unsigned long long)harvest->size);
    failed = piece == NULL || PyList_Append(harvest->pieces, piece) < 0;
    Py_XDECREF(piece);
    harvest->size = 0;
    return failed ? -1 : 0;
}

static int add_run(Harvest *harvest, const Region *region, uint64_t page, uint64_t count)
{
    uint64_t offset = page << region->bitmap->shift;
    uint64_t size = min_u64(count << region->bitmap->shift, region->size - offset);

    if (harvest->size && harvest->start + harvest->size == region->start + offset) {
        harvest->size += size;
        return 0;
    }
    if (finish_piece(harvest) < 0)
        return -1;
    harvest->start = region->start + offset;
    harvest->size = size;
    return 0;
}

static int add_region(Harvest *harvest, const Region *region, const uint64_t *words)
{
    for (uint64_t i = 0; i < region->bitmap->word_count; i++)
        for (uint64_t word = words[i], page = 64 * i; word;) {
            unsigned clean = (unsigned)__builtin_ctzll(word), dirty;
            word >>= clean, page += clean;
            dirty = ~word ? (unsigned)__builtin_ctzll(~word) : 64;
            if (add_run(harvest, region, page, dirty) < 0)
                return -1;
            word = dirty < 64 ? word >> dirty : 0, page += dirty;
        }
    return 0;
}

/* The next region that tracks, from `*row` on, which moves behind it; NULL: none. */
static Region *next_tracked(MemoryMap *map, Py_ssize_t *row)
{
    while (*row < map->count) {
        Region *region = map->rows[(*row)++].region;
        if (region->bitmap)
            return region;
    }
    return NULL;
}

/* The marks of every region that tracks, in one block behind each other; NULL with an error. */
static uint64_t *take_all(MemoryMap *map)
{
    uint64_t count = 0, *words, *next;
    Py_ssize_t row = 0;
    Region *region;

    while ((region = next_tracked(map, &row)))
        count += region->bitmap->word_count;
    words = next = PyMem_Malloc(8 * count + 1);
    if (words == NULL)
        PyErr_NoMemory();
    for (row = 0; words && (region = next_tracked(map, &row)); next += region->bitmap->word_count)
        bitmap_take(region->bitmap, next);
    return words;
}

const char map_get_and_reset_dirty_doc[] =
"get_and_reset_dirty($self, /)\n--\n\n"
"What was written since the last call, as (address, bytes), sorted; whole pages.\n\n"
"Each mark of each region is told once, and adjacent pages are one piece, also across\n"
"regions. What is under a live writable view is in every answer. Regions without a\n"
"bitmap have nothing to tell.\n\n"
"There is a piece for every gap that the guest leaves, so the guest chooses their number, up\n"
"to one for two pages. Where that is too much, take `DirtyBitmap.get_and_reset` of each region,\n"
"which is one bit a page.";

PyObject *map_get_and_reset_dirty(MemoryMap *map, PyObject *Py_UNUSED(ignored))
{
    Harvest harvest = {.pieces = PyList_New(0)};
    uint64_t *words = harvest.pieces ? take_all(map) : NULL, *next = words;
    int failed = words == NULL;
    Py_ssize_t row = 0;
    Region *region;

    for (; !failed && (region = next_tracked(map, &row)); next += region->bitmap->word_count)
        failed = add_region(&harvest, region, next) < 0;
    if (!failed)
        failed = finish_piece(&harvest) < 0;
    next = words;
    for (row = 0; failed && words && (region = next_tracked(map, &row));
         next += region->bitmap->word_count)
        bitmap_add(region->bitmap, next);
    PyMem_Free(words);
    if (failed)
        Py_CLEAR(harvest.pieces);
    return harvest.pieces;
}
