"""Reads records of which nothing is known: what has not the shape of a saved state is refused.

Only the shape is looked at here: lists or tuples of the right length, whole numbers, names, order.
What numbers mean is checked by the allocators, when a restored one takes them as any caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm_allocator.errors import InvalidState
from vm_allocator.states import AddressState, GsiState, IdState

if TYPE_CHECKING:
    from collections.abc import Sequence


def address_state(record: object) -> AddressState:
    """The record of an `AddressAllocator`; raises InvalidState."""
    start, end, used = fields(record, 3, "the state of an address space")
    entries = [fields(entry, 3, "a range in use") for entry in _items(used)]
    known = [(_number(first), _number(last), _name(owner)) for first, last, owner in entries]
    _check_order(known)
    return AddressState(_number(start), _number(end), tuple(known))


def id_state(record: object) -> IdState:
    """The record of an `IdAllocator`; raises InvalidState."""
    base, end, used, released = fields(record, 4, "the state of identifiers")
    return IdState(_number(base), _number(end), numbers(used), numbers(released))


def gsi_state(record: object) -> GsiState:
    """The record of a `GsiAllocator`; raises InvalidState."""
    below, *behind = fields(record, 3, "the state of interrupt lines")
    legacy = None if below is None else id_state(below)
    pins, msi = map(id_state, behind)
    if legacy is not None and legacy.base:
        raise InvalidState(legacy.base, "the first pin of all, 0")
    if pins.base != (legacy.end + 1 if legacy is not None else 0):
        raise InvalidState(pins.base, "the first pin behind the legacy ones")
    if msi.base != pins.end + 1:
        raise InvalidState(msi.base, f"the first GSI behind the pins, {pins.end + 1}")
    return GsiState(legacy, pins, msi)


def window(record: object) -> tuple[int, int]:
    """The first and the last address of a window; raises InvalidState."""
    start, end = fields(record, 2, "a window")
    return _number(start), _number(end)


def numbers(record: object) -> tuple[int, ...]:
    """Numbers in order; raises InvalidState."""
    known = tuple(map(_number, _items(record)))
    _check_order(known)
    return known


def fields(record: object, count: int, what: str) -> Sequence[object]:
    """The `count` fields of a record; raises InvalidState."""
    if not isinstance(record, (tuple, list)) or len(record) != count:
        raise InvalidState(record, f"{what}, which has {count} fields")
    return record


def _items(record: object) -> Sequence[object]:
    if not isinstance(record, (tuple, list)):
        raise InvalidState(record, "a list")
    return record


def _number(value: object) -> int:
    if type(value) is not int:  # a bool is no number here
        raise InvalidState(value, "a whole number")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidState(value, "an owner's name")
    return value


def _check_order(known: Sequence[object]) -> None:
    if list(known) != sorted(known):  # type: ignore[type-var] # all numbers, or all tuples of one kind
        raise InvalidState(known, "in order")
