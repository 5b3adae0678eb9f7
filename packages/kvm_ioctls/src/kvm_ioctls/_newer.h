/*
 * Numbers and structures of the kernel's ABI that are newer than the oldest header we build with
 * (Linux 6.1), and numbers that the header gives to some architectures only.
 *
 * Every entry gives way to the header's own definition as soon as the header has one.  What is here
 * is ABI and can never change: Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h of the
 * release named on each line.  A kernel that is older refuses the request, and the error says so.
 */
#ifndef KVM_IOCTLS_NEWER_H
#define KVM_IOCTLS_NEWER_H

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>

/* capabilities: the release that brought each of them */
#ifndef KVM_CAP_S390_PROTECTED_ASYNC_DISABLE
#define KVM_CAP_S390_PROTECTED_ASYNC_DISABLE 224 /* 6.2 */
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225 /* 6.2 */
#endif
#ifndef KVM_CAP_PMU_EVENT_MASKED_EVENTS
#define KVM_CAP_PMU_EVENT_MASKED_EVENTS 226 /* 6.3 */
#endif
#ifndef KVM_CAP_COUNTER_OFFSET
#define KVM_CAP_COUNTER_OFFSET 227 /* 6.4 */
#endif
#ifndef KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
#define KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE 228 /* 6.5 */
#endif
#ifndef KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES
#define KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES 229 /* 6.5 */
#endif
#ifndef KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES
#define KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES 230 /* 6.7 */
#endif
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231 /* 6.8 */
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232 /* 6.8 */
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES 233 /* 6.8 */
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234 /* 6.8 */
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235 /* 6.8 */
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236 /* 6.11 */
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237 /* 6.11 */
#endif
#ifndef KVM_CAP_X86_GUEST_MODE
#define KVM_CAP_X86_GUEST_MODE 238 /* 6.13 */
#endif
#ifndef KVM_CAP_ARM_WRITABLE_IMP_ID_REGS
#define KVM_CAP_ARM_WRITABLE_IMP_ID_REGS 239 /* 6.15 */
#endif
#ifndef KVM_CAP_ARM_EL2
#define KVM_CAP_ARM_EL2 240 /* 6.16 */
#endif
#ifndef KVM_CAP_ARM_EL2_E2H0
#define KVM_CAP_ARM_EL2_E2H0 241 /* 6.16 */
#endif
#ifndef KVM_CAP_RISCV_MP_STATE_RESET
#define KVM_CAP_RISCV_MP_STATE_RESET 242 /* 6.16 */
#endif
#ifndef KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED
#define KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED 243 /* 6.17 */
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS 244 /* 6.18 */
#endif

/* capabilities that headers define for the architectures that have them */
#ifndef KVM_CAP_SET_GUEST_DEBUG
#define KVM_CAP_SET_GUEST_DEBUG 23
#endif
#ifndef KVM_CAP_REINJECT_CONTROL
#define KVM_CAP_REINJECT_CONTROL 24
#endif
#ifndef KVM_CAP_MCE
#define KVM_CAP_MCE 31
#endif
#ifndef KVM_CAP_PIT2
#define KVM_CAP_PIT2 33
#endif
#ifndef KVM_CAP_PIT_STATE2
#define KVM_CAP_PIT_STATE2 35
#endif
#ifndef KVM_CAP_XEN_HVM
#define KVM_CAP_XEN_HVM 38
#endif
#ifndef KVM_CAP_VCPU_EVENTS
#define KVM_CAP_VCPU_EVENTS 41
#endif
#ifndef KVM_CAP_DEBUGREGS
#define KVM_CAP_DEBUGREGS 50
#endif
#ifndef KVM_CAP_XSAVE
#define KVM_CAP_XSAVE 55
#endif
#ifndef KVM_CAP_XCRS
#define KVM_CAP_XCRS 56
#endif

