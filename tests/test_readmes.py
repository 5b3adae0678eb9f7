"""Every README's examples run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = sorted(ROOT.glob("packages/*/README.md"))


def python_examples(path: Path) -> str:
    """The ```python blocks that hold an interactive session, one after another."""
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(block for block in blocks if ">>>" in block)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_readme_examples_run(path):
    """What a README shows is what happens."""
    examples = python_examples(path)
    test = doctest.DocTestParser().get_doctest(examples, {}, path.parent.name, str(path), 0)
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert outcome.failed == 0
    assert outcome.attempted > 0
