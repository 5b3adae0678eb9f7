"""The network device between its driver and a wire of sockets."""

from __future__ import annotations

import os
import select
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtio_devices import DeviceFailed, Net, NetFeature, SplitQueue, VirtioUsageError
from virtio_devices.descriptor import OwnDescriptor
from virtio_devices.net.features import consistent_part, is_consistent
from virtio_devices.net.frame import LARGEST
from virtio_devices.net.receive import BUDGET
from virtio_devices.testing import SplitDriver

F = NetFeature
MAC = bytes.fromhex("02004d5e0001")
OFFLOADS = F.CSUM | F.GUEST_CSUM | F.GUEST_TSO4 | F.HOST_TSO4
EVERYTHING = (1 << 24) - 1 | 1 << 29
QUEUE_PAIRS_SET, OFFLOADS_SET, MAC_TABLE_SET, MAC_SET = (4, 0), (5, 0), (1, 0), (1, 1)


def frame(number, size=60):
    """A frame that is like no other of its size."""
    return (b"\xff" * 6 + MAC + b"\x88\xb5" + number.to_bytes(4, "little")).ljust(size, b"\x5a")


def config_of(network):
    return struct.unpack("<6sHHH", network.machine.driver.read_config(0, 12))


# Before any frame


def test_identity(network):
    """Device 1, a pair of queues and a control queue, the address and the link in its space."""
    net = network(mac=MAC, mtu=9000)
    assert net.machine.driver.read(0x008) == 1
    assert net.device.queue_sizes == (256, 256, 64)
    assert config_of(net) == (MAC, 1, 1, 9000)


def test_an_address_is_found_if_none_is_given(wire):
    """It is one station's, locally administered, and another one for each device."""
    first, second = (Net(wire()).config[:6] for _ in range(2))
    assert first != second
    assert first[0] & 3 == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mac": b"\x01" + bytes(5)}, r"01:00:00:00:00:00 is no MAC address"),
        ({"mac": bytes(6)}, r"no MAC address"),
        ({"mac": MAC[:5]}, r"02:00:4d:5e:00 is no MAC"),
        ({"mtu": 67}, r"from 68 to 65535, not 67"),
        ({"mtu": 65536}, r"not 65536"),
    ],
)
def test_what_no_card_can_have_is_refused(wire, options, message):
    """One sentence with the value in it."""
    with pytest.raises(VirtioUsageError, match=message):
        Net(wire(), **options)


def test_a_backend_needs_a_descriptor(wire):
    """A closed tap has none."""
    with pytest.raises(VirtioUsageError, match="needs a backend with a descriptor"):
        Net(wire(queues=0))


def test_queues_of_somebody_else_are_refused(wire, memory):
    """Frames are moved in C, which knows its own rings alone."""
    net = Net(wire())
    with pytest.raises(VirtioUsageError, match="SplitQueue or a PackedQueue, not through a list"):
        net.activate(memory, {0: []}, None)
    net.reset()


def test_offers_follow_the_backend_and_the_options(wire):
    """Offloads are the backend's; MTU, MQ and CTRL_GUEST_OFFLOADS come with what they are about."""
    plain = Net(wire()).features
    assert not plain & (OFFLOADS | F.MTU | F.MQ | F.CTRL_GUEST_OFFLOADS)
    full = Net(wire(2, int(OFFLOADS)), mtu=1500).features
    assert full & ~plain == OFFLOADS | F.MTU | F.MQ | F.CTRL_GUEST_OFFLOADS
    assert is_consistent(full)


@given(st.integers(0, sum(F)))
def test_the_consistent_part_is_the_largest(features):
    """Nothing in it lacks what it needs, and everything that was left out would."""
    part = consistent_part(features)
    assert not part & ~features
    assert is_consistent(part)
    left_out = features & ~part
    assert not any(is_consistent(part | int(one)) for one in F if one & left_out)


def test_offloads_without_checksums(wire):
    """Segments need them: nothing is left; without segments the checksums stay."""
    checksums = F.CSUM | F.GUEST_CSUM
    without = Net(wire(1, int(OFFLOADS)), offloads=int(OFFLOADS & ~checksums))
    assert not without.features & (OFFLOADS | F.CTRL_GUEST_OFFLOADS)
    assert Net(wire(1, int(OFFLOADS)), offloads=int(checksums)).features & OFFLOADS == checksums


