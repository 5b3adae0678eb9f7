/* A scratch engine for layout.py: what it needs beyond the engine's own entry points. */
#include "api.h"
#include "probe.h"

struct snapshot {
    uc_context *context;
    uint32_t *number;
};

static void take_snapshot(uc_engine *uc, uint32_t number, void *data)
{
    const struct snapshot *s = data;

    sk_uc.context_save(uc, s->context);
    *s->number = number;
    sk_uc.emu_stop(uc);
}

int sk_probe_open(int cpu_model, uc_engine **uc)
{
    int code = sk_uc.open(UC_ARCH_X86, UC_MODE_64, uc);

    if (code == UC_OK && (code = sk_uc.ctl(*uc, UC_CTL_SET_CPU_MODEL, cpu_model)) == UC_OK)
        code = sk_uc.ctl(*uc, UC_CTL_EXITS_ENABLE, 1);
    return code;
}

/* Runs from the saved `context` until the first exception and leaves the state at that moment in `context`. */
int sk_probe_on_interrupt(uc_engine *uc, uc_context *context, uint32_t *number)
{
    struct snapshot s = {context, number};
    uint64_t rip = 0;
    uc_hook hook;
    int code;

    sk_uc.context_restore(uc, context);
    sk_uc.ctl(uc, UC_CTL_FLUSH_TB); /* the caller changed the code behind the engine's back */
    sk_uc.ctl(uc, UC_CTL_FLUSH_TLB);
    sk_uc.reg_read(uc, UC_X86_REG_RIP, &rip);
    sk_uc.hook_add(uc, &hook, UC_HOOK_INTR, (void *)take_snapshot, &s, 1, 0);
    code = sk_uc.emu_start(uc, rip, 0, 0, 64);
    sk_uc.hook_del(uc, hook);
    return code;
}
