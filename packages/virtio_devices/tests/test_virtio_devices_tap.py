"""TAP interfaces, and network devices on them, in network namespaces that the tests make.

The kernel's own stack in a namespace is one end, `NetDriver` is the other. No frame leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from virtio_devices import (
    DeviceFailed,
    MmioTransport,
    Net,
    NetFeature,
    Tap,
    TapError,
    VirtioUsageError,
)
from virtio_devices.net import tap as tap_module
from virtio_devices.testing import InterruptCounter, MmioDriver, NetDriver
from vm_memory import GuestMemory


def needs_root(test):
    return pytest.mark.root(pytest.mark.skipif(os.geteuid() != 0, reason="needs root")(test))


F = NetFeature
EVERYTHING = (1 << 24) - 1
USO = int(F.GUEST_USO4 | F.GUEST_USO6 | F.HOST_USO)
CLONE_NEWNET = 0x40000000
GUEST_MAC = bytes.fromhex("020000000002")
HOST, GUEST = "10.9.8.1", "10.9.8.2"
PORT = 7000


class Namespace:
    """A network namespace: what is called in it, and the descriptors made there, belong to it."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._sockets = contextlib.ExitStack()
        self.call(self._enter)

    @staticmethod
    def _enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")

    def call(self, function, *arguments, **options):
        return self._thread.submit(function, *arguments, **options).result()

    def ip(self, *words):
        """Run iproute2's `ip` in it."""
        self.call(subprocess.run, ["ip", *map(str, words)], check=True)

    def tap(self, name="tap0", **options):
        """A tap that the kernel's stack has an address on."""
        tap = self.call(Tap.open, name, **options)
        self.ip("link", "set", "dev", tap.name, "up")
        self.ip("address", "add", f"{HOST}/24", "dev", tap.name)
        return tap

    def socket(self, *arguments):
        end = self._sockets.enter_context(self.call(socket.socket, *arguments))
        end.settimeout(10)
        return end

    def close(self):
        self._sockets.close()
        self._thread.shutdown()


@pytest.fixture
def namespaces():
    """Makes namespaces."""
    made = []

    def make():
        made.append(Namespace())
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def namespace(namespaces):
    """One namespace."""
    return namespaces()


