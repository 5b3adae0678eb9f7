"""The floors of the house: imports point down only, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import sys

FLOORS = {
    "kvm_ioctls": set(),
    "vm_memory": set(),
    "vm_allocator": set(),
    "linux_loader": {"vm_memory"},
    "virtio_devices": {"vm_memory"},
    "soft_kvm": {"kvm_ioctls"},
    "vmm_reference": {
        "kvm_ioctls",
        "vm_memory",
        "vm_allocator",
        "linux_loader",
        "virtio_devices",
        "soft_kvm",
    },
}
IMPORT_NAMES = {"pyelftools": "elftools"}


def statements(tree, *, typing_only):
    """Every node of a module; without what stands under `if TYPE_CHECKING:` unless asked for."""
    for node in ast.iter_child_nodes(tree):
        if (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "TYPE_CHECKING"
            and not typing_only
        ):
            continue
        yield node
        yield from statements(node, typing_only=typing_only)


def foreign_imports(folder, *, typing_only):
    """(file, module) for what a package imports beyond itself and the standard library."""
    found = set()
    for path in folder.glob("src/**/*.py"):
        for node in statements(ast.parse(path.read_text(), str(path)), typing_only=typing_only):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            found |= {(str(path.relative_to(folder)), module.split(".")[0]) for module in modules}
    known = sys.stdlib_module_names | {folder.name}
    return {(file, module) for file, module in found if module not in known}


def declared(project):
    """Import names of everything that a package may import: dependencies and its extras."""
    requirements = list(project.get("dependencies", []))
    for extra in project.get("optional-dependencies", {}).values():
        requirements += extra
    names = [re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in requirements]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def test_every_package_has_a_floor(projects):
    """A new package is placed in the drawing before it is imported anywhere."""
    assert set(projects) == set(FLOORS)


def test_imports_point_down(folder):
    """A package imports no sibling but those below it."""
    allowed = FLOORS[folder.name]
    imports = foreign_imports(folder, typing_only=True)
    assert {pair for pair in imports if pair[1] in FLOORS and pair[1] not in allowed} == set()


def test_imports_are_declared(folder, project):
    """What a package imports, it declares; the build backend's modules are for build scripts."""
    undeclared = {
        (file, module)
        for file, module in foreign_imports(folder, typing_only=False)
        if module not in declared(project) and not file.endswith("_ffi_build.py")
    }
    assert undeclared == set()


def test_declared_siblings_are_below(folder, project):
    """No requirement points up or sideways."""
    itself = {folder.name}  # an extra may name others of its own package
    assert (declared(project) & set(FLOORS)) - itself <= FLOORS[folder.name]