def test_queues_have_the_size_that_is_asked_for(wire):
    """The queues of frames; commands keep theirs."""
    assert Net(wire(2), queue_size=32).queue_sizes == (32, 32, 32, 32, 64)


@pytest.mark.parametrize(
    "features",
    [
        *(F.GUEST_TSO4, F.GUEST_TSO6, F.GUEST_UFO, F.HOST_TSO4, F.HOST_TSO6, F.HOST_UFO),
        *(F.GUEST_USO4, F.GUEST_USO6, F.HOST_USO),
        *(F.GUEST_CSUM | F.GUEST_ECN, F.CSUM | F.HOST_ECN),
        *(F.CTRL_RX, F.CTRL_VQ | F.CTRL_RX_EXTRA, F.MQ, F.CTRL_MAC_ADDR, F.CTRL_GUEST_OFFLOADS),
        *(F.GUEST_ANNOUNCE | F.CTRL_VQ, F.GUEST_ANNOUNCE | F.STATUS),
    ],
)
def test_a_feature_without_what_it_needs_is_refused(features):
    """The table of §5.1.3.1."""
    assert not is_consistent(int(features))


@pytest.mark.parametrize("feature", list(F))
def test_everything_together_is_accepted(feature):
    """No feature excludes another one; and most want one only."""
    everything = sum(F)
    assert is_consistent(everything)
    assert is_consistent(everything & ~int(feature)) == (
        feature not in (F.CSUM, F.GUEST_CSUM, F.CTRL_VQ, F.CTRL_RX, F.STATUS)
    )


# Frames


@pytest.mark.parametrize("wanted", [0, EVERYTHING])
def test_frames_pass_both_ways(network, wanted):
    """In order and whole, with zeros as the header where there is nothing to say."""
    net = network(wanted)
    frames = [frame(number, 14 + 300 * number) for number in range(5)]
    net.send(*frames)
    assert net.wire.arrived() == [bytes(12) + each for each in frames]
    assert net.driver.sent() == 5
    net.driver.post(8, 1530)
    net.inject(*frames)
    assert net.driver.receive() == [(bytes(10) + b"\1\0", each) for each in frames]
    assert net.counters.rx_frames == net.counters.tx_frames == 5
    assert net.counters.rx_bytes == net.counters.tx_bytes == sum(map(len, frames))
    assert net.machine.interrupt.count == 2


def test_headers_pass_unchanged(network):
    """Offloads are between the driver and the backend; the device fills in num_buffers alone."""
    net = network(EVERYTHING, OFFLOADS)
    header = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)
    net.send(frame(1, 5000), header=header + b"\0\0")
    assert net.wire.arrived() == [header + b"\0\0" + frame(1, 5000)]
    net.driver.post(4, 2000)
    net.inject(frame(2, 5000), header=header + b"\xff\xff")
    assert net.driver.receive() == [(header + b"\3\0", frame(2, 5000))]


def test_a_frame_fills_several_buffers_if_they_are_mergeable(network):
    """As many as it needs (§5.1.6.4), all of them at one moment; the others stay for later."""
    net = network(F.MRG_RXBUF)
    net.driver.post(10, 100)
    net.inject(frame(1, 288), frame(2, 289))
    first, second = net.driver.receive()
    assert (first[0][10:], second[0][10:]) == (b"\3\0", b"\4\0")
    assert (first[1], second[1]) == (frame(1, 288), frame(2, 289))
    assert len(net.driver.queues[0].in_flight) == 3


def test_a_frame_stays_out_of_buffers_that_are_too_small(network):
    """Without MRG_RXBUF it gets one buffer or none, never a part (§5.1.6.3.1)."""
    net = network()
    net.driver.post(2, 100)
    net.inject(frame(1, 89), frame(2, 88), frame(3, 500))
    assert [data for _, data in net.driver.receive()] == [frame(2, 88)]
    assert net.counters.rx_too_large == 2
    assert len(net.driver.queues[0].in_flight) == 1


