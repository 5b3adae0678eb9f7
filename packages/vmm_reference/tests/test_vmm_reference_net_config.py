"""The record of a network card, and its flag's value."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference import NetConfig, flags
from vmm_reference.errors import OptionError

MAC = bytes.fromhex("020000000001")

names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"/:'), max_size=15
).filter(lambda name: name not in {".", ".."})
macs = st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and any(mac))


def is_of_a_host(interface):
    """Whether an interface may have this address."""
    first = interface.packed[0]
    inside = int(interface.ip) & ~int(interface.netmask) & 0xFFFF_FFFF
    last = ~int(interface.netmask) & 0xFFFF_FFFF
    special = int(interface.ip) in {0, 0xFFFF_FFFF} or first == 127 or 224 <= first < 240
    return not special and (interface.network.prefixlen > 30 or 0 < inside < last)


interfaces = st.builds(
    lambda address, bits: IPv4Interface((address, bits)),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 32),
).filter(is_of_a_host)
descriptors = st.lists(st.integers(3, 999_999_999), min_size=1, max_size=32, unique=True).map(tuple)
everywhere = {
    "mac": st.none() | macs,
    "mtu": st.none() | st.integers(68, 65521),
    "queue_size": st.integers(5, 15).map(lambda shift: 1 << shift),
    "offload_tso": st.booleans(),
    "offload_ufo": st.booleans(),
    "offload_csum": st.booleans(),
}
named = st.builds(
    NetConfig,
    tap=names,
    ip=st.none() | interfaces,
    host_mac=st.none() | macs,
    num_queues=st.integers(1, 32).map(lambda pairs: 2 * pairs),
    **everywhere,
)
passed_on = descriptors.flatmap(
    lambda fds: st.builds(
        NetConfig, fds=st.just(fds), num_queues=st.just(2 * len(fds)), **everywhere
    )
)


@given(named | passed_on)
def test_round_trip(net):
    """A card's text is read back as the same card."""
    assert NetConfig.parse(str(net)) == net


def test_everything_has_a_value_that_works():
    """A new interface, a random address, a pair of queues, all offloads; empty is none."""
    card = NetConfig()
    assert NetConfig.parse("") == NetConfig.parse("tap=,mac=,ip=,mask=,host_mac=,fd=") == card
    assert (card.tap, card.mac, card.mtu, card.ip, card.host_mac, card.fds) == (
        *("", None, None, None, None),
        (),
    )
    assert (card.num_queues, card.queue_size) == (2, 256)
    assert card.offload_tso
    assert card.offload_ufo
    assert card.offload_csum


def test_spelling():
    """Cloud-hypervisor's; its mask is that of most networks unless another is given."""
    card = NetConfig.parse(
        "tap=vmtap0,mac=02:00:00:00:00:01,mtu=1400,ip=192.168.249.1,mask=255.255.0.0,"
        "host_mac=02:00:00:00:00:0A,num_queues=4,queue_size=32,offload_ufo=off"
    )
    assert card == NetConfig(
        *("vmtap0", MAC, 1400, IPv4Interface("192.168.249.1/16"), MAC[:5] + b"\x0a", 4, 32),
        offload_ufo=False,
    )
    assert NetConfig.parse("ip=10.0.0.1").ip == IPv4Interface("10.0.0.1/24")


