"""One target under a fuzzer: `python tests/fuzz NAME [LIBFUZZER OPTIONS] CORPUS`.

A target is a module with `one_input(data)`, which raises on what must not be; it may have
`seeds()`, inputs to begin with. It knows nothing of the fuzzer, so a test can run it as well.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris
from _script import first_inputs

#: What guides the fuzzer by its branches.
WATCHED = ["virtio_devices", "test_virtio_devices_oracle"]


def main() -> None:
    """Put the first inputs into the corpus, and fuzz."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=WATCHED):
        target = importlib.import_module(name)
        inputs = first_inputs(target, 100)
    corpus = Path(sys.argv[-1])
    if corpus.is_dir():
        for number, data in enumerate(inputs):
            (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup(sys.argv, target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