def test_the_largest_frames_pass_and_no_larger_ones(network):
    """64 KiB, an Ethernet header and a VLAN tag; a byte more is dropped, in both directions."""
    net = network(F.MRG_RXBUF, queue_size=64)
    largest = frame(1, LARGEST - 12)
    net.driver.post(33, 2048)
    net.inject(largest, largest + b"x", frame(2))
    assert [data for _, data in net.driver.receive()] == [largest]
    assert net.counters.rx_malformed == 1
    net.send(largest)
    net.send(largest + b"x")
    assert net.driver.sent() == 2
    assert net.wire.arrived() == [bytes(12) + largest]
    assert net.counters.tx_malformed == 1


@pytest.mark.parametrize("size", range(26))
def test_what_is_shorter_than_its_headers_is_dropped(network, size):
    """From either side; it is counted, and the next frame passes."""
    net = network()
    net.driver.queues[1].add([bytes(size)])
    net.send(frame(1))
    assert net.driver.sent() == 2
    assert net.wire.arrived() == [bytes(12) + frame(1)]
    net.driver.post(2, 100)
    if size:
        net.wire.far[0].send(bytes(size))
    net.inject(frame(2))
    assert [data for _, data in net.driver.receive()] == [frame(2)]
    assert net.counters.tx_malformed == 1
    assert net.counters.rx_malformed == bool(size)


def test_a_frame_beyond_the_mtu_is_dropped_unless_it_is_segmented(network):
    """§5.1.4.1, once MTU is negotiated; a VLAN tag is not counted."""
    net = network(EVERYTHING, OFFLOADS, mtu=1000)
    net.driver.post(8, 2000)
    net.inject(frame(1, 1018), frame(2, 1019))
    net.inject(frame(3, 1019), header=b"\0\1" + bytes(10))
    assert [data for _, data in net.driver.receive()] == [frame(1, 1018), frame(3, 1019)]
    assert net.counters.rx_malformed == 1
    without = network(EVERYTHING & ~F.MTU, mtu=1000)
    without.driver.post(1, 2000)
    without.inject(frame(2, 1019))
    assert [data for _, data in without.driver.receive()] == [frame(2, 1019)]


def test_buffers_without_room_for_a_header_come_back_empty(network):
    """They are against §5.1.6.3.1, and cost the driver its buffer, not its queue."""
    net = network(F.MRG_RXBUF)
    net.driver.post(3, 11)
    net.driver.post(1, 100)
    net.inject(frame(1))
    used = net.driver.queues[0].collect()
    assert [len(buffer.data) for buffer in used] == [0, 0, 0, 72]
    assert net.counters.rx_bad_buffers == 3


def test_a_ring_full_of_such_buffers_does_not_stop_the_device(network):
    """All of them come back, and the frame waits for better ones."""
    net = network(F.MRG_RXBUF, queue_size=4)
    net.driver.post(4, 1)
    net.inject(frame(1))
    assert len(net.driver.queues[0].collect()) == 4
    net.driver.post(4, 100)
    net.inject(frame(2))
    assert [data for _, data in net.driver.receive()] == [frame(1), frame(2)]


def test_a_frame_larger_than_all_buffers_together_is_dropped(network):
    """No kick could ever bring more."""
    net = network(F.MRG_RXBUF, queue_size=4)
    net.driver.post(4, 100)
    net.inject(frame(1, 500), frame(2, 380))
    assert [data for _, data in net.driver.receive()] == [frame(2, 380)]
    assert net.counters.rx_too_large == 1


def test_data_may_be_divided_as_the_driver_likes(network):
    """Header and frame in any pieces, empty ones among them (§2.7.4.1)."""
    net = network()
    whole = bytes(12) + frame(1)
    pieces = [whole[:5], b"", whole[5:13], whole[13:14], whole[14:]]
    net.driver.queues[1].add(pieces)
    net.driver.queues[0].add(writable=[3, 0, 8, 2, 100])
    net.send()
    net.driver.post(0, 0)
    net.inject(frame(2))
    assert net.wire.arrived() == [whole]
    assert net.driver.receive() == [(bytes(10) + b"\1\0", frame(2))]