/* guest debugging, beyond what every architecture has */
#ifndef KVM_GUESTDBG_USE_SW_BP
#define KVM_GUESTDBG_USE_SW_BP 0x00010000
#endif
#ifndef KVM_GUESTDBG_USE_HW_BP
#define KVM_GUESTDBG_USE_HW_BP 0x00020000
#endif
#ifndef KVM_GUESTDBG_INJECT_DB
#define KVM_GUESTDBG_INJECT_DB 0x00040000
#endif
#ifndef KVM_GUESTDBG_INJECT_BP
#define KVM_GUESTDBG_INJECT_BP 0x00080000
#endif
#ifndef KVM_GUESTDBG_BLOCKIRQ
#define KVM_GUESTDBG_BLOCKIRQ 0x00100000
#endif

/* riscv64's interrupt controller (6.5) */
#ifndef KVM_DEV_TYPE_RISCV_AIA
#define KVM_DEV_TYPE_RISCV_AIA 11
#endif

/* x86's interrupt controllers */
#ifndef KVM_IRQCHIP_PIC_MASTER
#define KVM_IRQCHIP_PIC_MASTER 0
#endif
#ifndef KVM_IRQCHIP_PIC_SLAVE
#define KVM_IRQCHIP_PIC_SLAVE 1
#endif
#ifndef KVM_IRQCHIP_IOAPIC
#define KVM_IRQCHIP_IOAPIC 2
#endif

/* exits and system events */
#ifndef KVM_EXIT_LOONGARCH_IOCSR
#define KVM_EXIT_LOONGARCH_IOCSR 38 /* 6.13 */
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* 6.8 */
#endif
#ifndef KVM_EXIT_TDX
#define KVM_EXIT_TDX 40 /* 6.16 */
#endif
#ifndef KVM_EXIT_ARM_SEA
#define KVM_EXIT_ARM_SEA 41 /* 6.19 */
#endif
#ifndef KVM_SYSTEM_EVENT_TDX_FATAL
#define KVM_SYSTEM_EVENT_TDX_FATAL 7 /* 6.16 */
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3) /* 6.8 */
#endif

/*
 * kvm_run.memory_fault (6.8) begins where every exit's record begins, so its place can be had from
 * a member that old headers have: flags, gpa and size, 64 bits each.
 */
struct kvm_ioctls_memory_fault {
    __u64 flags;
    __u64 gpa;
    __u64 size;
};

/* memory that only the guest sees, and its attributes (6.8); pre-faulting (6.11) */
#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
    __u32 slot;
    __u32 flags;
    __u64 guest_phys_addr;
    __u64 memory_size;
    __u64 userspace_addr;
    __u64 guest_memfd_offset;
    __u32 guest_memfd;
    __u32 pad1;
    __u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif
#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif
#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
    __u64 size;
    __u64 flags;
    __u64 reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0) /* 6.18 */
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1) /* 6.18 */
#endif
#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes {
    __u64 address;
    __u64 size;
    __u64 attributes;
    __u64 flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#endif
#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
    __u64 gpa;
    __u64 size;
    __u64 flags;
    __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

/* an offset between the guest's counters and the host's (6.4) */
#if defined(__aarch64__) && !defined(KVM_ARM_SET_COUNTER_OFFSET)
struct kvm_arm_counter_offset {
    __u64 counter_offset;
    __u64 reserved;
};
#define KVM_ARM_SET_COUNTER_OFFSET _IOW(KVMIO, 0xb5, struct kvm_arm_counter_offset)
#endif

/* which bits of the identification registers may be set (6.7) */
#if defined(__aarch64__) && !defined(KVM_ARM_GET_REG_WRITABLE_MASKS)
struct reg_mask_range {
    __u64 addr;
    __u32 range;
    __u32 reserved[13];
};
#define KVM_ARM_GET_REG_WRITABLE_MASKS _IOR(KVMIO, 0xb6, struct reg_mask_range)
#endif

#endif
