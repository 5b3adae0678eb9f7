"""Print where the default guest is, fetching it first if need be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmm_reference.guest_assets import GuestAssetsError, default_guest


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vmm_reference.guest_assets",
        description="Print the paths of the default guest, fetching it into the cache if needed.",
    )
    parser.add_argument("--cache", type=Path, help="another folder than the user's cache")
    parser.add_argument(
        "--update", action="store_true", help="fetch the newest version even if one is there"
    )
    parser.add_argument("--verify", action="store_true", help="compare every file's checksum")
    options = parser.parse_args(arguments)
    try:
        guest = default_guest(
            cache=options.cache,
            refetch=options.update,
            verify=options.verify,
            log=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    except GuestAssetsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for name in ("version", "kernel", "vmlinux", "initramfs", "cmdline"):
        print(f"{name}: {getattr(guest, name)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
