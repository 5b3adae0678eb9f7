"""Network cards out of their configuration, and the host's end of them, in a namespace."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface

import pytest

from virtio_devices import NetFeature, Tap
from vmm_reference import NetConfig
from vmm_reference.errors import HostError, UsageError
from vmm_reference.virtio.host_interface import HostInterface
from vmm_reference.virtio.net import make_net

F = NetFeature
MAC, HOST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
CLONE_NEWNET = 0x40000000

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace"),
]


@pytest.fixture
def inside():
    """A function that calls another one in a network namespace of its own."""

    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(enter).result()
        yield lambda function, *arguments: thread.submit(function, *arguments).result()


@pytest.fixture
def make(inside):
    """A function that makes the card of a configuration in the namespace."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: inside(make_net, NetConfig(**options), stack)[0]


@pytest.fixture
def tap(inside):
    """An interface that somebody else has made."""
    with inside(Tap.open, "made") as tap:
        yield tap


@contextlib.contextmanager
def as_nobody():
    """Without root's rights, for the whole process."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def state(inside, name):
    """(flag UP, MTU, hardware address, (address, mask)) of an interface, asked without our code."""

    def ask():
        request = struct.pack("16s24x", name.encode())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:

            def get(number):
                return fcntl.ioctl(end, number, request)[16:]

            up = get(0x8913)[0] & 1
            mtu = int.from_bytes(get(0x8921)[:4], "little")
            mac = get(0x8927)[2:8]
            try:
                address = socket.inet_ntoa(get(0x8915)[4:8]), socket.inet_ntoa(get(0x891B)[4:8])
            except OSError:
                address = None
        return up, mtu, mac, address

    return inside(ask)


def test_a_card_without_wishes(make, inside):
    """Its interface is made and up, and nothing else is done to it; the address is random."""
    card = make(tap="fresh")
    up, mtu, _mac, address = state(inside, "fresh")
    assert (up, mtu, address) == (1, 1500, None)
    assert card.queue_sizes == (256, 256, 64)
    assert not card.features & F.MTU
    assert card.features & F.CSUM


def test_a_card_with_every_wish(make, inside):
    """The host's end and the guest's end are what was asked for."""
    card = make(
        tap="wanted",
        mac=MAC,
        mtu=1400,
        ip=IPv4Interface("10.1.2.3/12"),
        host_mac=HOST_MAC,
        num_queues=4,
        queue_size=32,
        offload_tso=False,
        offload_ufo=False,
    )
    assert state(inside, "wanted") == (1, 1400, HOST_MAC, ("10.1.2.3", "255.240.0.0"))
    assert card.config == MAC + bytes.fromhex("0100 0200 7805")
    assert card.queue_sizes == (32,) * 4 + (64,)
    assert card.features & F.MQ
    offloads = F.CSUM | F.GUEST_CSUM | F.HOST_TSO4 | F.GUEST_TSO6 | F.HOST_UFO
    assert card.features & offloads == F.CSUM | F.GUEST_CSUM


def test_an_interface_goes_with_its_card(inside):
    """It was made for it."""
    with contextlib.ExitStack() as stack:
        assert inside(make_net, NetConfig(tap="brief"), stack)[1] == "brief"
        assert state(inside, "brief")[0] == 1
    with pytest.raises(OSError, match="No such device"):
        state(inside, "brief")


def test_descriptors_bring_their_interface_as_it_is(make, inside, tap):
    """Not even up: whoever made it does that."""
    card = make(fds=tuple(os.dup(fd) for fd in tap.queue_fds), mtu=1400)
    assert state(inside, "made")[:2] == (0, 1500)
    assert card.config[-2:] == (1400).to_bytes(2, "little")


def test_an_interface_in_use(make, tap):
    """The user has named the wrong one."""
    assert tap.name == "made"
    with pytest.raises(UsageError, match=r"^--net: .* made: it is in use already$"):
        make(tap="made")


def test_an_interface_that_is_none(make):
    """Or a descriptor that is none."""
    with pytest.raises(UsageError, match="TAP interface lo: it is no TAP interface"):
        make(tap="lo")
    read, write = os.pipe()
    with pytest.raises(UsageError, match=f"descriptor {read} is attached to no TAP interface"):
        make(fds=(read,))
    with pytest.raises(UsageError, match="descriptor 99999 is attached to no TAP interface: bad"):
        make(fds=(99999,))
    os.close(read)
    os.close(write)


def test_what_this_host_does_not_permit(make):
    """It is no mistake of the user's, and the way out is named."""
    with (
        as_nobody(),
        pytest.raises(HostError, match=r"^--net: cannot (open|attach).*; run as root"),
    ):
        make(tap="mine")


@pytest.mark.parametrize(
    ("method", "value", "sentence"),
    [
        (
            "set_mtu",
            1400,
            "cannot set made mtu 1400: not permitted; .* `ip link set made mtu 1400`",
        ),
        ("set_mac", MAC, "address 02:00:00:00:00:01: not .* `ip link set made address 02:00:00"),
        (
            "set_address",
            IPv4Interface("10.1.2.3/8"),
            "cannot set made address 10.1.2.3/8: .* `ip address add 10.1.2.3/8 dev made`",
        ),
        ("bring_up", None, "cannot set made up: not permitted; let root .* `ip link set made up`"),
    ],
)
def test_settings_without_rights(inside, tap, method, value, sentence):
    """Each says what root would have to type; once root has, it is no longer asked for."""
    assert tap.name == "made"
    arguments = () if value is None else (value,)

    def change():
        with HostInterface("made") as interface:
            getattr(interface, method)(*arguments)

    with as_nobody(), pytest.raises(HostError, match=sentence):
        inside(change)
    inside(change)
    with as_nobody():
        inside(change)


def test_a_setting_that_the_kernel_refuses(inside, tap):
    """The kernel's own reason."""
    assert tap.name == "made"

    def change():
        with HostInterface("made") as interface:
            interface.set_mtu(65522)

    with pytest.raises(HostError, match="cannot set made mtu 65522: invalid argument"):
        inside(change)


def test_an_interface_that_vanishes(inside):
    """What cannot even be asked is an error of the system's."""

    def change():
        with HostInterface("gone") as interface:
            interface.set_address(IPv4Interface("10.1.2.3/8"))

    with pytest.raises(OSError, match="No such device"):
        inside(change)
