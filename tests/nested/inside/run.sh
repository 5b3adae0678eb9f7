#!/bin/sh
# Runs in the emulated machine: load KVM, run the tests, leave.
#
#   run.sh CHECKOUT PYTHON ARGUMENTS
#
# Output is pytest's; standard error is kept for the JUnit record alone. 100 is "no KVM".

checkout=$1 python=$2 arguments=$3
record=/tmp/nested.xml

for module in /lib/nested/*.ko; do
    insmod "$module" || exit 100
done
if ! [ -c /dev/kvm ]; then
    echo "the kernel has loaded its KVM modules and there is no /dev/kvm"
    exit 100
fi
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up

export PYTHONUTF8=1 PYTHONPATH="$checkout/tests/nested/inside" PY_VMM_MACHINE=nested
cd "$checkout" || exit 100
"$python" -m pytest -p nested_plugin --junitxml="$record" "@$arguments" 2>&1
status=$?
[ -e "$record" ] && cat "$record" >&2
exit "$status"