# Who waits for whom


def waiting(net):
    """The queues for which a descriptor is waited for."""
    return sorted(net.device.readiness.values())


def test_what_is_waited_for_stays_open_as_long_as_the_device(network):
    """A loop knows it by its number, on a thread that may hear of a reset too late.

    So no number is closed, or comes back as something else, and what is behind it is the present
    activation's, and nothing between two of them.
    """
    net = network(F.MRG_RXBUF)
    numbers = set(net.device.readiness)
    while len(net.device.readiness) == 1:
        net.send(frame(0, 2000))
        net.driver.sent()
    numbers |= set(net.device.readiness)
    net.wire.arrived()
    with select.epoll() as loop:
        for number in numbers:
            loop.register(number, select.EPOLLIN)
        assert {number for number, _ in loop.poll(0)} == {
            number for number, queue in net.device.readiness.items() if queue == 1
        }
        net.machine.driver.negotiate()
        net.wire.far[0].send(bytes(12) + frame(1))
        assert (loop.poll(0), net.device.readiness) == ([], {})
        net.driver.start(0)
        ((number, _),) = loop.poll(5)
        assert net.device.readiness == {number: 0}


def test_the_wire_stays_what_it_was_until_the_reset(network, tmp_path):
    """Its maker may close it: frames go where they went, never into a file with its number."""
    net = network()
    number = net.wire.near[0].fileno()
    with (tmp_path / "other").open("w+b", buffering=0) as other:
        net.wire.near[0].close()
        os.dup2(other.fileno(), number)
        net.send(frame(1))
        net.driver.post(1, 2000)
        net.inject(frame(2))
        assert net.wire.arrived() == [bytes(12) + frame(1)]
        assert [data for _, data in net.driver.receive()] == [frame(2)]
        assert other.read() == b""
        net.machine.driver.negotiate()
        with pytest.raises(ConnectionError):
            net.wire.far[0].send(bytes(60))
        os.close(number)


def test_a_backend_that_is_closed_already_is_a_failed_device(network):
    """Nothing else is found under its numbers at the next activation."""
    net = network()
    net.machine.driver.negotiate()
    gone = os.dup(0)
    os.close(gone)
    net.wire.near[0].close()
    net.wire.near[0] = Gone(gone)
    net.machine.driver.start()
    assert "bad file descriptor" in str(net.machine.transport.failure)
    assert net.device.readiness == {}


class Gone:
    """A socket whose descriptor was closed."""

    def __init__(self, number):
        self._number = number

    def fileno(self):
        return self._number

    def close(self):
        """It is."""


def test_without_buffers_the_wire_is_not_waited_for(network):
    """One frame is at hand, the others stay outside; new buffers go on where it stopped."""
    net = network(F.MRG_RXBUF)
    assert waiting(net) == [0]
    net.inject(frame(1, 200), frame(2, 200))
    assert net.device.readiness == {}
    net.driver.post(1, 150)
    net.machine.run()
    assert net.device.readiness == {}
    assert net.driver.receive() == []
    net.driver.post(3, 150)
    net.machine.run()
    assert [data for _, data in net.driver.receive()] == [frame(1, 200), frame(2, 200)]
    assert waiting(net) == [0]


def test_a_wire_that_is_full_is_waited_for(network):
    """The frame stays with the device, whole, and so do those behind it, until there is room."""
    net = network()
    sent, done = [], 0
    while len(net.device.readiness) == 1:
        sent.append(frame(len(sent), 2000))
        net.send(sent[-1])
        done += net.driver.sent()
    assert done == len(sent) - 1
    sent.append(frame(len(sent), 2000))
    net.send(sent[-1])
    (waits,) = [fd for fd, queue in net.device.readiness.items() if queue == 1]
    assert waits not in net.wire.queue_fds
    assert not select.select([waits], [], [], 0)[0]
    net.machine.poll()
    assert net.driver.sent() == 0
    arrived = net.wire.arrived()
    net.machine.poll(5)
    assert net.driver.sent() == 2
    arrived += net.wire.arrived()
    assert arrived == [bytes(12) + each for each in sent]
    assert waiting(net) == [0]


