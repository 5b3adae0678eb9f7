"""A flat PCI bus: one segment, one bus, no bridges but the host's.

::

    PciSegment                      what the rest of the VMM sees
    ├── PciBus                      slots, configuration accesses, BARs
    │   ├── Placement               what answers where on the memory bus
    │   └── HostBridge, VirtioFunction, or anything with the methods of PciFunction
    ├── ConfigurationPorts, Ecam    the two ways to the configuration spaces
    ├── IntxLine                    four lines that all pins share
    └── GsiRoutes, IrqfdVector      interrupt messages as GSIs of the hypervisor

A function does not know where it is; the bus does not know what a function does.
"""

from __future__ import annotations

from vmm_reference.pci.bus import PciBus
from vmm_reference.pci.function import PciFunction
from vmm_reference.pci.segment import PciSegment

__all__ = ["PciBus", "PciFunction", "PciSegment"]
