/*
 * The virtual machine and its vCPUs, as the C parts share them.
 *
 * Threads: `baton` says which vCPU may run the engine (one engine serves all vCPUs of a VM, because
 * several engines over one memory would lose atomicity); `irq_lock` guards the interrupt
 * controllers, GSI routes and irqfds.  Everything else of a vCPU belongs to the thread in sk_vcpu_run().
 */
#ifndef SOFT_KVM_MACHINE_H
#define SOFT_KVM_MACHINE_H

#include "image.h"
#include "irqchip.h"
#include "irqchip_pins.h"
#include "unicorn.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

enum {
    SK_MAX_SLOTS = 512,
    SK_MAX_HOLES = 2048,
    SK_MAX_IOEVENTS = 256,
    SK_MAX_IRQFDS = 256,
    SK_MAX_ROUTES = 1024,
    SK_MAX_CPUID = 256,
    SK_CODE_RANGES = 20,
    SK_STRING_BITS = 1 << 14,
    SK_MAX_IMAGE = 16384, /* bytes; layout.py checks it */
    SK_BLOCKS_PER_SLICE = 512,
};

#define SK_PHYS_BITS 39 /* what the guest is told; the engine has 40, whose upper half is ours (msr.c) */
#define SK_PAGE 4096ull

struct sk_dirty_log {
    struct sk_vm *vm;
    struct sk_dirty_log *next; /* of those that are no longer in use */
    uc_hook hook;
    uint64_t gpa;
    uint64_t bits[];
};

struct sk_slot {
    uint64_t gpa, size;
    uint8_t *host;
    uint32_t id, flags;
    struct sk_dirty_log *dirty; /* with KVM_MEM_LOG_DIRTY_PAGES */
};

struct sk_ioevent {
    uint64_t address, datamatch;
    uint32_t length, flags; /* flags as in struct kvm_ioeventfd */
    int fd, given;          /* our own descriptor; the number by which the caller knows it */
};

struct sk_irqfd {
    int fd, given;
    uint32_t gsi;
};

struct sk_hole {
    struct sk_vm *vm;
    uint64_t gpa, size;
};

/* Pages that translated code came from; stores to them must be seen by the engine (code.c). */
struct sk_code_pages {
    uint8_t *bitmap; /* one bit a page of every slot below 2^SK_PHYS_BITS that was ever mapped, NULL until the first slot */
    uint64_t pages;
    struct { uint64_t begin, end; uc_hook hook; } ranges[SK_CODE_RANGES];
    unsigned count;
};

/* Why an engine callback asked the engine to stop. */
enum sk_stop { SK_STOP_NONE, SK_STOP_INTERRUPTED, SK_STOP_SHUTDOWN, SK_STOP_YIELD, SK_STOP_WINDOW, SK_STOP_SETTLE };

/* What the engine's stack wants of the thread that called sk_vcpu_run(). */
enum sk_outcome { SK_EXIT, SK_INTERRUPTED, SK_HALTED, SK_YIELD };

struct sk_vcpu;

struct sk_vm {
    uc_engine *uc;
    const struct sk_layout *layout;
    struct sk_slot slots[SK_MAX_SLOTS]; /* sorted by gpa */
    unsigned slot_count;
    struct sk_hole *holes[SK_MAX_HOLES];
    unsigned hole_count;
    struct sk_slot mapped[SK_MAX_SLOTS]; /* what of `slots` the engine has */
    unsigned mapped_count;
    bool map_changed; /* the engine's map is not that of `slots` */
    struct sk_code_pages code;
    struct sk_ioevent ioevents[SK_MAX_IOEVENTS];
    unsigned ioevent_count;
    uint8_t *private_memory; /* intercept.c */
    struct sk_dirty_log *old_logs;
    uint8_t strings[SK_STRING_BITS / 8]; /* hashes of places of string instructions, strings.c */
    uint64_t tsc_origin; /* CLOCK_MONOTONIC ns of TSC 0 */

    pthread_mutex_t irq_lock;
    sk_irqchip *chip; /* NULL without KVM_CREATE_IRQCHIP */
    bool has_pit;
    struct sk_irqfd irqfds[SK_MAX_IRQFDS];
    unsigned irqfd_count;
    struct kvm_irq_routing_entry routes[SK_MAX_ROUTES];
    unsigned route_count;
    bool custom_routes;

