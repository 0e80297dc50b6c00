"""DINO: say of every crop what a slow copy of the network, the teacher, says of the large ones."""

from __future__ import annotations

from mmssl.objectives.self_distillation import SelfDistillation
from mmssl.types import Method
from mmssl.views import dino


class DINO(SelfDistillation):
    """Cross-entropy of each view's distribution over prototypes with the teacher's, centred and sharper, of another.

    The teacher has no drop path; it is what the paper judges, and is saved beside the network as image_teacher.
    Caron et al., ICCV 2021.

    prototypes: how many.
    bottleneck: size of the embedding that prototypes are compared with.
    hidden: widths of the projector's hidden layers.
    norm: BatchNorm in the projector.
    lengths: whether the prototypes' lengths are learnt; without, they have unit length.
    student_temperature: of the network's distribution.
    teacher_temperature: of the teacher's, at the start, and from when the share `warmup` of training is over.
    warmup: share of training in which the teacher's temperature rises.
    memory: weight of the past in the centre, the average of the teacher's scores.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine (0.9995 for batches of 256).
    frozen: share of training during which the prototypes stay as they are, one of 300 epochs.
    """


method = Method(dino.view, DINO)
