/* See probe.c. */
#ifndef SOFT_KVM_PROBE_H
#define SOFT_KVM_PROBE_H

#include "unicorn.h"

int sk_probe_open(int cpu_model, uc_engine **uc);
int sk_probe_on_interrupt(uc_engine *uc, uc_context *context, uint32_t *number);

#endif
