"""A network card out of its configuration, and the TAP interface that it stands on."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from virtio_devices import Net, NetFeature, Tap, TapError
from vmm_reference.errors import HostError, UsageError
from vmm_reference.virtio.host_interface import HostInterface

if TYPE_CHECKING:
    from contextlib import ExitStack

    from vmm_reference.virtio_config import NetConfig

_F = NetFeature
_TSO = _F.GUEST_TSO4 | _F.GUEST_TSO6 | _F.GUEST_ECN | _F.HOST_TSO4 | _F.HOST_TSO6 | _F.HOST_ECN
_UFO = _F.GUEST_UFO | _F.HOST_UFO | _F.GUEST_USO4 | _F.GUEST_USO6 | _F.HOST_USO
_CSUM = _F.GUEST_CSUM | _F.CSUM

_NAMED = frozenset({None, errno.EINVAL, errno.EBUSY, errno.ENOTTY, errno.EBADF, errno.EBADFD})
"""What says that the interface or the descriptor is the wrong one; all else is about the host."""


def make_net(config: NetConfig, teardown: ExitStack) -> tuple[Net, str]:
    """Make a network card.

    Args:
        config: what it is.
        teardown: closes its interface.

    Returns:
        The card, and its interface's name.

    Raises:
        UsageError: there is no such interface to be had.
        HostError: this host does not permit it.
    """
    tap = _open(config)
    teardown.callback(tap.close)
    if not config.fds:
        _configure(tap.name, config)
    card = Net(
        tap,
        mac=config.mac,
        mtu=config.mtu,
        queue_size=config.queue_size,
        offloads=_offloads(config),
    )
    teardown.callback(card.reset)  # until then it has the interface too
    return card, tap.name


def _open(config: NetConfig) -> Tap:
    try:
        if config.fds:
            return Tap.from_fds(config.fds)
        return Tap.open(config.tap, queues=config.num_queues // 2)
    except TapError as error:
        if error.errno in _NAMED:
            raise UsageError(f"--net: {error}") from error
        raise HostError(f"--net: {error}") from error


def _configure(name: str, config: NetConfig) -> None:
    """Make the interface what the configuration asks for, and bring it up."""
    with HostInterface(name) as interface:
        if config.mtu is not None:
            interface.set_mtu(config.mtu)
        if config.host_mac is not None:
            interface.set_mac(config.host_mac)
        if config.ip is not None:
            interface.set_address(config.ip)
        interface.bring_up()


def _offloads(config: NetConfig) -> int:
    offloads = 0
    for wanted, features in (
        (config.offload_tso, _TSO),
        (config.offload_ufo, _UFO),
        (config.offload_csum, _CSUM),
    ):
        if wanted:
            offloads |= features
    return int(offloads)
