"""The virtio devices of a machine: what of the host they stand on, and who runs them.

`devices` makes them of a configuration, each with a thread of its own; a module for each kind
(`disk`, `net`, `rng`) knows how. `worker` follows kicks on that thread; `mmio` and `pci` put a
device where the guest finds it. `host_interface` is the host's end of a network card;
`device_memory` is guest memory for an emulator that keeps translations of code.
"""
