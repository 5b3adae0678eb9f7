"""The spelling of option values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.errors import OptionError
from vmm_reference.options import Options, format_size, parse_size, split_options

plain_text = st.text(st.characters(exclude_characters=',[]"', codec="utf-8"), min_size=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512M", 512 << 20),
        ("2g", 2 << 30),
        ("1T", 1 << 40),
        ("8K", 8192),
        ("0x100", 256),
        ("0X10k", 16384),
    ],
)
def test_size_with_suffix(text, size):
    """Suffixes are powers of 1024, of either case, after decimal or hexadecimal numbers."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1.5G", "1MB", "1 M", " 1M", "0x", "1_000", "many", "٣M", "1P"]
)
def test_not_a_size(text):
    """Whatever is no number with one known suffix is refused."""
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_size_beyond_64_bits():
    """A size that no address can reach is refused."""
    with pytest.raises(ValueError, match="64 bits"):
        parse_size("16777216T")


@given(st.integers(0, (1 << 64) - 1))
def test_format_size_is_read_back(size):
    """What `format_size` writes, `parse_size` reads as the same size."""
    assert parse_size(format_size(size)) == size


@given(st.lists(plain_text, min_size=1))
def test_split_gives_the_pieces_back(pieces):
    """Pieces without brackets, quotes and commas are split exactly at the commas."""
    assert split_options(",".join(pieces)) == pieces


@given(st.text())
def test_split_loses_nothing(text):
    """Splitting either refuses a text or keeps every character of it."""
    try:
        pieces = split_options(text)
    except ValueError:
        return
    assert ",".join(pieces) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("a=1,b=2", ["a=1", "b=2"]),
        ("affinity=[0@[0,1],1@[2]],x=1", ["affinity=[0@[0,1],1@[2]]", "x=1"]),
        ('file="a,b",x=1', ['file="a,b"', "x=1"]),
        ("a,,b", ["a", "", "b"]),
    ],
)
def test_brackets_and_quotes_protect_commas(text, pieces):
    """A comma inside brackets or quotes does not separate."""
    assert split_options(text) == pieces


@pytest.mark.parametrize("text", ["[", "]", "[]]", '"', 'a="b', "][", "a=[1"])
def test_unbalanced_brackets_and_quotes(text):
    """A bracket or quote without its partner is refused."""
    with pytest.raises(ValueError, match=r"not closed|closes nothing"):
        split_options(text)


@given(st.dictionaries(st.sampled_from(["size", "file", "id"]), plain_text, min_size=1))
def test_values_are_read_back(values):
    """Every value is found under its key, whatever the order, and absent keys are None."""
    text = ",".join(f"{key}={value}" for key, value in values.items())
    options = Options("--x", text, ("size", "file", "id"))
    assert {key: options.string(key) for key in ("size", "file", "id")} == {
        "size": None,
        "file": None,
        "id": None,
        **values,
    }


COMMA = 'a value with a comma goes into double quotes: size="…"'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sise=1", "no option 'sise' (there is: size, n)"),
        ("512M", "expected key=value, found '512M' (perhaps size=512M?)"),
        ("size", "size needs a value, as in size=…"),
        ("size=1,size=2", "size is given twice"),
        ("size=x", "size: 'x' is not a size; write a number with an optional K, M, G or T"),
        ("n=x", "n: 'x' is not a whole number"),
        ("n=-1", "n: '-1' is not a whole number"),
        ("n=99999999999999999999", "n: '99999999999999999999' is not a whole number"),
        ("size=[", "a '[' is not closed; a value with brackets goes into double quotes"),
        ('size="', "a double quote is not closed (there is no way to write a single one)"),
        ("size=1,b", f"expected key=value, found 'b' ({COMMA})"),
        ("size=1,", "there is a comma too many"),
    ],
)
def test_errors_name_flag_and_value(text, reason):
    """A refusal says which flag, which value, and what is wrong with it."""
    with pytest.raises(OptionError) as caught:
        read_all(Options("--flag", text, ("size", "n")))
    assert str(caught.value) == f"--flag {text!r}: {reason}"
    assert (caught.value.flag, caught.value.value) == ("--flag", text)


def test_a_record_quotes_what_was_given():
    """Not how the record would be written, which its user has never seen."""
    options = Options("--flag", "size=0x10", ("size",))
    with pytest.raises(OptionError) as caught, options.as_given():
        raise OptionError("--record", "size=16", "too small")
    assert str(caught.value) == "--flag 'size=0x10': too small"


def read_all(options):
    options.size("size")
    options.integer("n")


def test_quotes_around_a_value_are_not_part_of_it():
    """A quoted value is the text between the quotes."""
    assert Options("--serial", 'file="a,b"', ("file",)).string("file") == "a,b"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("on", True), ("true", True), ("yes", True), ("ON", True)),
        *(("off", False), ("false", False), ("no", False), ("False", False)),
    ],
)
def test_toggles(word, value):
    """cloud-hypervisor's words for on and off, in any case as there, and yes and no."""
    assert Options("--disk", f"readonly={word}", ("readonly",)).toggle("readonly") is value


def test_absent_toggle_is_none():
    """What was not given has no value."""
    assert Options("--disk", "path=x", ("path", "readonly")).toggle("readonly") is None


@pytest.mark.parametrize("word", ["", "1", "maybe"])
def test_impossible_toggles(word):
    """Everything else is refused, and named."""
    options = Options("--disk", f"readonly={word}", ("readonly",))
    with pytest.raises(OptionError, match="neither on nor off"):
        options.toggle("readonly")
