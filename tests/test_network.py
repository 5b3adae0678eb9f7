"""Network cards under a stock kernel's own driver, with this machine's kernel at the other end.

Each test makes a network namespace, and the VMM runs in it with its TAP interface. The interface,
the addresses and the sockets are there and go with the processes; nothing outside is touched.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import os
import random
import re
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface

import pytest

from virtio_devices import NetFeature, Tap
from vmm_reference.guest_assets import default_guest
from vmm_reference.hypervisor import KvmState, examine_kvm
from vmm_reference.virtio.host_interface import HostInterface

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(300),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace"),
]

TIMEOUT = 250
HOST, GUEST = "192.168.249.1", "192.168.249.2"
MAC = "02:00:00:00:00:05"
DOWN, UP = 7000, 7001
NET = f"tap=vmtap0,ip={HOST},mask=255.255.255.0,mac={MAC}"
CLONE_NEWNET = 0x40000000
STREAM = 100_000_000


class Namespace:
    """A network namespace: what is called in it, and the sockets made there, belong to it."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._outside = ThreadPoolExecutor(1)
        self._sockets = []
        self.call(self._enter)

    @staticmethod
    def _enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")

    def start(self, function, *arguments, **options):
        return self._thread.submit(function, *arguments, **options)

    def call(self, function, *arguments, **options):
        return self.start(function, *arguments, **options).result()

    def meanwhile(self, function, *arguments):
        """Call a function that waits for the namespace's sockets, on another thread."""
        return self._outside.submit(function, *arguments)

    def socket(self, *arguments):
        end = self.call(socket.socket, *arguments)
        end.settimeout(TIMEOUT)
        self._sockets.append(end)
        return end

    def server(self, port):
        end = self.socket(socket.AF_INET, socket.SOCK_STREAM)
        end.bind(("0.0.0.0", port))  # noqa: S104 - the interface with the address comes later
        end.listen()
        return end

    def close(self):
        """End whatever waits, as after a guest that failed, and with the threads the namespace."""
        for end in self._sockets:
            with contextlib.suppress(OSError):  # it is not connected, and wakes nevertheless
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._outside.shutdown()
        self._thread.shutdown()


@pytest.fixture
def namespace():
    """A namespace of its own, with nothing in it but an interface to itself that is down."""
    made = Namespace()
    yield made
    made.close()


@pytest.fixture(params=["soft", pytest.param("kvm", marks=pytest.mark.stock_kvm)])
def hypervisor(request):
    """Each hypervisor; KVM where it runs stock kernels, as it does in the nested session."""
    if request.param == "kvm" and (kvm := examine_kvm()).state is not KvmState.STOCK:
        pytest.skip(f"this KVM cannot run stock kernels: {kvm}")
    default_guest()  # the first use says so on standard error
    return request.param


@pytest.fixture
def boot(hypervisor, namespace, vmm):
    """A function that boots the default guest in the namespace; returns what will be its end."""

    def start(script, *arguments, **options):
        arguments = ("--hypervisor", hypervisor, *arguments, "--exec", script)
        return namespace.start(vmm, *arguments, timeout=TIMEOUT, **options)

    return start


def checksum(data):
    """The internet's (RFC 1071), of an even number of bytes."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(end, address):
    """Send one ICMP echo request (RFC 792) by a raw socket; whether the answer is the request."""
    payload = os.urandom(56)
    rest = struct.pack(">HH", 0x5059, 1) + payload
    request = struct.pack(">BBH", 8, 0, checksum(b"\x08\0\0\0" + rest)) + rest
    end.sendto(request, (address, 0))
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        answer = end.recv(2000)[20:]
        if answer[0] == 0:
            return answer[4:] == rest
    return False


def receive(end, most=1 << 40):
    """Everything until the other side has ended, or `most` bytes."""
    parts = []
    while most > 0 and (part := end.recv(min(most, 1 << 20))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def exchange(down, up, raw, data):
    """Ping the guest as soon as it has called, give it `data`, return what comes back."""
    end, _ = down.accept()
    with end:
        answered = ping(raw, GUEST)
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        receive(end)
    end, _ = up.accept()
    with end:
        returned = receive(end, len(data))
        end.sendall(b"all of it\n")
        return answered, returned + receive(end)


# The guest waits for the word that all has come before it powers off: a program's end is not the
# end of what its socket has still to send. (Linux 6.1 resets its devices when it powers off, and
# its network driver then spins for ever over frames that nobody sends any more.)
ROUND_TRIP = f"""
    cd /sys/class/net/eth0
    ip address add {GUEST}/24 dev eth0
    ping -c 2 -W 20 {HOST} | grep -o '[0-9] packets received'
    cat address mtu carrier operstate
    nc {HOST} {DOWN} -e dd bs=1M of=/tmp/data 2>/dev/null
    md5sum </tmp/data
    nc {HOST} {UP} -e sh -c 'cat /tmp/data; read all'
