"""Resolves the dependencies for every Python that mmssl supports, and shows which versions are newer than those tested.

    python tools/dependencies.py                # what an installation of today would take
    python tools/dependencies.py --extra test

Run it with the Python that `make test` passed with: what is installed there counts as tested. Nothing is installed;
uv resolves for the other Pythons without having them (`pip install uv`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def resolve(python: str, extras: Sequence[str]) -> dict[str, Version]:
    """Returns package -> version as an installation under that Python would have it, from wheels alone."""
    project = str(ROOT / "pyproject.toml")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        project,
        "--python-version",
        python,
        "--no-build",
        "--quiet",
    ]
    command += [word for extra in extras for word in ("--extra", extra)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"Python {python}: the dependencies do not resolve\n{done.stderr.strip()}")
    return {name: Version(version) for name, version in re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE)}


def direct(extras: Sequence[str]) -> list[str]:
    """Returns the packages that mmssl asks for itself, as they are spelt in a resolution."""
    wanted = map(Requirement, metadata.requires("mmssl") or ())
    asked = [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]
    return sorted({re.sub(r"[-_.]+", "-", r.name).lower() for r in asked})


def tested(name: str) -> Version | None:
    """Returns the version that is installed beside this script."""
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Prints a table of package by Python; what is newer than tested bears a star."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml, such as test")
    p.add_argument("--all", action="store_true", help="also packages that mmssl does not ask for itself")
    p.add_argument(
        "--python", nargs="+", default=PYTHONS, help=f"versions to resolve for (default {' '.join(PYTHONS)})"
    )
    a = p.parse_args()
    found = {python: resolve(python, a.extra) for python in a.python}
    packages = sorted(set().union(*found.values())) if a.all else direct(a.extra)
    newer = 0
    print(f"{'':24}{'tested':>14}" + "".join(f"{python:>14}" for python in found))
    for name in packages:
        ours, cells = tested(name), []
        for versions in found.values():
            theirs = versions.get(name)
            is_newer = ours is not None and theirs is not None and theirs.release > ours.release
            newer += is_newer
            cells.append(f"{theirs or '-'}{' *' if is_newer else ''}")
        print(f"{name:24}{ours or '-'!s:>14}" + "".join(f"{cell:>14}" for cell in cells))
    print(f"* newer than tested here, under Python {sys.version.partition(' ')[0]}: {newer}")


if __name__ == "__main__":
    main()
