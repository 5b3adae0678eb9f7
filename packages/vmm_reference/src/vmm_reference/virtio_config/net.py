"""The value of ``--net``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from vmm_reference.errors import OptionError
from vmm_reference.options import Options, or_default

_PAIR = 2
"""A receive and a transmit queue."""
_MAX_QUEUES = 64
_QUEUE_SIZE = 256
_QUEUE_SIZES = (32, 32768)
"""Where fewer than 19 entries can be free, Linux's driver stops for good (2 + MAX_SKB_FRAGS)."""
_MTUS = (68, 65521)
"""From IPv4's smallest (RFC 791) to the largest of a TAP interface: 64 KiB with its header."""
_STANDARD_STREAMS = 3
_NAME = re.compile(r"(?!\.\.?$)[!#-.0-9;-~]{0,15}")
"""No blank, slash or colon, and neither . nor .. (dev_valid_name); no quote."""
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_MULTICAST = 1
_DEFAULT_MASK = "255.255.255.0"
_BROADCAST = IPv4Address("255.255.255.255")
_POINT_TO_POINT = 31
"""From this length on a network has neither an address of its own nor broadcasts (RFC 3021)."""
_OFFLOADS = ("offload_tso", "offload_ufo", "offload_csum")
_KEYS = (
    *("tap", "mac", "mtu", "ip", "mask", "host_mac", "num_queues", "queue_size", "fd"),
    *_OFFLOADS,
)


@dataclass(frozen=True, slots=True)
class NetConfig:
    """A network card on a TAP interface of the host.

    The interface is found by its name, or made; or somebody else has attached descriptors to one,
    who then has also configured it.

    Attributes:
        tap: the interface's name; empty for a new one.
        mac: the card's address, 6 bytes; None for a random one.
        mtu: the largest packet, 68 to 65521 bytes, of the interface and the card; None to leave
            the interface as it is.
        ip: the interface's address, for the host; None to leave it as it is.
        host_mac: the interface's hardware address, 6 bytes; None to leave it as it is.
        num_queues: receive and transmit queues together, an even number from 2 to 64.
        queue_size: entries of each, a power of 2 from 32 to 32768.
        fds: descriptors of an interface, one for each pair of queues; the machine takes them over.
        offload_tso: whether TCP segments may be larger than the MTU; needs `offload_csum`.
        offload_ufo: whether UDP datagrams may; needs `offload_csum`.
        offload_csum: whether checksums may be left to whoever needs them.
    """

    tap: str = ""
    mac: bytes | None = None
    mtu: int | None = None
    ip: IPv4Interface | None = None
    host_mac: bytes | None = None
    num_queues: int = _PAIR
    queue_size: int = _QUEUE_SIZE
    fds: tuple[int, ...] = ()
    offload_tso: bool = True
    offload_ufo: bool = True
    offload_csum: bool = True

    def __post_init__(self) -> None:
        """Refuse what no card can have."""
        reason = self._problem() or self._problem_of_queues() or self._problem_of_descriptors()
        if reason:
            raise OptionError("--net", str(self), reason)

    @classmethod
    def parse(cls, text: str, flag: str = "--net") -> NetConfig:
        """Read the value of ``--net``, e.g. ``tap=vmtap0,mac=02:00:00:00:00:01``.

        As with cloud-hypervisor, an empty value (``tap=,mac=``) is as good as none.
        """
        options = Options(flag, text, _KEYS)
        fds = _descriptors(options)
        num_queues = _PAIR * len(fds) if fds else _PAIR
        with options.as_given():
            return cls(
                tap=options.string("tap") or "",
                mac=_mac(options, "mac"),
                mtu=options.integer("mtu"),
                ip=_interface(options),
                host_mac=_mac(options, "host_mac"),
                num_queues=or_default(options.integer("num_queues"), num_queues),
                queue_size=or_default(options.integer("queue_size"), _QUEUE_SIZE),
                fds=fds,
                **{key: or_default(options.toggle(key), True) for key in _OFFLOADS},
            )

    def __str__(self) -> str:
        words = [f'tap="{self.tap}"'] if self.tap else []
        if self.mac is not None:
            words.append(f"mac={self.mac.hex(':')}")
        if self.mtu is not None:
            words.append(f"mtu={self.mtu}")
        if self.ip is not None:
            words.append(f"ip={self.ip.ip},mask={self.ip.netmask}")
        if self.host_mac is not None:
            words.append(f"host_mac={self.host_mac.hex(':')}")
        words += [f"num_queues={self.num_queues}", f"queue_size={self.queue_size}"]
        if self.fds:
            words.append(f"fd=[{','.join(map(str, self.fds))}]")
        words += [f"{key}=off" for key in _OFFLOADS if not getattr(self, key)]
        return ",".join(words)

    def _problem(self) -> str:
        smallest, largest = _MTUS
        if not _NAME.fullmatch(self.tap):
            rule = "up to 15 ASCII characters without blanks, / and :, and neither . nor .."
            return f"tap: {self.tap!r} is no name of an interface ({rule})"
        if self.mtu is not None and not smallest <= self.mtu <= largest:
            return f"mtu: {self.mtu} is not {smallest} to {largest}"
        for key, mac in (("mac", self.mac), ("host_mac", self.host_mac)):
            if mac is not None and (len(mac) != 6 or mac[0] & _MULTICAST or not any(mac)):
                address = mac.hex(":")
                rule = "its first byte is even, as in 02:…"
                return f"{key}: {address} is no address of one station; {rule}"
        return "" if self.ip is None else _problem_of_address(self.ip)

    def _problem_of_queues(self) -> str:
        smallest, largest = _QUEUE_SIZES
        size = self.queue_size
        if not _PAIR <= self.num_queues <= _MAX_QUEUES or self.num_queues % _PAIR:
            rule = f"an even number from 2 to {_MAX_QUEUES}, for it counts both directions"
            return f"num_queues: {self.num_queues} is not {rule}"
        if not smallest <= size <= largest or size & (size - 1):
            return f"queue_size: {size} is no power of 2 from {smallest} to {largest}"
        return ""

    def _problem_of_descriptors(self) -> str:
        fds = self.fds
        if not fds:
            return ""
        if self.tap or self.ip is not None or self.host_mac is not None:
            return "who passes on descriptors has configured their interface; no tap, ip, host_mac"
        if min(fds) < _STANDARD_STREAMS or len(set(fds)) < len(fds):
            return "fd names each descriptor once, and none of 0, 1 and 2"
        if len(fds) * _PAIR != self.num_queues:
            return f"{self.num_queues} queues take {self.num_queues // _PAIR} descriptors"
        return ""


