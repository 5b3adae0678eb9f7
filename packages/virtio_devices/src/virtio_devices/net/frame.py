"""Sizes of what lies in a buffer: a `virtio_net_hdr` and an Ethernet frame without its checksum."""

from __future__ import annotations

#: Bytes of struct virtio_net_hdr with num_buffers, as VERSION_1 always has it (§5.1.6).
HEADER_SIZE = 12

#: Offset of gso_type in the header; 0 says that the frame is no larger than the link's.
GSO_TYPE_OFFSET = 1

#: Where num_buffers is; a backend leaves it to the device.
NUM_BUFFERS = slice(10, 12)

#: Two addresses and a type; nothing shorter is a frame.
ETHERNET_HEADER_SIZE = 14

VLAN_TAG_SIZE = 4

SMALLEST = HEADER_SIZE + ETHERNET_HEADER_SIZE

#: A segmented packet of 64 KiB with its Ethernet header and a VLAN tag: the most that Linux makes.
LARGEST = HEADER_SIZE + ETHERNET_HEADER_SIZE + VLAN_TAG_SIZE + 0x10000
