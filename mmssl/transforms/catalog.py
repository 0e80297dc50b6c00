"""The steps that recipes may name, by modality."""

from __future__ import annotations

from mmssl.transforms import (
    audio,
    color,
    frames,
    geometry,
    image,
    point_steps,
    proposals,
    rand_augment,
    segments,
    style,
)
from mmssl.transforms.base import Step, step_name

COLORS: list[type[Step]] = [color.ColorJitter, color.Grayscale, color.Blur, color.Solarize]
STEPS: dict[str, list[type[Step]]] = {
    "image": [
        *(segments.Felzenszwalb, segments.Grid, proposals.Proposals, image.Crop, image.Flip),
        *(*COLORS, geometry.Rotate, rand_augment.RandAugment),
        *(style.RandomAffine, style.ToneCurves, style.FewTones, style.Shading, style.Contour),
        style.Pixelate,
    ],
    "video": [
        frames.Window,
        image.Crop,
        image.Flip,
        *COLORS,
        frames.Colorful,
        frames.SplitChannels,
        frames.Level,
    ],
    "audio": [
        *(audio.Excerpt, audio.Speed, audio.Gain, audio.Noise, audio.TimeMask, audio.FrequencyMask),
        audio.Mix,
    ],
    "points": [
        *(point_steps.Crop, point_steps.Hole, point_steps.Voxels),
        *(point_steps.Centre, point_steps.Rotate, point_steps.Mirror, point_steps.Scale, point_steps.Jitter),
        *(point_steps.FeatureNoise, point_steps.FeatureDrop),
    ],
    "text": [],
}
CATALOG = {modality: {step_name(kind): kind for kind in kinds} for modality, kinds in STEPS.items()}
