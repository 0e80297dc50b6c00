"""Every test runs offline, on one thread of a CPU, from one seed; on CUDA where MMSSL_TEST_CUDA is set."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
if not os.environ.get("MMSSL_TEST_CUDA"):
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}  # Triton reads it as it is imported

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed import TCPStore

sys.path.append(str(Path(__file__).parent))
from forked import Command, rank_of_two

torch.set_num_threads(1)


def seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report() -> None:
    """What a test module draws as it is imported is the same in every process."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """So is what a module's or session's fixture draws, whichever test asks for it first."""
    seed()


@pytest.fixture(autouse=True)
def seeded() -> None:
    seed()


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., str]:
    """Runs a script, or `-m module`, in two gloo processes on the CPU, and returns what they print."""

    def run(*command: str | Path) -> str:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        ranks = [Command(command, env=rank_of_two(rank, store.port)) for rank in (0, 1)]
        codes = [rank.wait() for rank in ranks]
        assert codes == [0, 0], "".join(rank.stderr for rank in ranks)
        return "".join(rank.stdout for rank in ranks)

    return run


COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}


@pytest.fixture(scope="session")
def color_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 16 noisy squares, each with a caption and its colour as `cls`, as any webdataset is."""
    import webdataset

    folder = tmp_path_factory.mktemp("colors")
    random_state = np.random.default_rng(0)
    for shard in range(4):
        with webdataset.TarWriter(str(folder / f"part-{shard:04d}.tar")) as writer:
            for index in range(16):
                number = (index + shard) % 4
                color = list(COLORS)[number]
                pixels = np.clip(random_state.normal(COLORS[color], 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                caption = f"a {color} square" if index % 2 else f"something {color}"
                writer.write(
                    {"__key__": f"{shard}{index:03d}", "png": buffer.getvalue(), "txt": caption, "cls": number}
                )
    return folder


@pytest.fixture(scope="session")
def color_recipe(color_shards: Path) -> dict[str, Any]:
    """A run of CLIP on them that takes a second; copy it before changing it."""
    return {
        "name": "colors",
        "encoders": {
            "image": {"name": "convnet", "image_size": 16, "widths": [8, 16], "depths": [1, 1], "stem_stride": 1},
            "text": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 280},
        },
        "tasks": {
            "clip": {
                "data": {"shards": str(color_shards), "workers": 0},
                "method": {"name": "clip", "objective": {"embed_dim": 8}},
                "batch": 16,
            }
        },
        "optim": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
        "train": {
            "samples": 320,
            "warmup": 2,
            "precision": "fp32",
            "log_every": 4,
            "save_every": 96,
            "deterministic": True,
        },
        "evals": {
            "zero_shot": {
                "data": {"shards": str(color_shards)},
                "classes": list(COLORS),
                "templates": ["a {} square", "something {}"],
            },
            "retrieval": {"data": {"shards": str(color_shards)}, "every": 160},
        },
    }
