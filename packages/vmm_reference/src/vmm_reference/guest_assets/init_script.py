"""The guest's first process and the files it reads: text only, no logic of the host's.

What the script owes the host (see `guest_assets`): with `/etc/py-vmm/exec` present, run that
command with stdout on ttyS1 and stderr on ttyS2, byte for byte, then its exit status on ttyS3,
then power off; without it, an interactive shell on the console.

Starting a program costs 8 to 19 ms on an emulated processor, so the script reads and decides with
the shell's builtins and starts only what does work. Where that shapes a line, a comment says so.
"""

from __future__ import annotations

FSTAB = """\
proc /proc proc defaults 0 0
sysfs /sys sysfs defaults 0 0
devtmpfs /dev devtmpfs mode=0755 0 0
"""

ACCOUNTS = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""

GROUPS = """\
root:x:0:
nogroup:x:65534:
"""

HOSTS = "127.0.0.1 localhost\n"

UDHCPC = """\
#!/bin/sh
# What udhcpc runs when it has got an address or lost one.
[ "$1" = deconfig ] && exec ip address flush dev "$interface"
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address flush dev "$interface"
ip address add "$ip/$mask" dev "$interface"
for gateway in $router; do
    ip route replace default via "$gateway" dev "$interface" && break
done
for server in $dns; do
    echo "nameserver $server"
done >/etc/resolv.conf
"""

PROFILE = """\
PS1='py-vmm:\\w# '
"""

INIT = r"""#!/bin/sh
# PID 1 of py-vmm's default guest.

export HOME=/root TERM=linux
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# /etc/fstab, so that one process mounts them all.
mount -a

# Names that programs expect: /dev/fd, stdin, stdout, stderr, folders to mount on, and /sbin.
cp -a /etc/py-vmm/late/. /

# `poweroff`, `reboot` and `halt` without -f send these signals to PID 1. What a command has
# written so far goes out first.
leave() {
    [ -e /etc/py-vmm/exec ] && raw-ports
    exec "$1" -f
}
trap 'leave poweroff' USR2
trap 'leave halt' USR1
trap 'leave reboot' TERM

# The drivers of the devices that are there: first those that are, or lead to, a bus.
drivers=
for device in /sys/bus/acpi/devices/QEMU0001:*; do
    [ -e "$device" ] && drivers=pvpanic-mmio
done
for device in /sys/bus/acpi/devices/LNRO0005:*; do
    [ -e "$device" ] && drivers="$drivers virtio_mmio" && break
done
for device in /sys/bus/pci/devices/*; do
    [ -e "$device" ] || continue
    read -r vendor <"$device/vendor"
    case $vendor in
        0x1af4 | 0x1b36) read -r alias <"$device/modalias" && drivers="$drivers $alias" ;;
    esac
done
[ -n "$drivers" ] && modprobe -aq $drivers
drivers=
for device in /sys/bus/virtio/devices/*; do
    [ -e "$device" ] && read -r alias <"$device/modalias" && drivers="$drivers $alias"
done
[ -n "$drivers" ] && modprobe -aq $drivers

# Network cards carry frames; addresses are the user's (ip address add, or udhcpc).
for card in /sys/class/net/eth*; do
    [ -e "$card" ] && ip link set "${card##*/}" up
done

# A console whose driver has just been loaded takes over from the one that this script began with,
# which there may not even have been. It is opened once: what has been typed would go with a close.
read -r active </sys/class/tty/console/active
[ -n "$active" ] && exec <>/dev/console >&0 2>&0

read -r cmdline </proc/cmdline
rows= cols= root= init=/sbin/init access=ro
for word in $cmdline; do
    case $word in
        py_vmm.rows=*) rows=${word#*=} ;;
        py_vmm.cols=*) cols=${word#*=} ;;
        root=/dev/*) root=${word#*=} ;;
        init=*) init=${word#*=} ;;
        rw) access=rw ;;
    esac
done

# A root file system on a disk takes over, as it would from a distribution's initramfs.
if [ -n "$root" ] && ! [ -e /etc/py-vmm/exec ] && mount -o "$access" "$root" /mnt; then
    for name in dev proc sys; do
        [ -d "/mnt/$name" ] && mount --move "/$name" "/mnt/$name"
    done
    trap - USR1 USR2 TERM
    cd /mnt && mount --move . / && exec chroot . "$init"
fi

echo py-vmm >/proc/sys/kernel/hostname
cd /root

# Each branch reads from a process substitution, and not from a plain child, so that PID 1 hears
# the signals above at once (a shell that waits for a child in the foreground does not) while the
# child keeps the default action for SIGINT (one in the background would not).
if [ -e /etc/py-vmm/exec ]; then
    exec 3>/dev/ttyS1 4>/dev/ttyS2 5>/dev/ttyS3
    raw-ports
    IFS= read -r -d '' command </etc/py-vmm/exec
    read -r status < <(
        trap - USR1 USR2 TERM
        # The shell reports a killed child on its own stderr; hence the inner parentheses, too.
        exec 2>/dev/null
        (exec sh -c "$command" </dev/null >&3 2>&4 3>&- 4>&- 5>&-)
        echo $?
    )
    # Run again, it waits until the ports are empty. Closing the last one waits for its line.
    raw-ports
    echo "$status" >&5
    exec 5>&-
else
    [ -n "$rows" ] && [ -n "$cols" ] && stty rows "$rows" cols "$cols"
    mount -t devpts devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    ip link set lo up
    echo
    echo "A shell in the guest. Leave with exit or poweroff, or at once with Ctrl-A x."
    echo
    read -r status < <(
        trap - USR1 USR2 TERM
        setsid cttyhack sh -l <>/dev/console >&0 2>&0
        echo $?
    )
fi

exec poweroff -f
"""
