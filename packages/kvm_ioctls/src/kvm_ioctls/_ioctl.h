/* ioctl() that answers -errno. */
#ifndef KVM_IOCTLS_IOCTL_H
#define KVM_IOCTLS_IOCTL_H

long kvm_ioctl_pointer(int fd, unsigned long request, void *argument);
long kvm_ioctl_value(int fd, unsigned long request, unsigned long argument);

#endif
