"""Tells what of the installation is broken, and the command that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement


@dataclass(slots=True, frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, what was found, and what mends it."""

    what: str
    well: bool
    found: str
    mend: str = ""
    needed: bool = True


CORE = ("torch", "torchvision", "torchaudio", "timm", "transformers", "tokenizers", "webdataset", "av", "safetensors")
EXTRAS = {
    "decord": "pip install decord  (no wheels for Arm; PyAV serves without it)",
    "open3d": "pip install 'mmssl[points]' and, on a bare Debian, apt-get install libgl1 libgomp1 libusb-1.0-0",
    "faiss": "pip install 'mmssl[retrieval]'",
    "onnx": "pip install 'mmssl[export]'",
    "wandb": "pip install 'mmssl[wandb]'",
    "skimage": "pip install 'mmssl[regions]'",
    "cv2": "pip install 'mmssl[proposals]'",
    "pyarrow": "pip install 'mmssl[parquet]'",
    "pycocotools": "pip install 'mmssl[detection]'",
}


def diagnose() -> Iterator[Finding]:
    """Yields one finding after another; nothing is changed."""
    version = platform.python_version()
    yield Finding("python", sys.version_info >= (3, 10), version, "install Python 3.10 or newer")
    for name in CORE:
        yield _import(name, f"pip install {name}", needed=True)
    for name, mend in EXTRAS.items():
        yield _import(name, mend, needed=False)
    with suppress(metadata.PackageNotFoundError):  # a checkout that is only on the path
        yield from _outside_bounds(metadata.requires("mmssl") or [])
    for check in (_one_build, _picture, _sound_and_film, _accelerator, _shared_memory):
        yield _guarded(check)


def _import(name: str, mend: str, *, needed: bool) -> Finding:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken library raises what it likes
        return Finding(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}", mend, needed)
    return Finding(name, True, str(getattr(module, "__version__", "present")), needed=needed)


def _outside_bounds(requirements: Sequence[str]) -> Iterator[Finding]:
    """Names installed packages of a version that mmssl does not support: another major may have changed its calls."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(requirement.name)
            if not requirement.specifier.contains(version, prereleases=True):
                wanted = f"{requirement.name}{requirement.specifier}"
                yield Finding(requirement.name, False, f"{version}; mmssl supports {wanted}", f"pip install '{wanted}'")


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:
        return Finding(check.__name__.strip("_").replace("_", " "), False, f"{type(error).__name__}: {error}")


def _one_build() -> Finding:
    """torch, torchvision and torchaudio of different CUDA builds crash on use, not on import."""
    import torch
    import torchaudio
    import torchvision

    builds = {"torch": torch.version.cuda or "cpu"}
    for module in (torchvision, torchaudio):
        local = re.search(r"\+(cpu|cu(\d+)(\d))$", module.__version__)
        if local:
            builds[module.__name__] = "cpu" if local[1] == "cpu" else f"{local[2]}.{local[3]}"
    torch.ops.torchvision.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)  # fails where the binary does not match
    mend = "pip install --force-reinstall 'torch>=2.11,<2.15' 'torchvision>=0.26,<0.29.1' 'torchaudio>=2.11'"
    found = ", ".join(f"{name} {build}" for name, build in builds.items())
    return Finding("one CUDA build", len(set(builds.values())) == 1, found, mend)


def _picture() -> Finding:
    from PIL import Image, features

    from mmssl.modalities import image

    small = image.decode(image.encode(Image.new("RGB", (8, 8))), "jpg")
    kinds = [kind for kind in ("jpg", "zlib", "webp") if features.check(kind)]
    return Finding("pictures", small.size == (8, 8) and len(kinds) == 3, ", ".join(kinds), "pip install -U pillow")


def _sound_and_film() -> Finding:
    import numpy as np

    from mmssl.modalities import video

    made = video.encode(np.zeros((4, 32, 32, 3), np.uint8), fps=4)
    well = video.Video(made).frames([0.0, 0.5]).shape == (2, 32, 32, 3)
    return Finding("video and sound", well, "H.264 written and read", "pip install 'av>=14.1,<20'")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return Finding("accelerator", True, f"{torch.cuda.device_count()} x {', '.join(names)}", needed=False)
    driver = shutil.which("nvidia-smi")
    mend = "the driver is older than torch's CUDA: update it" if driver else ""
    return Finding("accelerator", driver is None, f"none, {os.cpu_count()} CPU cores", mend, needed=False)


def _shared_memory() -> Finding:
    """Data workers hand batches over through /dev/shm; containers often give it 64 MB."""
    if not os.path.isdir("/dev/shm"):  # noqa: PTH112
        return Finding("shared memory", True, "not of this system", needed=False)
    free = shutil.disk_usage("/dev/shm").free / 2**20
    return Finding("shared memory", free > 256, f"{free:.0f} MB free", "docker run --shm-size=8g", needed=False)


def report(findings: Iterable[Finding]) -> tuple[str, int]:
    """Returns every finding in words, and how many of what is needed are broken."""
    lines, broken = [], 0
    for f in findings:
        mark = "ok" if f.well else ("BROKEN" if f.needed else "absent")
        lines.append(f"{mark:7} {f.what:15} {f.found}")
        if not f.well and f.mend:
            lines.append(f"{'':7} {'':15} -> {f.mend}")
        broken += f.needed and not f.well
    return "\n".join([*lines, f"{broken} broken" if broken else "all that is needed is well"]), broken
