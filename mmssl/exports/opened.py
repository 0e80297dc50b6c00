"""The one encoder that is exported or published: a folder's, or of a run the one that is named."""

from __future__ import annotations

from pathlib import Path

from mmssl.errors import UserError
from mmssl.loading import open_encoders
from mmssl.types import Encoder, reading


def open_one(path: str | Path, *, encoder: str | None = None, trust_code: bool = False) -> Encoder:
    """Loads an encoder from its folder, one of transformers, a run's, or by its name.

    encoder: which of a run's; a run with one needs none.
    """
    found = open_encoders(str(path), {}, trust_code=trust_code)
    if encoder is None and len(found) == 1:
        return next(iter(found.values()))
    if encoder in found:
        return found[encoder]
    if (Path(path) / "encoders").is_dir():
        folders = ", ".join(str(Path(path) / "encoders" / key) for key in found)
        raise UserError(
            f"{path} is a run with the encoders {reading(found)}; say which: {folders}; or, as one CLIP, both by the "
            "task that trained them: --space TASK with --format transformers, or --format open_clip"
        )
    raise UserError(f"{path} is one encoder, of {next(iter(found))}; leave {encoder!r} out")
