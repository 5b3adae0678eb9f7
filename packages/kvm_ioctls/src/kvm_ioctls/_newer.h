/*
 * Numbers of the kernel's ABI that are newer than the oldest header we build with (Linux 6.1).
 *
 * Every entry gives way to the header's own definition as soon as the header has one.  The numbers
 * are ABI and can never change: Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h of the
 * release named on each line.
 */
#ifndef KVM_IOCTLS_NEWER_H
#define KVM_IOCTLS_NEWER_H

#include <errno.h>
#include <linux/kvm.h>

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
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237 /* 6.11 */
#endif
#ifndef KVM_CAP_X86_GUEST_MODE
#define KVM_CAP_X86_GUEST_MODE 238 /* 6.13 */
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* 6.8 */
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

#endif