def test_a_reset_ends_a_wait(network):
    """The frame is forgotten, and the descriptor of the wait is closed."""
    net = network()
    while len(net.device.readiness) == 1:
        net.send(frame(0, 2000))
        net.driver.sent()
    net.machine.driver.negotiate()
    assert net.device.readiness == {}
    net.wire.arrived()
    net.driver.start(0)
    net.send(frame(1))
    assert net.wire.arrived() == [bytes(12) + frame(1)]


def test_one_call_moves_a_bounded_number_of_frames(network):
    """Other devices of the loop have their turn; the caller is told to come again."""
    net = network(queue_size=256)
    transport = net.machine.transport
    net.driver.post(BUDGET + 1, 100)
    net.machine.run()
    for number in range(BUDGET + 1):
        net.wire.far[0].send(bytes(12) + frame(number))
    assert transport.process_queue(0)
    assert len(net.driver.receive()) == BUDGET
    assert not transport.process_queue(0)
    assert len(net.driver.receive()) == 1
    for number in range(BUDGET + 1):
        net.driver.send(frame(number))
    assert transport.process_queue(1)
    assert net.driver.sent() == BUDGET
    assert not transport.process_queue(1)


def test_a_backend_that_is_gone_is_a_failed_device(network):
    """The driver is told to reset it, the VMM why."""
    net = network()
    net.wire.far[0].close()
    net.machine.poll()
    assert isinstance(net.machine.transport.failure, DeviceFailed)
    assert "closed its end" in str(net.machine.transport.failure)
    assert net.machine.driver.status & 0x40


def test_a_frame_that_the_backend_refuses_is_dropped(network):
    """Whatever its reason, unless no later frame could do better."""
    net = network()
    net.wire.far[0].close()
    net.send(frame(1))
    assert net.driver.sent() == 1
    assert net.counters.tx_refused == 1
    assert net.machine.transport.failure is None
    net.driver.send(frame(2))
    gone = OwnDescriptor(0)
    gone.close()
    net.device._queues._transmitters[1]._target = gone
    net.machine.run()
    assert "transmit queue is gone" in str(net.machine.transport.failure)


# Commands


def test_commands_need_their_features(network):
    """CTRL_VQ alone gives a queue on which everything is refused."""
    net = network(F.CTRL_VQ)
    for number, data in (
        ((0, 0), b"\1"),
        ((0, 2), b"\1"),
        (MAC_TABLE_SET, bytes(8)),
        (MAC_SET, MAC),
        ((3, 0), b""),
        (QUEUE_PAIRS_SET, b"\1\0"),
        (OFFLOADS_SET, bytes(8)),
    ):
        assert net.command(number, data) == 1


@pytest.mark.parametrize("command", range(6))
def test_receive_modes_are_accepted(network, command):
    """On and off, and nothing else; they filter nothing, which is allowed (§5.1.6.5.1)."""
    net = network(EVERYTHING)
    assert [net.command((0, command), data) for data in (b"\1", b"\0", b"\2", b"")] == [0, 0, 1, 1]


def test_address_tables_are_accepted_if_they_are_whole(network):
    """Two tables with their lengths (§5.1.6.5.2)."""
    net = network(EVERYTHING)
    entries = struct.pack("<I", 2) + 2 * MAC
    assert net.command(MAC_TABLE_SET, entries + entries) == 0
    assert net.command(MAC_TABLE_SET, entries + bytes(4)) == 0
    assert net.command(MAC_TABLE_SET, entries) == 1
    assert net.command(MAC_TABLE_SET, entries + entries[:-1]) == 1
    assert net.command(MAC_TABLE_SET, struct.pack("<I", 0xFFFF_FFFF)) == 1


