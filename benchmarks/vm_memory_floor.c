/* The floor under guest memory access: the same work in C, over the table that C code reads.
 *
 * Each function does one pass over a list and returns nanoseconds per operation. Bounds are
 * checked as Python's side checks them; nothing is called back.
 */
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { HEADER = 4, ROW = 4 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

static const uint64_t *find(const uint64_t *table, uint64_t address)
{
    uint64_t low = 0, high = table[2];

    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (table[HEADER + ROW * middle] <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address - table[HEADER + ROW * (low - 1)] >= table[HEADER + ROW * (low - 1) + 1])
        return NULL;
    return table + HEADER + ROW * (low - 1);
}

static char *host(const uint64_t *table, uint64_t address, uint64_t size)
{
    const uint64_t *row = find(table, address);

    if (row == NULL || size > row[1] - (address - row[0]))
        return NULL;
    return (char *)(uintptr_t)row[2] + (address - row[0]);
}

static volatile uint64_t sink;

double floor_find(const uint64_t *table, const uint64_t *list, int count)
{
    double start = now();
    uint64_t sum = 0;

    for (int i = 0; i < count; i++)
        sum += find(table, list[i])[1];
    sink = sum;
    return (now() - start) / count;
}

double floor_load(const uint64_t *table, const uint64_t *list, int count)
{
    double start = now();
    uint64_t sum = 0;

    for (int i = 0; i < count; i++)
        sum += __atomic_load_n((uint64_t *)host(table, list[i], 8), __ATOMIC_ACQUIRE);
    sink = sum;
    return (now() - start) / count;
}

double floor_store(const uint64_t *table, const uint64_t *list, int count)
{
    double start = now();

    for (int i = 0; i < count; i++)
        __atomic_store_n((uint64_t *)host(table, list[i], 8), 0xa5, __ATOMIC_RELEASE);
    return (now() - start) / count;
}

double floor_read(const uint64_t *table, const uint64_t *list, int count, char *buffer, int size)
{
    double start = now();

    for (int i = 0; i < count; i++) {
        memcpy(buffer, host(table, list[i], size), size);
        __asm__ volatile("" ::: "memory");
    }
    return (now() - start) / count;
}

double floor_write(const uint64_t *table, const uint64_t *list, int count, char *buffer, int size)
{
    double start = now();

    for (int i = 0; i < count; i++) {
        memcpy(host(table, list[i], size), buffer, size);
        __asm__ volatile("" ::: "memory");
    }
    return (now() - start) / count;
}

void noop(void) {}
