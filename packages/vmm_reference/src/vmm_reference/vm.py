"""One virtual machine from its configuration to its end.

::

    Vm(config) ── build() ──► built ── boot() ──► running ── wait() ──► ended ── close() ──► gone
                  └──────────────── run() is all three ──────────────────┘

`build` makes the machine in the order that KVM requires; `boot` starts its threads: one per vCPU
and one event loop for devices. Whatever ends it (the guest, an error on any thread, `Vm.stop`) is
recorded once, the first reason wins, and `wait` returns it. `close` takes everything apart in the
reverse order of its making, also after errors.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Self

from kvm_ioctls import Cap
from vmm_reference import payload as payloads
from vmm_reference import vcpu as vcpus
from vmm_reference.arch.x86_64 import cpuid, layout, reset_vector
from vmm_reference.console_line import ConsoleLine, refuse_two_on_a_terminal
from vmm_reference.device_manager import DeviceManager
from vmm_reference.errors import VmStateError
from vmm_reference.event_loop import EventLoop
from vmm_reference.exit_codes import EndKind, VmExit
from vmm_reference.hang_up import HangUp
from vmm_reference.host_io import HostIo
from vmm_reference.hypervisor import (
    open_hypervisor,
    refuse_too_many_cpus,
    require_extensions,
)
from vmm_reference.logs import NOTICE
from vmm_reference.memory_manager import MemoryManager, refuse_beyond_host
from vmm_reference.power_requests import PowerRequests
from vmm_reference.serial_lines import SerialLines
from vmm_reference.signals import wakeups
from vmm_reference.virtio.device_memory import DeviceMemory
from vmm_reference.virtio.devices import VirtioDevices
from vmm_reference.virtio_config import ConsoleMode

if TYPE_CHECKING:
    from types import TracebackType

    from kvm_ioctls.protocols import Hypervisor
    from kvm_ioctls.protocols import Vm as KvmVm
    from vm_memory import GuestMemory
    from vmm_reference.config import VmConfig
    from vmm_reference.hypervisor import OpenHypervisor

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 50e-6
"""How soon a vCPU's thread may ask a busy Python thread for the interpreter.

At Python's default of 5 ms, one busy thread cuts a vCPU from 57,000 exits per second to a few
hundred; at 50 µs it keeps about 10,000. Mostly sleeping threads cost nothing either way.
"""

_PIT_SPEAKER_DUMMY = 1
"""KVM_PIT_SPEAKER_DUMMY: port 0x61 is the timer's, too."""

_JOIN_S = 10.0

_NS_PER_MS = 1_000_000

_IN_ORDER = frozenset({EndKind.POWERED_OFF, EndKind.STOPPED, EndKind.SIGNAL})


