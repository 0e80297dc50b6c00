"""An encoder that learns from a trained one, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

from mmssl.errors import UserError
from mmssl.types import Encoder, Objective


class Taught(Objective):
    """An objective by which an encoder learns from a frozen one, its teacher, listed as its key and _teacher.

    encoder: key of the encoder that learns.
    """

    def __init__(self, encoders: Mapping[str, Encoder], *, encoder: str) -> None:
        super().__init__(encoders)
        self.key, self.teacher = encoder, f"{encoder}_teacher"
        self.uses = (self.key, self.teacher)
        if not {*self.uses} <= encoders.keys():
            raise UserError(
                f"the task has {self.key} learn from {self.teacher}, and the run has only {', '.join(encoders)}; list "
                f"both among its encoders, and in train.start the folder of a trained one as {self.teacher}"
            )
        encoders[self.teacher].requires_grad_(False).eval()