class Card:
    """A network device on a tap, and a driver that is the guest."""

    def __init__(self, memory, tap, wanted, base=0x1000, **options):
        self.device = Net(tap, mac=GUEST_MAC, **options)
        self.kicks = []
        self.transport = MmioTransport(
            self.device, memory, InterruptCounter(), kick=self.kicks.append
        )
        self.driver = NetDriver(
            MmioDriver(self.transport), memory, base, queue_size=256, span=0x80000
        )
        self.driver.start(int(wanted))

    def step(self):
        """One round of a VMM's loop."""
        work = [*self.kicks, *self.device.readiness.values()]
        self.kicks.clear()
        for index in work:
            while self.transport.process_queue(index):
                pass

    def refill(self, size=2048, pair=0):
        queue = self.driver.queues[2 * pair]
        self.driver.post(64 - len(queue.in_flight), size, pair=pair)

    def receive(self, seconds=10, pair=0):
        """The next frames, waiting for the first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.refill(pair=pair)
            self.step()
            if frames := self.arrived(pair=pair):
                return frames
        raise TimeoutError

    def arrived(self, pair=0):
        """What came, without IPv6: kernels look for their neighbours with it, unasked."""
        frames = self.driver.receive(pair=pair)
        return [each for each in frames if each[1][12:14] != b"\x86\xdd"]

    def send(self, *frames, **options):
        self.driver.send(*frames, **options)
        self.step()
        self.driver.sent()


@pytest.fixture
def memory():
    """Guest memory for two cards."""
    with GuestMemory.from_ranges([(0, 0x800000)]) as memory:
        yield memory


@pytest.fixture
def card(namespace, memory):
    """Makes a Card on a new tap of the namespace."""
    with contextlib.ExitStack() as stack:

        def make(wanted=EVERYTHING, queues=1, **options):
            tap = stack.enter_context(namespace.tap(queues=queues))
            return Card(memory, tap, wanted, **options)

        yield make


# Frames of IPv4, as far as the tests need them


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination, kind, payload):
    return destination + GUEST_MAC + struct.pack(">H", kind) + payload


def ipv4(protocol, payload):
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0,
        socket.inet_aton(GUEST), socket.inet_aton(HOST),
    )  # fmt: skip
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def pseudo_header(length):
    return socket.inet_aton(GUEST) + socket.inet_aton(HOST) + struct.pack(">HH", 17, length)


def udp(payload, *, partial=False):
    """A datagram with its checksum, or with the part of it that a device completes."""
    length = 8 + len(payload)
    header = struct.pack(">HHHH", PORT, PORT, length, 0)
    if partial:
        value = ~checksum(pseudo_header(length)) & 0xFFFF
    else:
        value = checksum(pseudo_header(length) + header + payload + b"\0" * (len(payload) % 2))
    return ipv4(17, header[:6] + struct.pack(">H", value) + payload)


def host_mac(namespace, name="tap0"):
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8927, struct.pack("16s24x", name.encode()))
    return answer[18:24]


def know_the_guest(namespace, name="tap0"):
    """Tell the kernel where the guest is, so that it needs no ARP."""
    namespace.ip("neighbour", "add", GUEST, "lladdr", GUEST_MAC.hex(":"), "dev", name)


# Interfaces


@needs_root
def test_an_interface_lives_as_long_as_its_descriptors(namespace):
    """The kernel finds a name; closing twice is once; who forgets to close is warned."""
    with namespace.call(Tap.open) as tap:
        assert tap.name.startswith("tap")
        assert len(tap.queue_fds) == 1
        assert not os.get_blocking(tap.queue_fds[0])
        assert not os.get_inheritable(tap.queue_fds[0])
        namespace.ip("link", "show", tap.name)
        assert tap.name in repr(tap)
    tap.close()
    assert tap.queue_fds == ()
    with pytest.raises(subprocess.CalledProcessError):
        namespace.ip("link", "show", tap.name)
    forgotten = namespace.call(Tap.open)
    with pytest.warns(ResourceWarning, match="unclosed <Tap tap"):
        forgotten.__del__()


@needs_root
def test_the_kernels_offloads_are_found_by_asking(namespace):
    """Those of this kernel: all but none is a mistake of ours; each can be set and cleared."""
    with namespace.call(Tap.open) as tap:
        offloads = F.GUEST_CSUM | F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_ECN
        assert tap.features & offloads == offloads
        assert tap.features & (F.CSUM | F.HOST_TSO4 | F.HOST_TSO6) == (
            F.CSUM | F.HOST_TSO4 | F.HOST_TSO6
        )
        tap.set_offloads(int(offloads))
        tap.set_offloads(0)
        with pytest.raises(TapError, match=r"TAP interface tap\d+ has no offloads 0x20"):
            tap.set_offloads(int(F.MAC))
        with pytest.raises(
            TapError, match=r"does not set its offloads: invalid argument"
        ) as caught:
            tap.set_offloads(int(F.GUEST_TSO4))
        assert caught.value.errno == errno.EINVAL
        assert caught.value.name == tap.name


@needs_root
def test_an_interface_has_one_owner(namespace):
    """And as many queues as it was made with."""
    with namespace.call(Tap.open, "mine"), pytest.raises(TapError, match=r"mine: it is in use"):
        namespace.call(Tap.open, "mine")
    namespace.ip("tuntap", "add", "dev", "single", "mode", "tap", "vnet_hdr")
    with pytest.raises(TapError, match=r"single: it was made for one pair of queues, without mult"):
        namespace.call(Tap.open, "single", queues=2)
    with namespace.call(Tap.open, "single") as tap:
        assert tap.name == "single"


@needs_root
def test_an_interface_of_another_kind(namespace):
    """The kernel says EINVAL to all of them; what they are is told."""
    namespace.ip("tuntap", "add", "dev", "several", "mode", "tap", "multi_queue")
    namespace.ip("tuntap", "add", "dev", "packets", "mode", "tun")
    for name, reason in (
        ("several", r"it was made for several pairs of queues, with multi_queue$"),
        ("packets", r"it is no TAP interface$"),
        ("lo", r"it is no TAP interface$"),
        ("..", r"the kernel makes no interface of this name$"),
    ):
        with pytest.raises(TapError, match=rf"interface {re.escape(name)}: {reason}"):
            namespace.call(Tap.open, name)


@needs_root
def test_an_interface_that_cannot_be_prepared_is_not_kept(namespace, monkeypatch):
    """Nothing is left of it, and nobody has to close it."""

    def refuse(tap):
        raise TapError(tap.name, errno.EINVAL, "an old kernel")

    monkeypatch.setattr(Tap, "_prepare", refuse)
    with pytest.raises(TapError, match="an old kernel"):
        namespace.call(Tap.open, "brief")
    with pytest.raises(subprocess.CalledProcessError):
        namespace.ip("link", "show", "brief")


@contextlib.contextmanager
def as_nobody():
    """Without root's rights, for the whole process."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@needs_root