def _problem_of_address(interface: IPv4Interface) -> str:
    """What keeps an address from being that of one host in its network."""
    address, network = interface.ip, interface.network
    is_whole = network.prefixlen < _POINT_TO_POINT
    for wrong, what in (
        (address.is_unspecified, "no address"),
        (address.is_loopback, "the host's own loopback"),
        (address.is_multicast, "a multicast address"),
        (address == _BROADCAST, "the broadcast address"),
        (is_whole and address == network.network_address, f"the address of {network} itself"),
        (is_whole and address == network.broadcast_address, f"the broadcast address of {network}"),
    ):
        if wrong:
            return f"ip: {address} is {what}, where an interface needs its own"
    return ""


def _mac(options: Options, key: str) -> bytes | None:
    text = options.string(key)
    if not text:
        return None
    if not _MAC.fullmatch(text):
        raise options.bad(f"{key}: {text!r} is no MAC address such as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def _interface(options: Options) -> IPv4Interface | None:
    address, mask = options.string("ip"), options.string("mask")
    if not address:
        if mask:
            raise options.bad("mask needs an ip beside it")
        return None
    mask = mask or _DEFAULT_MASK
    try:
        interface = IPv4Interface((address, mask))
        if interface.netmask == IPv4Address(mask):  # a host mask is taken, too
            return interface
    except ValueError:
        pass
    reason = f"ip and mask: {address!r} and {mask!r} are no IPv4 address with its mask"
    raise options.bad(f"{reason}, such as ip=192.168.249.1,mask=255.255.255.0")


def _descriptors(options: Options) -> tuple[int, ...]:
    text = options.string("fd")
    if not text:
        return ()
    bracketed = text[0] == "[" and text[-1] == "]"
    numbers = text[1:-1].split(",") if bracketed else text.split(":")
    if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
        raise options.bad(f"fd: {text!r} are no descriptors such as 3, 3:4 or [3,4]")
    return tuple(map(int, numbers))