    pthread_mutex_t baton_lock;
    pthread_cond_t baton_free;
    struct sk_vcpu *holder;  /* who has the baton */
    struct sk_vcpu *current; /* whose registers are in the engine */
    atomic_uint waiting;     /* vCPU threads that want the baton */
    struct sk_vcpu *vcpus[SK_MAX_VCPUS];
    unsigned vcpu_count;
};

struct sk_vcpu {
    struct sk_vm *vm;
    unsigned id;
    struct kvm_run *run; /* owned by the caller, three pages */
    int32_t budget;      /* blocks until the next look at the outside world */
    bool armed;          /* an event waits for the guest to enable interrupts */
    uint64_t slice_end;   /* when another vCPU may have the engine */
    enum sk_stop stop;
    enum sk_outcome outcome;
    bool in_hook;        /* inside an engine callback that gave an exit: the engine holds the registers */
    bool parked;         /* in_hook and out of sk_vcpu_run(): keeps the baton until it runs again */
    bool replaced;       /* in_hook, but the caller has set other registers: the image holds, the engine's are dropped */
    bool dead;           /* after a triple fault, until somebody sets registers */
    bool unchecked;      /* registers set by the caller, not yet judged as VM entry would */
    bool flush;          /* paging state changed outside the engine */
    bool stale;          /* the caller has had the vCPU at rest: code may have changed */
    bool waiting;        /* sleeping in sk_wait_halted(); guarded by irq_lock */
    uint64_t next_poll;  /* when to look at signals and irqfds again */
    uint32_t mp_state;
    int pending_exception; /* -1, or injected by KVM_SET_VCPU_EVENTS */
    bool pending_has_error;
    uint32_t pending_error;
    bool nmi_pending;
    int user_interrupt; /* KVM_INTERRUPT vector or -1 */
    int wake_fd;        /* eventfd: somebody has something for a waiting vCPU */
    sigset_t caller_mask;
    pthread_mutex_t mutex; /* one API call on a vCPU at a time, as in KVM */
    uint64_t apic_base, misc_enable, tsc_adjust, cr8; /* cr8 without an irqchip; else the local APIC has it */
    uint64_t interrupt_bitmap[4]; /* KVM_SET_SREGS's, as given */
    uc_context *context;
    struct sk_image image; /* over `context` */
    struct kvm_cpuid_entry2 cpuid[SK_MAX_CPUID];
    unsigned cpuid_count;
    ucontext_t caller, engine;
    void *stack;
    char error[96]; /* why the last run() gave KVM_EXIT_INTERNAL_ERROR */
};

uint64_t sk_now(void);

/* memory.c: memory as the guest's physical addresses see it. */
uint8_t *sk_host(const struct sk_vm *vm, uint64_t gpa, uint64_t size); /* NULL unless wholly inside one slot */
bool sk_sync_map(struct sk_vm *vm); /* the engine's map from the slots; no vCPU in the middle of an instruction */

/* Between runs (and not `in_hook`) the image is the vCPU's state; while it runs, the engine is. */
static inline void sk_image_load(struct sk_vcpu *v) { sk_uc.context_save(v->vm->uc, v->context); }
static inline void sk_image_store(struct sk_vcpu *v) { sk_uc.context_restore(v->vm->uc, v->context); }

/* paging.c */
struct sk_access { bool write, user, fetch, implicit; };
struct sk_fault { uint64_t address; uint32_t error; };
bool sk_translate(struct sk_vcpu *v, uint64_t linear, struct sk_access access, uint64_t *gpa, struct sk_fault *fault);
bool sk_read_linear(struct sk_vcpu *v, uint64_t linear, void *data, unsigned size, struct sk_fault *fault);
bool sk_write_linear(struct sk_vcpu *v, uint64_t linear, const void *data, unsigned size, struct sk_fault *fault);

/* deliver.c: false is a triple fault. */
enum sk_event_kind { SK_EXCEPTION, SK_SOFTWARE_INTERRUPT, SK_EXTERNAL_INTERRUPT };
struct sk_event {
    uint8_t vector;
    enum sk_event_kind kind;
    bool has_error;
    uint32_t error;
    uint64_t return_rip, faulting_rip; /* where the handler returns to; where to if the delivery itself faults */
};
bool sk_deliver(struct sk_vcpu *v, struct sk_event event);
bool sk_vector_has_error(unsigned vector);
void sk_enter_syscall(struct sk_vcpu *v);
uint64_t sk_rflags(const struct sk_vcpu *v); /* of the loaded image; lazy flags are asked of the engine */