def test_without_rights_to_the_device_node_the_way_out_is_named(monkeypatch, tmp_path):
    """It is root's on some machines and everybody's on others: here it is a file of root's."""
    node = tmp_path / "tun"
    node.touch(0o600)
    monkeypatch.setattr(tap_module, "_DEVICE", str(node))
    with as_nobody(), pytest.raises(TapError, match=r"tun: permission denied; run as root, or pas"):
        Tap.open("mine")


@needs_root
def test_without_rights_to_make_interfaces_the_way_out_is_named(namespace):
    """An interface is its owner's."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    namespace.ip("tuntap", "add", "dev", "theirs", "mode", "tap", "user", "1")
    for name, reason in (
        ("new", "not permitted; run as root, or let root create it for you with"),
        ("theirs", "it is another user's; run as root, or let root delete it and do"),
    ):
        pattern = rf"TAP interface {name}: {reason} `ip tuntap add dev {name} mode tap user USER`$"
        with as_nobody(), pytest.raises(TapError, match=pattern):
            namespace.call(tap_module._attach, fd, name, multi_queue=False)
    os.close(fd)


def test_without_the_device_node_the_module_is_named(monkeypatch):
    """A kernel may have it and not have loaded it."""
    monkeypatch.setattr(tap_module, "_DEVICE", "/dev/net/no-such-node")
    with pytest.raises(TapError, match=r"no such file or directory; load the kernel's module tun"):
        Tap.open()


@pytest.mark.parametrize("name", ["sixteen-letters-", "zero\0", "\N{SNOWMAN}"])
def test_names_that_no_interface_has_are_mistakes(name):
    """Found before anything is opened."""
    with pytest.raises(VirtioUsageError, match="is no name of 15 ASCII characters"):
        Tap.open(name)
    with pytest.raises(VirtioUsageError, match="cannot have 0 queues"):
        Tap.open(queues=0)


def test_descriptors_of_something_else_are_refused():
    """They stay the caller's."""
    with pytest.raises(VirtioUsageError, match="cannot have 0 queues"):
        Tap.from_fds([])
    reader, writer = os.pipe()
    with pytest.raises(TapError, match=rf"descriptor {reader} is attached to no TAP interface"):
        Tap.from_fds([reader])
    os.close(reader)
    os.close(writer)