"""


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_pings_and_a_stream_pass_both_ways(boot, namespace, transport):
    """Host and guest ping each other; 100 MB through TCP reach the guest and come back."""
    data = random.Random(5).randbytes(STREAM)  # noqa: S311 - the same in each run
    raw = namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    servers = namespace.server(DOWN), namespace.server(UP)
    exchanged = namespace.meanwhile(exchange, *servers, raw, data)
    ended = boot(ROUND_TRIP, "--net", NET, "--virtio-transport", transport).result()
    assert (ended.code, ended.stderr) == (0, ""), ended.stdout
    answered, returned = exchanged.result(10)
    received, *card, digest = ended.stdout.decode().splitlines()
    assert received == "2 packets received"
    assert card == [MAC, "1500", "1", "up"]
    assert digest.split()[0] == hashlib.md5(data).hexdigest()  # noqa: S324 - cheap in the guest
    assert answered
    assert hashlib.sha256(returned).digest() == hashlib.sha256(data).digest()


def features(text):
    """What the kernel shows in a device's `features`: a digit for each bit, the lowest first."""
    return sum(1 << bit for bit, digit in enumerate(text) if digit == "1")


OFFLOADS = sum(
    feature for feature in NetFeature if re.search("(CSUM|ECN|[TU]SO[46]?|UFO)$", feature.name)
)


def test_a_card_is_what_its_flag_says(boot):
    """Address and MTU; offloads that were switched off are not even offered."""
    script = """
        for card in eth0 eth1; do
            cat /sys/class/net/$card/address /sys/class/net/$card/mtu
            cat /sys/class/net/$card/device/features
        done
    """
    ended = boot(
        script,
        *("--net", f"tap=one,mac={MAC},mtu=1400,offload_csum=off,queue_size=64"),
        *("--net", "tap=two,mtu=9000,offload_tso=off"),
    ).result()
    assert (ended.code, ended.stderr) == (0, "")
    mac, mtu, offered, _, other_mtu, others = ended.stdout.decode().splitlines()
    assert (mac, mtu, other_mtu) == (MAC, "1400", "9000")
    assert features(offered) & NetFeature.MTU
    assert not features(offered) & OFFLOADS
    assert not features(others) & (NetFeature.HOST_TSO4 | NetFeature.GUEST_TSO6)
    assert features(others) & NetFeature.CSUM


CODE, DATA = 0x40_0000, 0x100
# socket(AF_INET, SOCK_DGRAM, 0), ioctl(it, SIOCETHTOOL, request), exit_group(-result)
SET_CHANNELS = b"".join(
    [
        bytes.fromhex("b829000000 bf02000000 be02000000 31d2 0f05"),
        bytes.fromhex("89c7 be46890000 b810000000 ba") + struct.pack("<I", CODE + DATA),
        bytes.fromhex("0f05 89c7 f7df b8e7000000 0f05"),
    ]
)


def set_channels(count):
    """A program for the guest that does `ethtool -L eth0 combined COUNT`."""
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    entry = CODE + 0x78
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, CODE, CODE, 0x150, 0x150, 0x1000)
    request = struct.pack("<16sQ16x", b"eth0", CODE + DATA + 40)  # struct ifreq
    request += struct.pack("<9I", 0x3D, 0, 0, 0, 0, 0, 0, 0, count)  # struct ethtool_channels
    return (header + segment + SET_CHANNELS).ljust(DATA, b"\0") + request.ljust(0x50, b"\0")


