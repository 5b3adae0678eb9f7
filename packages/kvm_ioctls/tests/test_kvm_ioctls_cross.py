"""The C parts and the numbers agree with the kernel headers of every architecture that we know."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from kvm_ioctls import arm64, riscv64
from kvm_ioctls.devices import DeviceType

SOURCES = Path(__file__).parents[1] / "src" / "kvm_ioctls"
MACHINES = ["x86_64", "aarch64", "riscv64"]

# The prefix of each class's names in the kernel's header.
NUMBERS = {
    "x86_64": {DeviceType: "KVM_DEV_TYPE_"},
    "aarch64": {
        DeviceType: "KVM_DEV_TYPE_",
        arm64.VcpuFeature: "KVM_ARM_VCPU_",
        arm64.IrqType: "KVM_ARM_IRQ_TYPE_",
        arm64.VgicGroup: "KVM_DEV_ARM_VGIC_GRP_",
        arm64.VgicAddress: "KVM_VGIC_",
        arm64.VgicControl: "KVM_DEV_ARM_",
        arm64.VcpuGroup: "KVM_ARM_VCPU_",
        arm64.PmuAttribute: "KVM_ARM_VCPU_PMU_V3_",
        arm64.TimerAttribute: "KVM_ARM_VCPU_TIMER_",
        arm64.PvtimeAttribute: "KVM_ARM_VCPU_PVTIME_",
    },
    "riscv64": {
        DeviceType: "KVM_DEV_TYPE_",
        riscv64.Interrupt: "KVM_INTERRUPT_",
        riscv64.AiaGroup: "KVM_DEV_RISCV_AIA_GRP_",
        riscv64.AiaConfig: "KVM_DEV_RISCV_AIA_CONFIG_",
        riscv64.AiaMode: "KVM_DEV_RISCV_AIA_MODE_",
    },
}
NEWER = {  # than the oldest header that we build with, Linux 6.1
    "KVM_ARM_VCPU_HAS_EL2",
    "KVM_ARM_VCPU_HAS_EL2_E2H0",
    "KVM_REG_RISCV_SBI_EXT",
    "KVM_REG_RISCV_VECTOR",
    "KVM_REG_RISCV_SBI_STATE",
    *(f"KVM_DEV_RISCV_AIA_GRP_{one.name}" for one in riscv64.AiaGroup),
    *(f"KVM_DEV_RISCV_AIA_CONFIG_{one.name}" for one in riscv64.AiaConfig),
    *(f"KVM_DEV_RISCV_AIA_MODE_{one.name}" for one in riscv64.AiaMode),
}
FUNCTIONS = {
    "x86_64": {},
    "aarch64": {
        "ARM64_SYS_REG(3, 3, 14, 3, 1)": arm64.system_register(3, 3, 14, 3, 1),
        "ARM64_SYS_REG(2, 7, 15, 15, 7)": arm64.system_register(2, 7, 15, 15, 7),
        "KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.pc)": (
            arm64.core_register(256)
        ),
        "KVM_REG_ARM64 | KVM_REG_SIZE_U128 | KVM_REG_ARM_CORE"
        " | KVM_REG_ARM_CORE_REG(fp_regs.vregs[2])": arm64.core_register(0x150 + 32, 16),
        "1ull << KVM_ARM_IRQ_VCPU2_SHIFT | KVM_ARM_IRQ_TYPE_PPI << KVM_ARM_IRQ_TYPE_SHIFT"
        " | 2 << KVM_ARM_IRQ_VCPU_SHIFT | 27 << KVM_ARM_IRQ_NUM_SHIFT": (
            arm64.irq_line(arm64.IrqType.PPI, 27, 0x102)
        ),
    },
    "riscv64": {
        **{f"KVM_REG_RISCV_{one.name}": one << 24 for one in riscv64.RegisterType},
        "KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE | KVM_REG_RISCV_CORE_REG(mode)": (
            riscv64.register(riscv64.RegisterType.CORE, 32)
        ),
        "KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_ISA_EXT | KVM_RISCV_ISA_EXT_M": (
            riscv64.register(riscv64.RegisterType.ISA_EXT, 6)
        ),
        "KVM_REG_RISCV | KVM_REG_SIZE_U32 | KVM_REG_RISCV_FP_F | KVM_REG_RISCV_FP_F_REG(f[3])": (
            riscv64.register(riscv64.RegisterType.FP_F, 3, 4)
        ),
    },
}
# Requests and what their number carries the size of.
STRUCTURES = {
    "x86_64": {"KVM_INTERRUPT": "kvm_interrupt", "KVM_CREATE_DEVICE": "kvm_create_device"},
    "aarch64": {
        "KVM_ARM_VCPU_INIT": "kvm_vcpu_init",
        "KVM_ARM_PREFERRED_TARGET": "kvm_vcpu_init",
        "KVM_ARM_SET_DEVICE_ADDR": "kvm_arm_device_addr",
        "KVM_ARM_MTE_COPY_TAGS": "kvm_arm_copy_mte_tags",
        "KVM_ARM_SET_COUNTER_OFFSET": "kvm_arm_counter_offset",
        "KVM_ARM_GET_REG_WRITABLE_MASKS": "reg_mask_range",
        "KVM_GET_VCPU_EVENTS": "kvm_vcpu_events",
        "KVM_SET_GUEST_DEBUG": "kvm_guest_debug",
        "KVM_GET_ONE_REG": "kvm_one_reg",
        "KVM_SIGNAL_MSI": "kvm_msi",
    },
    "riscv64": {
        "KVM_INTERRUPT": "kvm_interrupt",
        "KVM_SET_GUEST_DEBUG": "kvm_guest_debug",
        "KVM_GET_MP_STATE": "kvm_mp_state",
        "KVM_GET_ONE_REG": "kvm_one_reg",
    },
}
ABI_SIZES = {  # of what _newer.h writes down: 64-bit Linux's
    "kvm_arm_counter_offset": 16,
    "reg_mask_range": 64,
}


@pytest.fixture
def check(machine, tmp_path):
    """`check(files)`: the compiler for this machine accepts them, with all warnings."""
    compiler = shutil.which(f"{machine}-linux-gnu-gcc")
    if compiler is None or not SOURCES.exists():
        pytest.skip(f"no compiler with kernel headers for {machine}")
    libc = f"/usr/{machine}-linux-gnu/include"
    flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", "-idirafter", libc]
    flags += [f"-I{sysconfig.get_path('include')}", "-DPy_LIMITED_API=0x030b0000"]

    def compile_all(files: list[Path]) -> None:
        command = [compiler, *flags, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr

    return compile_all


@pytest.mark.parametrize("machine", MACHINES)
def test_the_declarations_match_the_header(machine, check, tmp_path):
    """The compiler finds each structure, member and number of the `.cdef` files."""
    spec = importlib.util.spec_from_file_location("_ffi_build", SOURCES / "_ffi_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    generated = tmp_path / "_ffi.c"
    build.make(machine).emit_c_code(str(generated))
    check([generated, *sorted(SOURCES.glob("_[!f]*.c"))])


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_match_the_header(machine, check, tmp_path):
    """What is written down because this machine's header lacks it, and what functions compute."""
    values = {
        f"{prefix}{one.name}": one
        for numbers, prefix in NUMBERS[machine].items()
        for one in numbers
    }
    lines = ['#include "_newer.h"']
    for name, value in (values | FUNCTIONS[machine]).items():
        line = f'_Static_assert(({name}) == {value:#x}ull, "{name}");'
        lines.append(f"#ifdef {name}\n{line}\n#endif" if name in NEWER else line)
    for request, name in STRUCTURES[machine].items():
        lines.append(f'_Static_assert(sizeof(struct {name}) == _IOC_SIZE({request}), "{request}");')
        if name in ABI_SIZES:
            lines.append(f'_Static_assert(sizeof(struct {name}) == {ABI_SIZES[name]}, "{name}");')
    source = tmp_path / "numbers.c"
    source.write_text("\n".join(lines) + "\n")
    check([source])