def attach(name, flags):
    """What a launcher does that passes descriptors on."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
    return fd


@needs_root
def test_descriptors_of_a_tap_are_taken_over(namespace):
    """Several queues of one interface; those without headers cannot be used."""
    fds = [namespace.call(attach, "given", 0x5102) for _ in range(2)]
    with Tap.from_fds(fds) as tap:
        assert (tap.name, tap.queue_fds) == ("given", tuple(fds))
        assert not any(os.get_blocking(fd) for fd in fds)
        tap.set_active_queues(1)
        tap.set_active_queues(2)
        with pytest.raises(VirtioUsageError, match="3 active queues of 2"):
            tap.set_active_queues(3)
    plain = namespace.call(attach, "plain", 0x1002)
    other = namespace.call(attach, "other", 0x5002)
    third = namespace.call(attach, "third", 0x5002)
    with pytest.raises(TapError, match=r"descriptor \d+ of plain .* flags 0x1002, which lack"):
        Tap.from_fds([plain])
    with pytest.raises(TapError, match=r"different interfaces: \['other', 'third'\]"):
        Tap.from_fds([other, third])
    for fd in (plain, other, third):
        os.close(fd)


# A device on an interface


@needs_root
@pytest.mark.parametrize("wanted", [0, EVERYTHING])
def test_the_kernel_finds_the_guest_and_gets_an_echo(card, namespace, wanted):
    """ARP asks who has the address, the guest answers; ICMP asks for an echo and gets it."""
    net = card(wanted)
    ping = namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    request = struct.pack(">BBHHH", 8, 0, 0, 0x1234, 1) + b"to and fro"
    request = request[:2] + struct.pack(">H", checksum(request)) + request[4:]
    ping.sendto(request, (GUEST, 0))
    ((_, question),) = net.receive()
    assert (question[:6], question[12:14], question[38:42]) == (
        b"\xff" * 6, b"\x08\x06", socket.inet_aton(GUEST)
    )  # fmt: skip
    sender_mac, sender = question[22:28], question[28:32]
    answer = question[14:20] + b"\0\2" + GUEST_MAC + question[38:42] + sender_mac + sender
    net.send(ethernet(sender_mac, 0x0806, answer))
    ((header, frame),) = net.receive()
    assert header == bytes(10) + b"\1\0"
    assert frame[34:] == request
    reply = b"\0" + request[1:2] + b"\0\0" + request[4:]
    reply = reply[:2] + struct.pack(">H", checksum(reply)) + reply[4:]
    net.send(ethernet(sender_mac, 0x0800, ipv4(1, reply)))
    assert ping.recv(2000)[20:] == reply


@needs_root
def test_checksums_are_completed_by_whoever_was_asked(card, namespace):
    """With GUEST_CSUM the guest gets the kernel's wish in the header, without it a checksum.

    The guest's own wish is completed by the kernel, which drops what is simply wrong.
    """
    net = card()
    know_the_guest(namespace)
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, PORT))
    end.sendto(b"left to the guest", (GUEST, PORT))
    ((header, _),) = net.receive()
    assert struct.unpack("<BBHHHH", header[:10]) == (1, 0, 0, 0, 34, 6)
    net.driver.command((5, 0), bytes(8))
    net.step()
    assert net.driver.answers() == [0]
    end.sendto(b"left to the host", (GUEST, PORT))
    ((header, frame),) = net.receive()
    assert header[:10] == bytes(10)
    data = frame[34:]
    assert checksum(frame[26:34] + struct.pack(">HH", 17, len(data)) + data) == 0
    mac = host_mac(namespace)
    wrong = ethernet(mac, 0x0800, udp(b"wrong", partial=True))
    net.send(wrong)
    net.send(wrong[:42] + b"right", header=struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 6, 0))
    net.send(ethernet(mac, 0x0800, udp(b"whole")))
    assert [end.recv(100), end.recv(100)] == [b"right", b"whole"]


@needs_root
def test_a_header_without_meaning_costs_one_frame(card, namespace):
    """The kernel refuses it; it is counted, and the next one passes."""
    net = card()
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, PORT))
    good = ethernet(host_mac(namespace), 0x0800, udp(b"good"))
    for header in (b"\1\1" + b"\xff" * 10, b"\0\x77" + bytes(10), b"\xff" * 12):
        net.send(good, header=header)
    net.send(good)
    assert end.recv(100) == b"good"
    assert net.device.counters.tx_refused == 3


@needs_root
@pytest.mark.parametrize("wanted", [0, F.MRG_RXBUF, EVERYTHING])
def test_datagrams_arrive_whole_both_ways(card, namespace, wanted):
    """4 MiB in datagrams of all sizes, their hash taken on both sides."""
    net = card(wanted)
    know_the_guest(namespace)
    mac = host_mac(namespace)
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, PORT))
    sent, received = hashlib.sha256(), hashlib.sha256()
    source = os.urandom(1 << 16)
    for number in range(4 << 20 >> 10):
        payload = source[number * 13 :][: 600 + number % 873]
        sent.update(payload)
        if number % 2:
            end.sendto(payload, (GUEST, PORT))
            ((_, frame),) = net.receive()
            received.update(frame[42:])
        else:
            net.send(ethernet(mac, 0x0800, udp(payload)))
            received.update(end.recv(2000))
    assert received.digest() == sent.digest()


@needs_root
@pytest.mark.parametrize("wanted", [USO, int(F.GUEST_USO4), 0])
def test_datagrams_are_segmented_where_it_was_agreed(card, namespace, wanted):
    """The guest gets what the host's kernel left whole, in one frame; of half the pair, nothing.

    What the guest left whole the kernel takes in any case: not to send it is the driver's duty.
    """
    net = card(EVERYTHING | wanted)
    if not net.device.features & USO:
        pytest.skip("this kernel has no UDP segmentation on TAP interfaces")
    assert net.device.features & USO == USO
    know_the_guest(namespace)
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, PORT))
    end.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
    payload = bytes(range(250)) * 14
    end.sendto(payload, (GUEST, PORT))
    frames = []
    while sum(len(frame) - 42 for _, frame in frames) < len(payload):
        frames += net.receive()
    assert b"".join(frame[42:] for _, frame in frames) == payload
    whole = struct.pack("<BBHHHH", 1, 5, 42, 1000, 34, 6)
    if wanted == USO:
        assert [header[:10] for header, _ in frames] == [whole]
    else:
        assert [len(frame) - 42 for _, frame in frames] == [1000, 1000, 1000, 500]
    big = ethernet(host_mac(namespace), 0x0800, udp(payload, partial=True))
    net.send(big, header=whole + b"\0\0")
    assert [end.recv(4000) for _ in range(4)] == [
        payload[start : start + 1000] for start in range(0, 3500, 1000)
    ]


class Cable:
    """Two guests' drivers, frames passed on between them: two hosts that know nothing of it."""

    def __init__(self, one, other):
        self.cards = (one, other)
        self.largest = 0
        for each in self.cards:
            each.refill(size=4096)

    def step(self):
        for here, there in (self.cards, self.cards[::-1]):
            here.step()
            if not there.driver.queues[1].in_flight:
                for header, frame in here.driver.receive():
                    self.largest = max(self.largest, len(frame))
                    there.driver.send(frame, header=header[:10] + b"\0\0")
                here.refill(size=4096)
            there.driver.sent()