@pytest.mark.parametrize(
    ("text", "fds"),
    [("fd=3", (3,)), ("fd=3:4", (3, 4)), ("fd=[3,4]", (3, 4)), ("fd=[7],num_queues=2", (7,))],
)
def test_descriptors(text, fds):
    """One for each pair of queues, whose number they tell."""
    card = NetConfig.parse(text)
    assert (card.fds, card.num_queues) == (fds, 2 * len(fds))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vmtap0", "perhaps tap=vmtap0"),
        ("tap=sixteen-letters-", "up to 15 ASCII characters"),
        ("tap=a/b", "without blanks, / and :"),
        ("tap=a b", "tap: 'a b' is no name of an interface"),
        ("tap=.", "neither . nor .."),
        ("tap=..", "tap: '..' is no name"),
        ("mac=02:00:00:00:00", "mac: '02:00:00:00:00' is no MAC address such as"),
        ("mac=02-00-00-00-00-01", "is no MAC address"),
        ("mac=01:00:00:00:00:01", "mac: 01:00:00:00:00:01 is no address of one station"),
        ("host_mac=00:00:00:00:00:00", "host_mac: 00:00:00:00:00:00 is no address of one station"),
        ("mtu=67", "mtu: 67 is not 68 to 65521"),
        ("mtu=65522", "mtu: 65522 is not 68 to 65521"),
        ("mtu=1k", "mtu: '1k' is not a whole number"),
        ("ip=192.168.1", "'192.168.1' and '255.255.255.0' are no IPv4 address with its mask"),
        ("ip=fe80::1", "are no IPv4 address"),
        ("ip=10.0.0.1,mask=0.0.0.255", "are no IPv4 address with its mask"),
        ("ip=10.0.0.1,mask=255.0.255.0", "are no IPv4 address with its mask"),
        ("ip=10.0.0.1,mask=24", "are no IPv4 address with its mask"),
        ("ip=0.0.0.0", "ip: 0.0.0.0 is no address, where"),
        ("ip=127.0.0.1,mask=255.0.0.0", "ip: 127.0.0.1 is the host's own loopback"),
        ("ip=224.0.0.1", "ip: 224.0.0.1 is a multicast address"),
        ("ip=255.255.255.255", "ip: 255.255.255.255 is the broadcast address,"),
        ("ip=10.0.0.0", "ip: 10.0.0.0 is the address of 10.0.0.0/24 itself"),
        ("ip=10.0.0.255", "ip: 10.0.0.255 is the broadcast address of 10.0.0.0/24"),
        ("mask=255.255.255.0", "mask needs an ip"),
        ("num_queues=1", "num_queues: 1 is not an even number from 2 to 64"),
        ("num_queues=3", "an even number"),
        ("num_queues=66", "an even number from 2 to 64"),
        ("queue_size=16", "queue_size: 16 is no power of 2 from 32 to 32768"),
        ("queue_size=100", "no power of 2"),
        ("queue_size=65536", "no power of 2"),
        ("offload_tso=maybe", "neither on nor off"),
        ("fd=x", "fd: 'x' are no descriptors such as"),
        ("fd=[3,]", "are no descriptors"),
        ("fd=3:3", "each descriptor once"),
        ("fd=2", "none of 0, 1 and 2"),
        ("fd=3,num_queues=4", "4 queues take 2 descriptors"),
        ("fd=3,tap=vmtap0", "no tap, ip, host_mac"),
        ("fd=3,ip=10.0.0.1", "no tap, ip, host_mac"),
        ("fd=3,host_mac=02:00:00:00:00:01", "no tap, ip, host_mac"),
        ("tap=a,vhost_user=on", "no option 'vhost_user'"),
        ("tap=a,id=net0", "no option 'id'"),
        ("tap=a,bw_size=1", "no option 'bw_size'"),
    ],
)
def test_impossible_cards(text, words):
    """One sentence with the value in it."""
    with pytest.raises(OptionError, match=words.replace("'[", r"'\[")) as caught:
        NetConfig.parse(text)
    assert (caught.value.flag, caught.value.value) == ("--net", text)


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.0/32", "240.0.0.1/24"])
def test_unusual_addresses(text):
    """A network of two or one has no address to spare; class E the kernel takes."""
    assert NetConfig(ip=IPv4Interface(text)).ip == IPv4Interface(text)


def test_cards_may_be_given_in_any_form():
    """Several values of one flag and several flags are the same, in order."""
    arguments = ("--net", "tap=a", "tap=b", "--net", "tap=c")
    parsed = flags.config_from_args(flags.make_parser().parse_args(arguments))
    assert [net.tap for net in parsed.nets] == ["a", "b", "c"]
    assert flags.config_from_args(flags.make_parser().parse_args([])).nets == ()
