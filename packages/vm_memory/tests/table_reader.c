/* A reader of vm_memory's region table, as C code of another package would be: it knows nothing
 * but the specification in vm_memory.table. Called through ctypes, so without the GIL.
 */
#include <stdint.h>
#include <string.h>

enum { VERSION = 1, HEADER = 4, ROW = 4 };
enum { OK, UNKNOWN_VERSION, OUTSIDE };

/* The row that holds all of [address, address + size) in this process, or NULL. */
static const uint64_t *row_of(const uint64_t *table, uint64_t address, uint64_t size)
{
    for (uint64_t i = 0; i < table[2]; i++) {
        const uint64_t *row = table + HEADER + ROW * i;
        uint64_t offset = address - row[0];
        if (address >= row[0] && offset < row[1])
            return size <= row[1] - offset && row[2] ? row : NULL;
    }
    return NULL;
}

static void mark(const uint64_t *table, const uint64_t *row, uint64_t offset, uint64_t size)
{
    uint64_t *bitmap = (uint64_t *)(uintptr_t)row[3];

    if (bitmap == NULL || size == 0)
        return;
    for (uint64_t page = offset >> table[3]; page <= (offset + size - 1) >> table[3]; page++)
        __atomic_fetch_or(&bitmap[page / 64], UINT64_C(1) << page % 64, __ATOMIC_RELEASE);
}

int table_read(const uint64_t *table, uint64_t address, void *to, uint64_t size)
{
    const uint64_t *row;

    if (table[0] != VERSION)
        return UNKNOWN_VERSION;
    row = row_of(table, address, size);
    if (row == NULL)
        return OUTSIDE;
    memcpy(to, (char *)(uintptr_t)row[2] + (address - row[0]), size);
    return OK;
}

int table_write(const uint64_t *table, uint64_t address, const void *from, uint64_t size)
{
    const uint64_t *row;

    if (table[0] != VERSION)
        return UNKNOWN_VERSION;
    row = row_of(table, address, size);
    if (row == NULL)
        return OUTSIDE;
    memcpy((char *)(uintptr_t)row[2] + (address - row[0]), from, size);
    mark(table, row, address - row[0], size);
    return OK;
}

/* A device that writes to each page once. */
int table_touch(const uint64_t *table, uint64_t address, uint64_t pages)
{
    for (uint64_t page = 0; page < pages; page++)
        if (table_write(table, address + (page << table[3]), "x", 1) != OK)
            return OUTSIDE;
    return OK;
}

/* A device that never rests: counts up in one word of each of `pages` pages, one after the other. */
int table_count_up(const uint64_t *table, uint64_t address, uint64_t pages, uint64_t rounds)
{
    for (uint64_t value = 1; value <= rounds; value++)
        for (uint64_t page = 0; page < pages; page++) {
            uint64_t at = address + (page << table[3]);
            if (table_write(table, at, &value, sizeof value) != OK)
                return OUTSIDE;
        }
    return OK;
}