@needs_root
@pytest.mark.parametrize("wanted", [EVERYTHING & ~0x7F83, EVERYTHING])
def test_a_tcp_stream_passes_between_two_kernels(namespaces, memory, wanted):
    """16 MiB each way, hashed at both ends: without offloads, and segmented by the last kernel."""
    spaces, addresses = (namespaces(), namespaces()), ("10.9.7.1", "10.9.7.2")
    with contextlib.ExitStack() as stack:
        cards = []
        for space, address, base in zip(spaces, addresses, (0x1000, 0x400000), strict=True):
            tap = stack.enter_context(space.tap())
            space.ip("address", "replace", f"{address}/24", "dev", tap.name)
            cards.append(Card(memory, tap, wanted, base))
        cable = Cable(*cards)
        server = spaces[0].socket(socket.AF_INET, socket.SOCK_STREAM)
        server.bind((addresses[0], PORT))
        server.listen()
        client = spaces[1].socket(socket.AF_INET, socket.SOCK_STREAM)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        data = [os.urandom(1 << 20) * 16 for _ in range(2)]
        calling = pool.submit(exchange, client, (addresses[0], PORT), data[0])
        answering = pool.submit(exchange, server, None, data[1])
        deadline = time.monotonic() + 60
        while not (calling.done() and answering.done()) and time.monotonic() < deadline:
            cable.step()
        for future, expected in ((answering, data[0]), (calling, data[1])):
            assert future.result(1) == hashlib.sha256(expected).digest()
    assert (cable.largest > 9000) == (wanted == EVERYTHING)
    assert all(card.device.counters.rx_malformed == 0 for card in cards)


