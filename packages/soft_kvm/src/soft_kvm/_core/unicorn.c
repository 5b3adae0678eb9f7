/* Looks the engine's entry points up in a library that the caller names.  Assumes nothing of the caller; checks every symbol. */
#include "unicorn.h"

#include <dlfcn.h>
#include <string.h>

struct sk_unicorn sk_uc;

static const char *const names[] = {
    "uc_version",      "uc_open",     "uc_close",     "uc_strerror",  "uc_ctl",      "uc_reg_read",      "uc_reg_write",
    "uc_mem_map_ptr",  "uc_mmio_map", "uc_mem_unmap", "uc_hook_add",  "uc_hook_del", "uc_emu_start",     "uc_emu_stop",
    "uc_context_alloc", "uc_context_save", "uc_context_restore", "uc_context_free", "uc_context_size",
};

_Static_assert(sizeof names / sizeof *names == sizeof(struct sk_unicorn) / sizeof(void *), "one name per entry point");

const char *sk_unicorn_load(const char *path)
{
    void *symbols[sizeof names / sizeof *names];
    void *handle;

    if (sk_uc.open)
        return NULL;
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return dlerror();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        symbols[i] = dlsym(handle, names[i]);
        if (!symbols[i])
            return names[i];
    }
    memcpy(&sk_uc, symbols, sizeof sk_uc);
    return NULL;
}