/* code.c */
void sk_code_install(struct sk_vm *vm);
bool sk_code_resize(struct sk_vm *vm, uint64_t pages);
bool sk_code_within(const struct sk_vm *vm, uint64_t gpa, uint64_t size);
void sk_code_flush(struct sk_vm *vm);

/* hooks.c: the engine's callbacks */
bool sk_hooks_install(struct sk_vm *vm);
/* io.c: the engine's callbacks for I/O */
uint32_t sk_in(uc_engine *uc, uint32_t port, int size, void *vm);
void sk_out(uc_engine *uc, uint32_t port, int size, uint32_t value, void *vm);
uint64_t sk_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *hole);
void sk_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *hole);

/* intercept.c: MSRs and CR8 */
#define SK_APIC_BASE_VALID (((1ull << SK_PHYS_BITS) - 1) & ~0x6ffull)
#define SK_EMPTY_TABLES ((1ull << 40) - SK_PAGE) /* a page of zeros that no guest is told of */
bool sk_intercept_install(struct sk_vm *vm);
void sk_intercept_reset(struct sk_vcpu *v);
bool sk_intercepted(struct sk_vcpu *v, uint32_t exit_code);
/* On the loaded image; false: not ours, or (a write) refused. */
bool sk_msr_read(struct sk_vcpu *v, uint32_t index, uint64_t *value);
bool sk_msr_write(struct sk_vcpu *v, uint32_t index, uint64_t value);
void sk_msr_in_engine(struct sk_vcpu *v, uint32_t index, uint64_t *value, bool write);
uint64_t sk_get_cr8(struct sk_vcpu *v);
void sk_set_cr8(struct sk_vcpu *v, uint64_t value);
void sk_set_apic_base(struct sk_vcpu *v, uint64_t value);

bool sk_code_at(const struct sk_vm *vm, uint64_t gpa); /* whether code was translated from this page */

/* strings.c */
void sk_string_note(struct sk_vcpu *v, uint64_t linear, unsigned size);
bool sk_string_maybe(const struct sk_vm *vm, uint64_t linear);
bool sk_string_run(struct sk_vcpu *v, uint64_t linear, unsigned size);

/* dirty.c */
bool sk_dirty_start(struct sk_vm *vm, struct sk_slot *slot);
void sk_dirty_stop(struct sk_vm *vm, struct sk_slot *slot);
void sk_dirty_mark(struct sk_vm *vm, uint64_t gpa);
int sk_dirty_take(struct sk_vm *vm, uint32_t id, uint64_t *bits, size_t words);
void sk_dirty_free(struct sk_vm *vm);

/* events.c: what reaches a vCPU from outside */
void sk_poll_inputs(struct sk_vm *vm, uint64_t now); /* irqfds and timers */
void sk_drive_gsi(struct sk_vm *vm, uint32_t gsi, bool level); /* irq_lock held */
void sk_wake_all(struct sk_vm *vm);                            /* irq_lock held */
bool sk_has_event(struct sk_vcpu *v);
bool sk_wants_stop(const struct sk_vcpu *v, bool ask_kernel);
bool sk_can_interrupt(const struct sk_vcpu *v); /* by the loaded image: IF set, no interrupt shadow */
enum sk_injection { SK_NOTHING, SK_INJECTED, SK_TRIPLE_FAULT } sk_inject(struct sk_vcpu *v);
int sk_wait_halted(struct sk_vcpu *v); /* 0 when there is something to do, -EINTR */

/* run.c */
void sk_leave(struct sk_vcpu *v, enum sk_outcome outcome); /* from the engine's stack to the caller; returns when the vCPU runs again */
int sk_acquire(struct sk_vcpu *v, bool interruptible);     /* the baton, and v's registers into the engine; 0 or -EINTR */
void sk_release(struct sk_vcpu *v);
void sk_reset(struct sk_vcpu *v); /* architectural reset state into v->image */
const char *sk_refuses_entry(const struct sk_vcpu *v); /* why VM entry would fail, or NULL */

#endif
