"""What an evaluation or picture needs of what was trained, refused in one line where it is missing."""

from __future__ import annotations

from mmssl.errors import UserError, did_you_mean
from mmssl.types import Encoder, Trained


def require_encoder(
    trained: Trained, key: str | None, *, space: str | None = None, modalities: tuple[str, ...] = ()
) -> Encoder:
    """Returns the encoder of that key, or where it is None the only one.

    Raises UserError where there is none, it has no such space, or it reads none of the modalities.
    """
    if key is None and len(trained.encoders) > 1:
        raise UserError(f"the run has the encoders {', '.join(trained.encoders)}; say which with encoder")
    found = key or next(iter(trained.encoders))
    if found not in trained.encoders:
        raise UserError(f"there is no encoder {found!r}; {did_you_mean(found, trained.encoders)}")
    encoder = trained.encoders[found]
    if modalities and encoder.modality not in modalities:
        raise UserError(f"the encoder {found!r} reads {encoder.modality}; expected {' or '.join(modalities)}")
    if space is not None and space not in encoder.spaces:
        raise UserError(f"the encoder {found!r} has no space {space!r}; {did_you_mean(space, encoder.spaces)}")
    return encoder
