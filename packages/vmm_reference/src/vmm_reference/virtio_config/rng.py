"""The value of ``--rng``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmm_reference.options import Options


@dataclass(frozen=True, slots=True)
class RngConfig:
    """A source of random numbers.

    Attributes:
        src: where the host's side reads them.
    """

    src: Path = Path("/dev/urandom")

    @classmethod
    def parse(cls, text: str, flag: str = "--rng") -> RngConfig:
        """Read the value of ``--rng``, e.g. ``src=/dev/urandom``."""
        options = Options(flag, text, ("src",))
        src = options.string("src")
        if not src:
            raise options.bad("a source must be given, e.g. src=/dev/urandom")
        return cls(Path(src))

    def __str__(self) -> str:
        return f'src="{self.src}"'
