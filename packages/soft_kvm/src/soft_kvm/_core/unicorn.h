/*
 * The part of the Unicorn 2.1 C interface that soft_kvm uses, looked up at run time.
 *
 * Unicorn is GPL-2.0 and stays a separate, user-installed library: nothing of it is compiled or
 * linked in, only its documented entry points are called (numbers: unicorn.h and x86.h of 2.1.4).
 */
#ifndef SOFT_KVM_UNICORN_H
#define SOFT_KVM_UNICORN_H

#include <stddef.h>
#include <stdint.h>

typedef struct uc_struct uc_engine;
typedef struct uc_context uc_context;
typedef size_t uc_hook;

enum { UC_OK = 0, UC_ERR_NOMEM = 1, UC_ARCH_X86 = 4, UC_MODE_64 = 8, UC_PROT_ALL = 7 };
enum {
    UC_HOOK_INTR = 1 << 0,
    UC_HOOK_INSN = 1 << 1,
    UC_HOOK_BLOCK = 1 << 3,
    UC_HOOK_MEM_READ_UNMAPPED = 1 << 4,
    UC_HOOK_INSN_INVALID = 1 << 14,
    UC_HOOK_EDGE_GENERATED = 1 << 15,
};
enum {
    UC_X86_INS_CPUID = 113,
    UC_X86_INS_IN = 218,
    UC_X86_INS_OUT = 500,
    UC_X86_INS_RDTSC = 608,
    UC_X86_INS_RDTSCP = 609,
    UC_X86_INS_SYSCALL = 699,
    UC_X86_INS_SYSENTER = 700,
};
enum {
    UC_X86_REG_EFLAGS = 25,
    UC_X86_REG_RAX = 35,
    UC_X86_REG_RBX = 37,
    UC_X86_REG_RCX = 38,
    UC_X86_REG_RDX = 40,
    UC_X86_REG_RIP = 41,
    UC_X86_REG_MSR = 248,
};
/* uc_ctl words: direction << 30 | argument count << 26 | control. */
enum {
    UC_CTL_EXITS_ENABLE = (int)((1u << 30) | (1u << 26) | 4),
    UC_CTL_SET_CPU_MODEL = (int)((1u << 30) | (1u << 26) | 7),
    UC_CTL_REMOVE_CACHE = (int)((1u << 30) | (2u << 26) | 9),
    UC_CTL_FLUSH_TB = (int)((1u << 30) | (0u << 26) | 10),
    UC_CTL_FLUSH_TLB = (int)((1u << 30) | (0u << 26) | 11),
    UC_CTL_SET_TCG_BUFFER = (int)((1u << 30) | (1u << 26) | 13),
};

typedef struct {
    uint64_t pc;
    uint16_t icount;
    uint16_t size;
} uc_tb;

typedef struct {
    uint32_t rid;
    uint64_t value;
} uc_x86_msr;

struct sk_unicorn {
    unsigned (*version)(unsigned *major, unsigned *minor);
    int (*open)(int arch, int mode, uc_engine **uc);
    int (*close)(uc_engine *uc);
    const char *(*strerror)(int code);
    int (*ctl)(uc_engine *uc, int control, ...);
    int (*reg_read)(uc_engine *uc, int regid, void *value);
    int (*reg_write)(uc_engine *uc, int regid, const void *value);
    int (*mem_map_ptr)(uc_engine *uc, uint64_t address, uint64_t size, uint32_t perms, void *ptr);
    int (*mmio_map)(uc_engine *uc, uint64_t address, uint64_t size, void *read, void *read_data, void *write, void *write_data);
    int (*mem_unmap)(uc_engine *uc, uint64_t address, uint64_t size);
    int (*hook_add)(uc_engine *uc, uc_hook *hook, int type, void *callback, void *data, uint64_t begin, uint64_t end, ...);
    int (*hook_del)(uc_engine *uc, uc_hook hook);
    int (*emu_start)(uc_engine *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count);
    int (*emu_stop)(uc_engine *uc);
    int (*context_alloc)(uc_engine *uc, uc_context **context);
    int (*context_save)(uc_engine *uc, uc_context *context);
    int (*context_restore)(uc_engine *uc, uc_context *context);
    int (*context_free)(uc_context *context);
    size_t (*context_size)(uc_engine *uc);
};

extern struct sk_unicorn sk_uc;

/* Loads the library once per process.  NULL on success, else what is wrong (static text or dlerror's). */
const char *sk_unicorn_load(const char *path);

#endif