def exchange(end, address, data):
    """Send all of `data` and return the hash of what comes, at the same time."""
    if address is not None:
        end.connect(address)
    else:
        end, _ = end.accept()
    end.settimeout(30)
    with end, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: (end.sendall(data), end.shutdown(socket.SHUT_WR)))
        received = hashlib.sha256()
        while piece := end.recv(1 << 16):
            received.update(piece)
        sending.result()
    return received.digest()


@needs_root
def test_flows_spread_over_the_queues_in_use(card, namespace):
    """All frames arrive; on several queues once the driver uses them, on the first before."""
    net = card(queues=4)
    know_the_guest(namespace)

    def received(pairs):
        counts = [0] * 4
        for number in range(64):
            with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.bind((HOST, 10000 + number))
                end.sendto(b"from a port of its own", (GUEST, PORT))
        deadline = time.monotonic() + 10
        while sum(counts) < 64 and time.monotonic() < deadline:
            for pair in range(pairs):
                net.refill(pair=pair)
            net.step()
            for pair in range(4):
                counts[pair] += len(net.arrived(pair=pair))
        assert sum(counts) == 64
        return counts

    assert received(1) == [64, 0, 0, 0]
    net.driver.command((4, 0), b"\4\0")
    net.step()
    assert min(received(4)) > 0
    net.driver.command((4, 0), b"\1\0")
    net.step()
    assert net.driver.answers() == [0, 0]
    assert received(1) == [64, 0, 0, 0]


@needs_root
def test_each_pair_sends(card, namespace):
    """Whichever transmit queue a frame is in, it reaches the interface."""
    net = card(queues=2)
    net.driver.command((4, 0), b"\2\0")
    net.step()
    end = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, PORT))
    mac = host_mac(namespace)
    for pair in range(2):
        net.send(ethernet(mac, 0x0800, udp(b"pair %d" % pair)), pair=pair)
    assert {end.recv(100), end.recv(100)} == {b"pair 0", b"pair 1"}


@needs_root
def test_an_interface_that_is_down_takes_nothing(card, namespace):
    """Frames are refused and counted; nothing breaks."""
    net = card()
    namespace.ip("link", "set", "dev", "tap0", "down")
    net.send(bytes(60))
    assert net.device.counters.tx_refused == 1
    assert net.transport.failure is None


@needs_root
@pytest.mark.parametrize("index", [0, 1])
def test_an_interface_that_is_deleted_is_a_failed_device(card, namespace, index):
    """The guest's driver is told, the VMM why, and no descriptor is waited for."""
    net = card()
    namespace.ip("link", "delete", "tap0")
    net.driver.queues[1].add([bytes(12), bytes(60)])
    net.transport.process_queue(index)
    assert isinstance(net.transport.failure, DeviceFailed)
    assert "gone: file descriptor in bad state" in str(net.transport.failure)
    assert net.device.readiness == {}
    assert net.device.config[6] & 1 == 0  # no carrier
