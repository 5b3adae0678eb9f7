"""The virtio devices of a machine: what of the host they stand on, and who runs them.

`devices` makes them of a configuration, each with a thread of its own; `worker` follows kicks on
that thread; `mmio` puts a device where the guest finds it. Another transport offers the same
`VirtioBus.attach`. `device_memory` is guest memory for an emulator that keeps translations of code.
"""
