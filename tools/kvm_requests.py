"""The table of KVM's requests: method, capability, and what has shown that it is right.

`python3 -m tools.kvm_requests`, after the sessions `test` and `nested` (or one of them), takes from
their results which requests were answered, by a real KVM or by a listener in its place, and writes
`docs/kvm_requests.json`; the documentation makes the table.  Requests, methods and capabilities are
read from the package's code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict

from tools import environment

RECORD = environment.ROOT / "docs" / "kvm_requests.json"
MACHINES = {"test": "kvm_pvm 6.18", "nested": "kvm-amd 6.1"}
"""The KVM behind each session's results."""

_LISTENER = "listener"
_CLASSES = ("Kvm", "VmFd", "VcpuFd", "DeviceFd")
_IN_C = {"KVM_RUN": ["VcpuFd.run"], "KVM_SET_SIGNAL_MASK": ["VcpuFd.set_signal_mask"]}
_NO_REQUESTS = re.compile(r"KVM_ARM_TAGS_|.*_$")


def main() -> int:
    """Write the record from the newest results."""
    record: dict[str, list[str]] = json.loads(RECORD.read_text())
    results = {session: environment.HOME / "results" / f"{session}.xml" for session in MACHINES}
    if not any(path.exists() for path in results.values()):
        sys.exit(f"py-vmm: no results: run the sessions {' and '.join(MACHINES)} first")
    for session, path in results.items():
        if path.exists():
            record[session] = sorted(noted(path.read_text(), "ioctls") | set(_IN_C))
    if results["test"].exists():
        record[_LISTENER] = sorted(noted(results["test"].read_text(), "heard"))
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"py-vmm: {', '.join(f'{len(names)} in {name}' for name, names in record.items())}")
    return 0


def noted(results: str, kind: str) -> set[str]:
    """The requests that the tests of a JUnit file noted: "ioctls" or "heard"."""
    properties = ET.fromstring(results).iter("property")  # noqa: S314 - our own file
    values = (one.get("value", "") for one in properties if one.get("name") == kind)
    return {name for value in values for name in value.split()}


def methods() -> dict[str, list[str]]:
    """The public methods that make each request."""
    found = defaultdict(list, {name: list(where) for name, where in _IN_C.items()})
    package = importlib.import_module("kvm_ioctls")
    for owner in _CLASSES:
        for base in getattr(package, owner).__mro__:
            if base.__module__.startswith("kvm_ioctls") and not base.__module__.endswith("_run"):
                for method, names in _requests_of(base).items():
                    for name in names:
                        found[name].append(f"{owner}.{method}")
    return dict(found)


def _requests_of(owner: type) -> dict[str, set[str]]:
    """The requests that each public method of one class names, itself or through a private one."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner)))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    named = {function.name: _named(function) for function in functions}
    for function in functions:
        for node in ast.walk(function):
            called = node.attr if isinstance(node, ast.Attribute) else ""
            if called.startswith("_") and called in named and called != function.name:
                named[function.name] |= named[called]
    return {name: found for name, found in named.items() if not name.startswith("_") and found}


def _named(function: ast.FunctionDef) -> set[str]:
    strings = (node.value for node in ast.walk(function) if isinstance(node, ast.Constant))
    names = {
        text for text in strings if isinstance(text, str) and re.fullmatch("KVM_[A-Z0-9_]+", text)
    }
    return {name for name in names if not _NO_REQUESTS.match(name)}


def table() -> str:
    """The table, in Markdown."""
    capabilities: dict[str, str] = importlib.import_module("kvm_ioctls.requests").CAPABILITIES
    record = json.loads(RECORD.read_text())
    heads = ["request", "method", "capability", *MACHINES.values(), "without KVM"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, where in sorted(methods().items()):
        capability = f"`{capabilities[name]}`" if name in capabilities else ""
        seen = ["yes" if name in record[session] else "" for session in MACHINES]
        shown = ", ".join(f"`{one}()`" for one in sorted(set(where)))
        seen.append("" if any(seen) else _otherwise(name, record))
        lines.append(f"| `{name}` | {shown} | {capability} | {' | '.join(seen)} |")
    return "\n".join(lines) + "\n"


def _otherwise(name: str, record: dict[str, list[str]]) -> str:
    """What has shown that a request is right which no real KVM at hand answers."""
    if name in record[_LISTENER]:
        return "listener"
    return "arm64's header" if name.startswith("KVM_ARM_") else ""


if __name__ == "__main__":
    sys.exit(main())
