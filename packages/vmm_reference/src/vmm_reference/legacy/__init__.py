"""The few devices of a PC that stock kernels expect at fixed ports.

Each is a device on a `vmm_reference.bus.Bus`: `read(offset, data)` and `write(offset, data)`
survive any access of any size. None knows its own address.

=========================  ======  ====  =====================================================
device                     base    size  what for
=========================  ======  ====  =====================================================
`serial.Serial`            0x3f8…  8     16550A serial port
`i8042.I8042`              0x60    5     reset by keyboard controller, system control port B
`cmos.Cmos`                0x70    2     real-time clock, memory size, shutdown status byte
`debug_port.DebugPort`     0x80    1     progress codes
`pvpanic.Pvpanic`          0x505   1     the guest says that it panicked
`sleep.SleepControl`       0x600   4     ACPI power-off and reset
=========================  ======  ====  =====================================================
"""
