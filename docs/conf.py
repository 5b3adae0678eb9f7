"""The documentation: hand-written guides, the reference from docstrings, argparse's own help."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import kvm_requests

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "_generated"
PACKAGES = sorted(path.name for path in (HERE.parent / "packages").iterdir() if path.is_dir())
# Public modules beside the packages' own names.
MODULES = ("virtio_devices.testing",)
COLON = "\ue000"
FOREIGN = {"cffi", "_cffi_backend", "typing_extensions", "_typeshed", "unicorn", "elftools"}

project = "py-vmm"
author = "the py-vmm authors"
copyright = "2026, the py-vmm authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "py-vmm"
nitpicky = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # a package's README links to files of its repository


def write_generated_pages(_app: Sphinx) -> None:
    """Write what pages include: the command line's help, and each package's public names."""
    os.environ["COLUMNS"] = "96"
    GENERATED.mkdir(exist_ok=True)
    flags = importlib.import_module("vmm_reference.flags")
    (GENERATED / "help.txt").write_text(flags.make_parser().format_help())
    (GENERATED / "kvm_requests.md").write_text(kvm_requests.table())
    for package in PACKAGES:
        _import_all(package)
    for name in (*PACKAGES, *MODULES):
        (GENERATED / f"{name}.rst").write_text(reference(name))


def _import_all(package: str) -> None:
    """Import every module, so that names used in annotations alone can be looked up."""
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, f"{package}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            importlib.import_module(module.name)


def reference(package: str) -> str:
    """The reference of a package or module: its story, then every name of `__all__` by kind."""
    module = importlib.import_module(package)
    sections: dict[str, list[str]] = {
        title: [] for title in ("Classes", "Functions", "Errors", "Data")
    }
    for name in module.__all__:
        thing = getattr(module, name)
        title, directive = _kind(thing)
        if name != "__version__":
            options = _options(package, thing)
            sections[title].append(f".. {directive}:: {package}.{name}\n{options}")
    text = f".. automodule:: {package}\n   :no-members:\n"
    for title, directives in sections.items():
        if directives:
            text += f"\n.. rubric:: {title}\n\n" + "\n".join(directives)
    return text


def _options(package: str, thing: object) -> str:
    """A class whose methods are spread over private parts shows them as its own."""
    bases = thing.__mro__[1:] if inspect.isclass(thing) else ()
    private = [
        base
        for base in bases
        if base.__module__.startswith(f"{package}.")
        and any(part.startswith("_") for part in (*base.__module__.split("."), base.__name__))
    ]
    return "   :inherited-members: object\n" if private else ""


def _kind(thing: object) -> tuple[str, str]:
    """The section and the directive that document an object."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return "Errors", "autoexception"
    if inspect.isclass(thing):
        return "Classes", "autoclass"
    if inspect.ismodule(thing):
        return "Functions", "automodule"
    if inspect.isroutine(thing):
        return "Functions", "autofunction"
    return "Data", "autodata"


def ease_docstring(
    _app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    """Help napoleon with two things that it takes for something else.

    It reads a colon in the first line of a property or of a `Returns:` section as the end of a
    type (ours are in the signatures), and `a, b: meaning` among attributes as a type and a name.
    """
    if what in {"property", "attribute", "data"} and lines:
        lines[0] = lines[0].replace(":", COLON)
    for number, line in enumerate(lines[:-1]):
        if line.strip() in {"Returns:", "Yields:"}:
            lines[number + 1] = lines[number + 1].replace(":", COLON)
    for number in reversed(range(len(lines))):
        match = re.fullmatch(r"(\s+)([a-z_0-9]+(?:, [a-z_0-9]+)+): (.*)", lines[number])
        if match:
            names = match[2].split(", ")
            lines[number : number + 1] = [f"{match[1]}{name}: {match[3]}" for name in names]


def restore_colons(
    _app: Sphinx, _what: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    """Undo, after napoleon, what `ease_docstring` did before it."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def resolve_elsewhere(
    _app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Point a name at the place where its package exports it; leave foreign names as plain text.

    Annotations name a class by the private module that defines it (`kvm_ioctls.system.Kvm`) or
    by its bare name; the reference documents it at the package (`kvm_ioctls.Kvm`). The standard
    library's own documentation is not linked, so a build needs no network.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    found = _exported(env, target)
    if found is not None:
        return found_reference(env, node, text, found)
    is_foreign = target.split(".", maxsplit=1)[0] in FOREIGN | sys.stdlib_module_names
    is_private = any(part.startswith("_") for part in target.split("."))
    return text if is_foreign or is_private or _exists(target) else None


def _exists(target: str) -> bool:
    """Whether a name is something real in one of our modules, though not exported."""
    module, _, name = target.rpartition(".")
    inside = [module] if module else list(sys.modules)
    ours = [sys.modules.get(part) for part in inside if part.split(".")[0] in PACKAGES]
    return any(hasattr(part, name) for part in ours)


def _exported(env: BuildEnvironment, target: str) -> str | None:
    """The documented name that `target` means: the same last part, in the same package if named."""
    objects = env.domains["py"].data["objects"]
    top, _, last = target.rpartition(".")
    packages = [top.split(".")[0]] if top.split(".")[0] in PACKAGES else PACKAGES
    names = {f"{package}.{last}" for package in packages} & set(objects)
    if not names and top:  # an attribute: the last two parts
        tail = ".".join(target.split(".")[-2:])
        names = {f"{package}.{tail}" for package in packages} & set(objects)
    return names.pop() if len(names) == 1 else None


def found_reference(
    env: BuildEnvironment, node: pending_xref, text: nodes.TextElement, name: str
) -> nodes.Node | None:
    """A link to the documented object `name`."""
    domain: Any = env.domains["py"]
    builder = env.app.builder
    document = str(node.get("refdoc", ""))
    link: nodes.Node | None = domain.resolve_xref(env, document, builder, "obj", name, node, text)
    return link


def stub_signature(
    _app: Sphinx, _what: str, name: str, thing: object, _options: object, _given: str, _returns: str
) -> tuple[str, str] | None:
    """The signature of something in C, with types, from the stub beside its module."""
    if not isinstance(thing, types.BuiltinFunctionType | types.MethodDescriptorType):
        return None
    owner = getattr(thing, "__objclass__", None)
    return _stubs().get((getattr(owner, "__name__", None), name.rpartition(".")[2]))


@functools.cache
def _stubs() -> dict[tuple[str | None, str], tuple[str, str]]:
    """(class or None, function) to its arguments and result, of every stub of a C module."""
    found = {}
    for path in HERE.parent.glob("packages/*/src/*/_core.pyi"):
        for node in ast.parse(path.read_text()).body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            owner = node.name if isinstance(node, ast.ClassDef) else None
            for function in inside:
                if isinstance(function, ast.FunctionDef) and function.returns is not None:
                    arguments = ast.unparse(function.args).removeprefix("self, ")
                    arguments = "" if arguments == "self" else arguments
                    result = ast.unparse(function.returns)
                    found[owner, function.name] = (f"({arguments})", result)
    return found


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("builder-inited", write_generated_pages)
    app.connect("autodoc-process-docstring", ease_docstring, priority=400)
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.connect("autodoc-process-signature", stub_signature)
    app.connect("missing-reference", resolve_elsewhere)
