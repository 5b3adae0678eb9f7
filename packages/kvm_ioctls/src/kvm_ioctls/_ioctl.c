/* ioctl() that answers -errno instead of setting errno, which a switch of threads may change. */
#include "_ioctl.h"

#include <errno.h>
#include <sys/ioctl.h>

long kvm_ioctl_pointer(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

long kvm_ioctl_value(int fd, unsigned long request, unsigned long argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}
