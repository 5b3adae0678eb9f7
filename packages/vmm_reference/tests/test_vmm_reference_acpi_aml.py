"""The AML encoder against a decoder of its own and against the specification's examples."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.acpi import aml, resources


def decode_length(data):
    """(length, bytes that it took) of a PkgLength."""
    extra = data[0] >> 6
    if not extra:
        return data[0] & 0x3F, 1
    assert not data[0] & 0x30
    return data[0] & 0x0F | int.from_bytes(data[1 : 1 + extra], "little") << 4, 1 + extra


def decode_integer(data):
    """(value, bytes that it took) of an integer."""
    simple = {0x00: 0, 0x01: 1, 0xFF: 2**64 - 1}
    if data[0] in simple:
        return simple[data[0]], 1
    size = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}[data[0]]
    return int.from_bytes(data[1 : 1 + size], "little"), 1 + size


def decode_name(data):
    """A NameString as text, with padded segments."""
    text = data.decode("latin-1")
    prefix = text[: len(text) - len(text.lstrip("\\^"))]
    rest = text[len(prefix) :]
    if rest == "\0":
        return prefix
    if rest[0] == "\x2e":
        count, rest = 2, rest[1:]
    elif rest[0] == "\x2f":
        count, rest = ord(rest[1]), rest[2:]
    else:
        count = 1
    assert len(rest) == 4 * count
    return prefix + ".".join(rest[i : i + 4] for i in range(0, len(rest), 4))


edges = [63, 4096, 1 << 20, 1 << 28]
lengths = st.one_of(
    st.integers(0, (1 << 28) - 5),
    st.sampled_from(edges)
    .flatmap(lambda edge: st.integers(edge - 8, edge + 8))
    .filter(lambda n: n < (1 << 28) - 4),
)


@given(lengths)
def test_package_length_counts_itself_in_the_fewest_bytes(content):
    """A PkgLength decodes to its content plus itself, and no shorter form would do."""
    encoded = aml.pkg_length(content)
    length, size = decode_length(encoded)
    assert size == len(encoded)
    assert length == content + size
    limits = (63, (1 << 12) - 1, (1 << 20) - 1, (1 << 28) - 1)
    assert size == 1 or content + size - 1 > limits[size - 2]


def test_package_length_has_an_end():
    """More than 28 bits of length have no form."""
    with pytest.raises(aml.AmlError, match="2\\*\\*28"):
        aml.pkg_length((1 << 28) - 4)


@given(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.integers(0, 64).flatmap(lambda b: st.sampled_from([max(2**b - 1, 0), 2**b % 2**64])),
    )
)
def test_integer_is_exact_and_short(value):
    """An integer decodes to itself, and takes no more bytes than it needs."""
    encoded = aml.integer(value)
    assert decode_integer(encoded) == (value, len(encoded))
    needed = next(size for size in (0, 1, 2, 4, 8) if value < 2 ** (8 * size) or size == 8)
    assert len(encoded) == 1 if value in (0, 1, 2**64 - 1) else 1 + needed


@pytest.mark.parametrize("value", [-1, 2**64])
def test_integer_outside_64_bits_is_refused(value):
    """AML integers of a revision 2 table have 64 bits."""
    with pytest.raises(aml.AmlError):
        aml.integer(value)


segments = st.from_regex(r"[A-Z_][A-Z0-9_]{0,3}", fullmatch=True)
prefixes = st.sampled_from(["", "\\", "^", "^^"])


@given(prefixes, st.lists(segments, max_size=10))
def test_name_decodes_to_its_padded_self(prefix, names):
    """A path decodes to the same path with every segment padded to four characters."""
    padded = prefix + ".".join(name.ljust(4, "_") for name in names)
    assert decode_name(aml.name_string(prefix + ".".join(names))) == padded


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("\\", b"\\\0"),
        ("", b"\0"),
        ("COM1", b"COM1"),
        ("\\_SB", b"\\_SB_"),
        ("^PCI0.S1", b"^\x2ePCI0S1__"),
        ("A.B.C", b"\x2f\x03A___B___C___"),
    ],
)
def test_name_forms(path, encoded):
    """One, two and more segments each have their own form (ACPI 6.3 §20.2.2)."""
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize(
    "path", ["com1", "COM10", "1COM", "A..B", "A.", "^\\A", "\\\\A", "A B", "Ä", "A\n"]
)
def test_bad_name_is_refused(path):
    """Text that is no AML path has no encoding."""
    with pytest.raises(aml.AmlError):
        aml.name_string(path)


def test_name_has_at_most_255_segments():
    """A path's segment count is one byte."""
    aml.name_string(".".join(["A"] * 255))
    with pytest.raises(aml.AmlError):
        aml.name_string(".".join(["A"] * 256))


@pytest.mark.parametrize(
    ("text", "value"), [("PNP0501", 0x0105D041), ("PNP0A03", 0x030AD041), ("PNP0C02", 0x020CD041)]
)
def test_eisa_id_is_compressed(text, value):
    """Three five-bit letters and four digits, in the order of the bytes of EISA's register."""
    assert aml.eisa_id(text) == b"\x0c" + struct.pack("<I", value)


@pytest.mark.parametrize("text", ["PNP05", "pnp0501", "PNP050G", "PN00501", "PNP05011", "PNP0a03"])
def test_bad_eisa_id_is_refused(text):
    """Anything but three capitals and four hexadecimal digits is no EISA id."""
    with pytest.raises(aml.AmlError):
        aml.eisa_id(text)


@pytest.mark.parametrize("text", ["é", "a\0b"])
def test_bad_string_is_refused(text):
    """AML strings are ASCII and end at NUL."""
    with pytest.raises(aml.AmlError):
        aml.string(text)


@given(st.binary(max_size=200))
def test_buffer_holds_its_bytes(content):
    """A buffer is its size and its bytes."""
    encoded = aml.buffer(content)
    assert encoded[0] == 0x11
    length, size = decode_length(encoded[1:])
    assert length == len(encoded) - 1
    count, taken = decode_integer(encoded[1 + size :])
    assert (count, encoded[1 + size + taken :]) == (len(content), content)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aml.package(*[aml.integer(0)] * 256), "255 elements"),
        (lambda: aml.method("FOO", 8), "7 arguments"),
        (lambda: aml.argument(7), "no Arg7"),
        (lambda: aml.local(8), "no Local8"),
        (lambda: resources.irq(16), "not an ISA interrupt"),
        (lambda: resources.memory32_fixed(1 << 32, 1), "below 4 GiB"),
        (lambda: resources.io(0x10000, 1), "I/O ports"),
        (lambda: resources.io(0, 256), "I/O ports"),
    ],
)
def test_limits_are_named(call, message):
    """What a construct cannot hold is refused with a sentence."""
    with pytest.raises(aml.AmlError, match=message):
        call()


def test_resource_descriptors():
    """Each descriptor has the layout of ACPI 6.3 §6.4."""
    assert resources.io(0x3F8, 8) == bytes.fromhex("4701f803f8030108")
    assert resources.irq(4) == bytes.fromhex("221000")
    assert resources.memory32_fixed(0xD000_0000, 0x1000) == bytes.fromhex(
        "86090001000000d000100000"
    )
    assert resources.interrupt(5) == bytes.fromhex("890600030105000000")
    assert resources.interrupt(5, level=True, active_low=True, shared=True) == bytes.fromhex(
        "8906000d0105000000"
    )
    assert resources.resource_template(resources.irq(4)) == bytes.fromhex("1108 0a05 221000 7900")