class Vm:
    """A virtual machine; a context manager.

    Args:
        config: what it is made of.
        io: what it uses of the process around it; the process's own stdin and stdout by default.
        hypervisor: who runs it, in place of the one that `config` asks for; stays the caller's.

    Attributes:
        config: as given.
    """

    def __init__(
        self,
        config: VmConfig,
        *,
        io: HostIo | None = None,
        hypervisor: OpenHypervisor | None = None,
    ) -> None:
        self.config = config
        self._hypervisor = hypervisor
        self._io = HostIo() if io is None else io
        self._requests = PowerRequests(self.stop)
        self._teardown = contextlib.ExitStack()
        self._threads: list[vcpus.VcpuThread] = []
        # Whoever takes the token may record the end. Not a lock: `stop` may be called by a signal
        # handler that interrupts the main thread anywhere, inside of `stop` too.
        self._token = [True]
        self._end: VmExit | None = None
        self._ended_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._built = False
        self._booted = False
        self._running = False
        self._closed = False
        self._devices: DeviceManager | None = None
        self._lines: SerialLines | None = None
        self._console: ConsoleLine | None = None

    # --- life cycle

    def build(self) -> None:
        """Make everything that the guest needs, up to its first instruction.

        Raises:
            VmmError: the configuration, a file or the host does not permit it. The machine is
                closed then.
            VmStateError: it has been built before.
        """
        if self._built or self._closed:
            raise VmStateError("a virtual machine is built once")
        self._built = True
        started = time.monotonic_ns()
        try:
            self._assemble()
        except BaseException:
            self.close()
            raise
        logger.info("built in %.1f ms", (time.monotonic_ns() - started) / _NS_PER_MS)

    def boot(self) -> None:
        """Start the guest; build the machine first if that has not been done.

        Raises:
            VmmError: as `build`.
            VmStateError: it has been booted before.
        """
        if not self._built:
            self.build()
        if self._booted or self._closed or self._devices is None or self._lines is None:
            raise VmStateError("a virtual machine boots once")
        self._booted = True
        if self._end is not None:  # a signal came in the meantime
            return
        self._running = True
        self._lines.start(self._devices.serial)
        if self._console is not None:
            self._console.start()
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_ns: int | None = None) -> VmExit | None:
        """Wait until the machine has ended.

        Signal handlers of the process run meanwhile if this is its main thread.

        Args:
            timeout_ns: nanoseconds to wait; None for as long as it takes.

        Returns:
            How it ended, or None if it has not within `timeout_ns`.
        """
        deadline = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        with wakeups() as signal_fd:
            poll = select.poll()
            poll.register(self._ended_fd, select.POLLIN)
            if signal_fd >= 0:
                poll.register(signal_fd, select.POLLIN)
            left_ms = None
            while self._end is None:
                if deadline is not None:
                    left_ms = (deadline - time.monotonic_ns()) / _NS_PER_MS
                    if left_ms <= 0:
                        break
                if any(fd == signal_fd for fd, _events in poll.poll(left_ms)):
                    os.read(signal_fd, 64)  # the handler has run by now
        return self._end

    def run(self) -> VmExit:
        """Boot, wait for the end, stop the threads.

        Raises:
            VmmError: as `boot`.
        """
        self.boot()
        end = self.wait()
        if end is None:
            raise VmStateError("the virtual machine was closed while it ran")
        self._halt()
        return end

    def stop(self, end: VmExit | None = None) -> None:
        """End the machine, for the reason `end`; from any thread, and from signal handlers.

        Nothing happens if it has ended before. The vCPUs stop at once; `run` or `close` waits for
        them.
        """
        try:
            self._token.pop()
        except IndexError:
            return
        end = VmExit(EndKind.STOPPED) if end is None else end
        if self._requests.panicked and end.kind in {EndKind.RESET, EndKind.TRIPLE_FAULT}:
            end = VmExit(EndKind.PANIC)
        self._end = end
        for thread in self._threads:
            thread.stop()
        os.eventfd_write(self._ended_fd, 1)

    def close(self) -> None:
        """Stop everything and give everything back; may be called again."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._halt()
        self._teardown.close()
        os.close(self._ended_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()

    # --- for the outside, while it runs and after

    @property
    def end(self) -> VmExit | None:
        """How the machine ended; None while it has not."""
        return self._end

    @property
    def exit_code(self) -> int:
        """The exit code for a process that ran this machine: with an exec command, its own.

        Raises:
            VmStateError: the machine has not ended.
        """
        if self._end is None:
            raise VmStateError("the virtual machine has not ended")
        session = None if self._lines is None else self._lines.session
        return self._end.code if session is None else session.exit_code(self._end)

    @property
    def complaint(self) -> str:
        """What the user should be told about the end, as a sentence; empty if it is in order."""
        if self._end is None:
            return ""
        if self._lines is not None and self._lines.session is not None:
            return self._lines.session.complaint(self._end)
        return "" if self._end.kind in _IN_ORDER else str(self._end)

    def type_in(self, data: bytes) -> int:
        """Type `data` into the first serial port; return how many bytes it took.

        Raises:
            VmStateError: the machine is not running or has no serial port.
        """
        if self._devices is None or 1 not in self._devices.serial:
            raise VmStateError("there is no serial port to type into")
        return self._devices.serial[1].receive(data)

    @property
    def console(self) -> ConsoleLine:
        """The virtio console: what is typed there, its size, where its pseudo terminal is.

        Raises:
            VmStateError: there is none, or the machine is not built yet.
        """
        if self._console is None:
            raise VmStateError("this virtual machine has no virtio console")
        return self._console

    def resize_console(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the virtio console's terminal, if it has such a console.

        From any thread, and from signal handlers. Before the machine is built nothing happens.

        Raises:
            UsageError: no terminal has this size.
        """
        if self._console is not None:
            self._console.resize(columns, rows)

    # --- making it

    def _assemble(self) -> None:
        config, teardown = self.config, self._teardown
        refuse_beyond_host(config.memory)
        payloads.refuse_contradictions(config.payload)
        refuse_two_on_a_terminal(config, self._io)
        self._set_switch_interval()

        opened = self._hypervisor
        if opened is None:
            opened = open_hypervisor(config.hypervisor)
            teardown.callback(opened.hypervisor.close)
        hypervisor = opened.hypervisor
        require_extensions(hypervisor)
        refuse_too_many_cpus(hypervisor, config.cpus)
        payload = payloads.choose_payload(
            config, soft=opened.soft, size=self._io.size, log=partial(logger.log, NOTICE)
        )

        memory = MemoryManager(config.memory)
        teardown.callback(memory.close)
        vm = hypervisor.create_vm()
        teardown.callback(vm.close)
        self._requests.tells_of_panic = partial(
            reset_vector.tells_of_panic, memory.memory, payload.cmdline
        )
        memory.register(vm)
        vm.set_tss_address(layout.KVM_TSS_ADDRESS)
        vm.set_identity_map_address(layout.KVM_IDENTITY_MAP_ADDRESS)
        vm.create_irq_chip()
        vm.create_pit2(_PIT_SPEAKER_DUMMY)

        loop = EventLoop(self._fail)
        teardown.callback(loop.close)
        self._requests.loop = loop
        self._watch_terminal(loop)
        lines = SerialLines(config, self._io, loop, self.stop)
        teardown.callback(lines.close)
        self._lines = lines
        if config.console.mode is not ConsoleMode.OFF:
            self._console = ConsoleLine(config, self._io, loop, self.stop)
            teardown.callback(self._console.close)
        devices = DeviceManager(
            vm,
            memory,
            self._requests,
            lines.lines,
            device_memory=_device_memory(vm, memory),
            virtio_transport=config.virtio_transport,
        )
        teardown.callback(devices.close)
        self._devices = devices
        console = None if self._console is None else self._console.device
        virtio = VirtioDevices(config, devices.virtio, self._fail, console)
        teardown.callback(virtio.close)

        apic_ids = range(config.cpus.boot)
        tables = devices.acpi_tables(apic_ids)
        kernel = payloads.load(payload, memory.memory, config.memory.size, tables)
        self._make_vcpus(hypervisor, vm, devices, kernel.entry)
        lines.empty_file()  # nothing is lost for a machine that could not be made
        if self._console is not None:
            self._console.empty_file()
        loop.start()
        teardown.callback(loop.stop)  # before any device goes
        virtio.start()
        teardown.callback(virtio.stop)

    def _watch_terminal(self, loop: EventLoop) -> None:
        if self._io.interactive and self._io.stdin is not None:
            end = VmExit.by_signal(signal.SIGHUP)
            watch = HangUp(loop, self._io.stdin, lambda: self.stop(end))
            self._teardown.callback(watch.close)

    def _make_vcpus(
        self, hypervisor: Hypervisor, vm: KvmVm, devices: DeviceManager, entry: int
    ) -> None:
        supported = hypervisor.get_supported_cpuid()
        tsc_deadline = hypervisor.check_extension(Cap.TSC_DEADLINE_TIMER) > 0
        cpus = self.config.cpus.boot
        for index in range(cpus):
            vcpu = vm.create_vcpu(index)
            self._teardown.callback(vcpu.close)
            own = cpuid.build_cpuid(supported, apic_id=index, cpus=cpus, tsc_deadline=tsc_deadline)
            vcpus.configure(vcpu, own, entry if index == 0 else None)
            self._threads.append(
                vcpus.VcpuThread(index, vcpu, devices.pio, devices.mmio, self.stop)
            )

    def _set_switch_interval(self) -> None:
        before = sys.getswitchinterval()
        if before > SWITCH_INTERVAL_S:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._teardown.callback(sys.setswitchinterval, before)
            logger.info("Python's switch interval is now %.0f µs", SWITCH_INTERVAL_S * 1e6)

    # --- ending it

    def _fail(self, error: BaseException) -> None:
        logger.debug("the event loop failed", exc_info=error)
        self.stop(VmExit(EndKind.ERROR, f"a device: {error}", error=error))

    def _halt(self) -> None:
        """Wait for the vCPUs' threads, and pass on what devices still hold."""
        if not self._running:
            return
        self._running = False
        deadline = time.monotonic() + _JOIN_S
        ended = [thread.join(max(0.1, deadline - time.monotonic())) for thread in self._threads]
        if not all(ended):
            # A thread may still use anything. The process is about to end; let it have it.
            logger.warning("a vCPU's thread does not end; leaving its memory mapped")
            self._teardown.pop_all()
        elif self._devices is not None:
            self._devices.flush()


def _device_memory(vm: KvmVm, memory: MemoryManager) -> GuestMemory:
    """The guest's memory for devices: an emulator must be told what they write."""
    invalidate = getattr(vm, "invalidate", None)
    return memory.memory if invalidate is None else DeviceMemory.over(memory.memory, invalidate)
