"""The documentation: hand-written guides, the reference from docstrings, argparse's own help."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
PACKAGES = sorted(path.name for path in (HERE.parent / "packages").iterdir() if path.is_dir())

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
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "undoc-members": True,
    "show-inheritance": True,
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # a package's README links to files of its repository


def write_command_line_reference(_app: Sphinx) -> None:
    """Put what `vmm-reference --help` prints where the guide includes it."""
    os.environ["COLUMNS"] = "96"
    cli = importlib.import_module("vmm_reference.cli")
    generated = HERE / "_generated"
    generated.mkdir(exist_ok=True)
    (generated / "help.txt").write_text(cli.build_parser().format_help())


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
    top = target.split(".", maxsplit=1)[0]
    foreign = {"cffi", "_cffi_backend", "typing_extensions", "_typeshed", "unicorn", "elftools"}
    is_foreign = top in sys.stdlib_module_names or top in foreign
    return text if is_foreign or target.rsplit(".", maxsplit=1)[-1].startswith("_") else None


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


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("builder-inited", write_command_line_reference)
    app.connect("missing-reference", resolve_elsewhere)