def test_the_driver_may_choose_an_address_until_the_reset(network):
    """It is shown before the command is answered (§5.1.6.5.2.1); no group can be a station."""
    net = network(EVERYTHING, mac=MAC)
    assert net.command(MAC_SET, b"\2\3\4\5\6\7") == 0
    assert config_of(net)[0] == b"\2\3\4\5\6\7"
    assert net.command(MAC_SET, b"\3\3\4\5\6\7") == 1
    assert net.command(MAC_SET, MAC[:5]) == 1
    net.machine.driver.write(0x100, 0, 1)
    assert config_of(net)[0] == b"\2\3\4\5\6\7"
    net.machine.driver.negotiate()
    assert config_of(net)[0] == MAC


def test_guest_offloads_can_be_changed(network):
    """What was negotiated is on at first; the driver can switch it off and on, nothing more."""
    net = network(EVERYTHING & ~F.GUEST_TSO6, OFFLOADS | F.GUEST_TSO6)
    assert net.wire.offloads == F.GUEST_CSUM | F.GUEST_TSO4

    def set_offloads(features):
        return net.command(OFFLOADS_SET, int(features).to_bytes(8, "little"))

    assert set_offloads(F.GUEST_CSUM) == 0
    assert net.wire.offloads == F.GUEST_CSUM
    assert [set_offloads(F.GUEST_TSO6), set_offloads(F.MAC), set_offloads(1 << 63)] == [1, 1, 1]
    net.wire.fails = True
    assert set_offloads(0) == 1
    assert net.wire.offloads == F.GUEST_CSUM
    assert net.command(OFFLOADS_SET, bytes(7)) == 1


def test_commands_without_room_for_an_answer_come_back(network):
    """There is nobody to tell."""
    net = network(EVERYTHING)
    net.driver.queues[2].add([b"\0\0\1"])
    net.driver.queues[2].add([b"\0"], [1])
    net.machine.driver.notify(2)
    net.machine.run()
    assert [used.data for used in net.driver.queues[2].collect()] == [b"", b"\1"]


def test_a_backend_that_fails_at_the_start_is_a_failed_device(network, wire):
    """DRIVER_OK leads to DEVICE_NEEDS_RESET, with the reason."""
    net = network()
    net.wire.fails = True
    net.machine.driver.negotiate()
    net.machine.driver.start()
    assert "no such queues" in str(net.machine.transport.failure)


# Several queues


def test_pairs_come_into_use_when_the_driver_says_so(network):
    """One at first; the others are not waited for (§5.1.6.5.5)."""
    net = network(EVERYTHING, queues=3)
    assert config_of(net)[2] == 3
    assert (net.wire.active, waiting(net)) == (1, [0])
    assert net.command(QUEUE_PAIRS_SET, b"\2\0") == 0
    assert (net.wire.active, waiting(net)) == (2, [0, 2])
    for pair in range(3):
        net.driver.post(4, 100, pair=pair)
        net.driver.send(frame(pair), pair=pair)
        net.inject(frame(10 + pair), queue=pair)
    net.machine.transport.process_queue(4)
    assert [net.wire.arrived(pair) for pair in range(3)] == [
        [bytes(12) + frame(pair)] for pair in range(3)
    ]
    received = [[data for _, data in net.driver.receive(pair=pair)] for pair in range(3)]
    assert received == [[frame(10)], [frame(11)], []]


@pytest.mark.parametrize("count", [0, 4, 0x8000])
def test_only_pairs_that_exist_can_be_used(network, count):
    """And a backend may say no."""
    net = network(EVERYTHING, queues=3)
    assert net.command(QUEUE_PAIRS_SET, count.to_bytes(2, "little")) == 1
    net.wire.fails = True
    assert net.command(QUEUE_PAIRS_SET, b"\2\0") == 1
    assert net.wire.active == 1


def test_without_mq_the_control_queue_is_the_third(network):
    """However many pairs the device has (§5.1.2)."""
    net = network(EVERYTHING & ~F.MQ, queues=3)
    assert sorted(net.driver.queues) == [0, 1, 2]
    assert net.command((0, 0), b"\1") == 0
    assert waiting(net) == [0]


# The link