def test_several_queues_carry_frames(boot, namespace):
    """num_queues=4 are two pairs; the guest uses both once it is told to, each with messages."""
    server = namespace.server(DOWN)
    program = base64.b64encode(set_channels(2)).decode()
    script = f"""
        echo {program} | base64 -d >/tmp/set && chmod +x /tmp/set && /tmp/set || exit 9
        ip address add {GUEST}/24 dev eth0
        ls /sys/class/net/eth0/queues | sort
        for n in $(seq 32); do echo $n | nc {HOST} {DOWN}; done
        grep -o 'virtio0-.*put.*' /proc/interrupts
        awk '/virtio0-input/ {{ print ($2 > 0) }}' /proc/interrupts
    """

    def answer():
        heard = []
        for _ in range(32):
            end, _ = server.accept()
            with end:
                heard.append(int(receive(end)))
        return heard

    heard = namespace.meanwhile(answer)
    ended = boot(script, "--net", f"{NET},num_queues=4").result()
    assert (ended.code, ended.stderr) == (0, "")
    assert heard.result(10) == list(range(1, 33))
    assert ended.stdout.decode().split() == [
        *("rx-0", "rx-1", "tx-0", "tx-1"),
        *("virtio0-input.0", "virtio0-output.0", "virtio0-input.1", "virtio0-output.1"),
        *("1", "1"),
    ]


def test_a_launcher_passes_on_descriptors(boot, namespace):
    """A VMM without CAP_NET_ADMIN uses an interface that somebody else has made and configured."""
    raw = namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    server = namespace.server(DOWN)

    def prepare():
        tap = Tap.open("given")
        with HostInterface("given") as interface:
            interface.set_address(IPv4Interface(f"{HOST}/24"))
            interface.bring_up()
        return tap

    def meet():
        end, _ = server.accept()
        with end:
            return ping(raw, GUEST)

    prefix = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    script = f"ip address add {GUEST}/24 dev eth0; nc {HOST} {DOWN} </dev/null"
    with namespace.call(prepare) as tap:
        met = namespace.meanwhile(meet)
        (fd,) = tap.queue_fds
        ended = boot(script, "--net", f"fd={fd}", prefix=prefix, pass_fds=(fd,)).result()
        assert (ended.code, ended.stderr) == (0, "")
        assert met.result(10)


def answer_to(request):
    """The answer of a DHCP server (RFC 2131, RFC 2132) to an offer's or a lease's seeker."""
    kind = request[request.index(b"\x35\x01", 240) + 2]  # option 53: DISCOVER 1, REQUEST 3
    host, guest, mask = (socket.inet_aton(each) for each in (HOST, GUEST, "255.255.255.0"))
    reply = b"\2" + request[1:16] + guest + bytes(8) + request[28:236] + request[236:240]
    reply += bytes([53, 1, 2 if kind == 1 else 5])  # OFFER or ACK
    for code, value in ((54, host), (1, mask), (3, host), (6, host), (51, b"\0\0\x0e\x10")):
        reply += bytes([code, len(value)]) + value
    return kind == 3, reply + b"\xff"


def test_a_guest_asks_for_an_address(boot, namespace):
    """A DHCP server of the host gives address, route and name server to the guest's udhcpc."""
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    end.bind(("0.0.0.0", 67))  # noqa: S104 - the interface with the address comes later

    def serve():
        leased = False
        while not leased:
            request = end.recv(2000)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"vmtap0")
            leased, reply = answer_to(request)
            end.sendto(reply, ("255.255.255.255", 68))

    script = """
        udhcpc -i eth0 -n -q >/dev/null 2>&1 || exit 9
        ip -4 address show dev eth0 | grep -o 'inet [^ ]*'
        ip route | grep default
        cat /etc/resolv.conf
    """
    served = namespace.meanwhile(serve)
    ended = boot(script, "--net", NET).result()
    assert (ended.code, ended.stderr) == (0, "")
    served.result(10)
    assert [line.strip() for line in ended.stdout.decode().splitlines()] == [
        f"inet {GUEST}/24",
        f"default via {HOST} dev eth0",
        f"nameserver {HOST}",
    ]


def test_a_deleted_interface_takes_the_carrier(boot, namespace, tmp_path):
    """The guest sees it go, and a warning names the interface."""
    word = tmp_path / "delete"
    delete = f"until [ -e {word} ]; do sleep 0.1; done; ip link delete vmtap0"
    server = namespace.server(UP)
    carrier = "/sys/class/net/eth0/carrier"
    script = (
        f"ip address add {GUEST}/24 dev eth0; nc {HOST} {UP} </dev/null;"
        f"while [ $(cat {carrier}) = 1 ]; do sleep 0.1; done; cat {carrier}"
    )
    end = boot(script, "--net", NET, prefix=("sh", "-c", f'({delete}) & exec "$@"', "sh"))
    try:
        server.accept()[0].close()
    finally:
        word.touch()
    ended = end.result()
    assert (ended.code, ended.stdout) == (0, b"0\n"), ended.stderr
    assert "net0 (vmtap0): the backend of a receive queue is gone: file desc" in ended.stderr