def test_no_frame_passes_while_the_link_is_down(network):
    """The driver is told; frames of either side are lost, as on a wire."""
    net = network(EVERYTHING)
    net.driver.post(4, 100)
    net.machine.run()
    net.device.set_link(up=False)
    net.device.set_link(up=False)
    assert (net.machine.interrupt.count, net.machine.driver.acknowledge()) == (1, 2)
    assert config_of(net)[1] == 0
    net.send(frame(1))
    net.inject(frame(2))
    assert (net.driver.sent(), net.wire.arrived(), net.driver.receive()) == (1, [], [])
    assert (net.counters.tx_link_down, net.counters.rx_link_down) == (1, 1)
    net.device.set_link(up=True)
    net.inject(frame(3))
    assert [data for _, data in net.driver.receive()] == [frame(3)]


def test_a_driver_is_asked_to_announce_itself(network):
    """Until it answers (§5.1.6.5.4)."""
    net = network(EVERYTHING)
    net.device.announce()
    assert config_of(net)[1] == 3
    assert net.machine.driver.acknowledge() == 2
    assert net.command((3, 0), b"") == 0
    assert config_of(net)[1] == 1
    assert net.machine.driver.acknowledge() == 1
    net.machine.driver.negotiate()
    net.device.announce()
    assert config_of(net)[1] == 1


def test_work_without_queues_is_none(wire):
    """Before activation, and for queues that it does not have."""
    device = Net(wire())
    assert not device.process_queue(0)
    assert device.readiness == {}
    device.accept_features(0)
    device.activate(None, {}, None)
    assert not any(device.process_queue(index) for index in range(4))
    assert device.readiness == {}
    device.reset()
    device.reset()


def test_counters_show_themselves(network):
    """For a log."""
    net = network()
    net.send(frame(1))
    assert "tx_frames=1" in repr(net.counters)


# Properties


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes a new device each time
)
@given(
    st.lists(st.integers(14, 3000), max_size=12),
    st.lists(st.integers(12, 700), min_size=1, max_size=40),
)
def test_frames_fill_mergeable_buffers_in_order(network, sizes, buffers):
    """A frame takes buffers until they hold it; one that they cannot hold waits for more."""
    net = network(F.MRG_RXBUF)
    for size in buffers:
        net.driver.queues[0].add(writable=[size])
    net.driver.post(0, 0)
    net.inject(*[frame(number, size) for number, size in enumerate(sizes)])
    expected, pool = [], list(buffers)
    for number, size in enumerate(sizes):
        size = len(frame(number, size))  # noqa: PLW2901 - the shortest ones are longer
        left, count = size + 12, 0
        while left > 0 and count < len(pool):
            left -= pool[count]
            count += 1
        if left > 0:
            break
        del pool[:count]
        expected.append((bytes(10) + count.to_bytes(2, "little"), frame(number, size)))
    assert net.driver.receive() == expected
    waits = len(expected) < len(sizes)
    assert waiting(net) == ([] if waits else [0])


# One queue alone


@pytest.mark.parametrize("index", range(3))
def test_a_queue_can_be_replaced_alone(network, index):
    """What waited in it is forgotten, the others work on, the new one works (§2.6.1)."""
    net = network(EVERYTHING)
    device, driver = net.device, net.driver
    while len(device.readiness) == 1:
        net.send(frame(1, 2000))
        driver.sent()
    net.wire.arrived()
    device.reset_queue(index)
    assert waiting(net) == [queue for queue in (0, 1) if queue != index]
    assert not device.process_queue(index)
    base = driver.queues[index].layout.descriptor_table
    memory = driver._memory
    driver.queues[index] = SplitDriver(memory, base, 16, span=0x40000)
    queue = SplitQueue(memory, driver.queues[index].layout)
    device.restart_queue(index, queue)
    net.machine.poll()
    net.wire.arrived()
    assert net.command((0, 0), b"\1") == 0
    driver.post(2, 200)
    net.inject(frame(2))
    assert [data for _, data in driver.receive()] == [frame(2)]
    net.send(frame(3))
    net.machine.poll()
    assert net.wire.arrived()[-1] == bytes(12) + frame(3)


def test_queues_of_a_device_at_rest_need_no_reset(wire):
    """Nothing happens before activation."""
    device = Net(wire())
    device.reset_queue(0)
    device.restart_queue(0, None)
    assert device.readiness == {}
