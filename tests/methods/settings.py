"""What each method is tried with: small encoders, a batch, and options. A new method adds its line to SETTINGS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmssl import dist, names
from mmssl.encoders import create_encoder
from mmssl.multitask import MultiTask
from mmssl.nn.head import Classes, Middle
from mmssl.objectives.bank import reserve
from mmssl.types import Batch, Encoder, Epoch, Ragged

SAMPLES = 20  # of the training set that methods with a memory of it are told of
VIT: dict[str, Any] = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
FINE: dict[str, tuple[str, dict[str, Any]]] = {"image": ("vit", VIT | {"patch_size": 4})}  # of 4 x 4 cells
TEXT = {"width": 16, "depth": 1, "heads": 2, "context_length": 8, "vocab_size": 300}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": ("vit", VIT),
    "text": ("transformer", TEXT),
    "video": ("frames", {"image": {"name": "vit", **VIT}, "frames": 4}),
    "audio": (
        "spectrogram",
        {"backbone": {"name": "vit", "in_channels": 1, **VIT}, "seconds": 0.1, "mels": 16, "hop": 0.00625},
    ),
    "points": ("pointnet", {"widths": [8, 16]}),
    "flow": ("flow", {"backbone": {"name": "vit", **VIT}, "frames": 2}),
}


def plain(keys: tuple[str, ...], rows: int, *, views: int = 1) -> Batch:
    """Makes views of random content, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    images = ("image", "image_ab", "image_teacher", "image_words")
    shapes = {"video": (3, 4, 16, 16)} | dict.fromkeys(images, (3, 16, 16))

    def one(key: str) -> Tensor | Ragged:
        if key == "text":
            lengths = torch.randint(1, 7, (rows,), generator=generator)
            return Ragged(torch.randint(1, 300, (rows, 6), generator=generator), lengths, padded=True)
        if key == "audio":
            return torch.randn(rows, 1600, generator=generator)
        if key == "flow":
            return 3 * torch.randn(rows, 2, 2, 16, 16, generator=generator)
        if key.startswith("points"):
            return Ragged(torch.rand(rows * 6, 3, generator=generator), torch.full((rows,), 6))
        return torch.randint(0, 256, (rows, *shapes[key]), generator=generator, dtype=torch.uint8)

    return Batch({key: [one(key) for _ in range(views)] for key in keys})


def cloud_pairs(keys: tuple[str, ...], rows: int) -> Batch:
    """Two views of clouds of six points, of which four match, one to one."""
    made = plain(keys, rows)
    for views in made.views.values():
        views.append(Ragged(views[0].values + torch.tensor([0.1, -0.1, 0.05]), views[0].lengths))
    matches = torch.stack([torch.arange(6), torch.arange(6)], dim=1).repeat(rows, 1, 1)
    matches[:, 4:] = -1
    made.extra["matches"] = matches
    return made


def shifted_sounds(keys: tuple[str, ...], rows: int) -> Batch:
    """Videos with a second sound each, of every kind."""
    made = plain(keys, rows)
    made.views["audio"].append(plain(keys, rows + 1).views["audio"][0][1:])
    made.extra["kind"] = torch.arange(rows) % 4 - 1
    return made


def shuffled_frames(frames: int, classes: int, *, sequences: int = 1) -> Callable[[tuple[str, ...], int], Batch]:
    """Videos of so many frames, in sequences, and a class each."""

    def make(keys: tuple[str, ...], rows: int) -> Batch:
        made = plain(keys, rows, views=sequences)
        made.views["video"] = [view[:, :, :frames] for view in made.views["video"]]
        made.target = torch.arange(rows) % classes
        return made

    return make


def several(views: int) -> Callable[[tuple[str, ...], int], Batch]:
    """So many views of each sample, which differ."""

    def make(keys: tuple[str, ...], rows: int) -> Batch:
        made = plain(keys, rows * views)
        parts = torch.arange(rows * views).split(rows)
        made.views = {key: [picked(view, part) for part in parts] for key, (view,) in made.views.items()}
        made.extra["index"] = torch.arange(rows) * 2 % SAMPLES
        return made

    return make


def crops(views: int) -> Callable[[tuple[str, ...], int], Batch]:
    """So many views of each sample, the first two of which are crops that lie somewhere, some of them mirrored."""

    def make(keys: tuple[str, ...], rows: int) -> Batch:
        made, places = several(views)(keys, rows), torch.zeros(2, rows, 2, 3)
        generator = torch.Generator().manual_seed(4)
        places[:, :, :, 2] = 6 * torch.rand(2, rows, 2, generator=generator)
        places[:, :, (0, 1), (0, 1)] = 20 + 8 * torch.rand(2, rows, 2, generator=generator)
        mirrored = torch.arange(rows) % 3 == 1
        places[0, mirrored, 0, 2] += places[0, mirrored, 0, 0]
        places[0, mirrored, 0, 0] *= -1
        places[1, rows // 2, :, 2] += 40  # these two show nothing in common
        made.places = {key: [*places] for key in keys}
        return made

    return make


@dataclass(slots=True)
class Setting:
    """keys: the encoders. make: (keys, rows) -> Batch. settled: steps until a queue holds no random directions."""

    keys: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[[tuple[str, ...], int], Batch] = plain
    encoders: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    lr: float = 3e-3
    settled: int = 0


def colored_cells(keys: tuple[str, ...], rows: int) -> Batch:
    """Makes clips whose 2 x 2 cells have one of four colours each."""
    made = plain(keys, rows)
    palette = torch.tensor([[-40.0, 10.0], [-20.0, 0.0], [5.0, 30.0], [60.0, -10.0]])
    drawn = torch.randint(4, (rows, 4, 2, 2), generator=torch.Generator().manual_seed(2))
    made.extra["colors"] = palette[drawn].movedim(-1, 2)  # (B, T, 2, h, w)
    return made


def color_of_cells(keys: tuple[str, ...], rows: int) -> Batch:
    """Makes images whose 4 x 4 cells have one of four colours each, and a lightness."""
    made = plain(keys, rows)
    palette = torch.tensor([[-40.0, 10.0], [-20.0, 0.0], [5.0, 30.0], [60.0, -10.0]])
    generator = torch.Generator().manual_seed(2)
    made.extra["colors"] = palette[torch.randint(4, (rows, 4, 4), generator=generator)].movedim(-1, 1)  # (B, 2, h, w)
    made.extra["lightness"] = 100 * torch.rand(rows, 1, 4, 4, generator=generator)
    return made


def asked(views: int, classes: int, *, each: bool = False) -> Callable[[tuple[str, ...], int], Batch]:
    """So many views of each sample, and a class of each sample, or of each view."""

    def make(keys: tuple[str, ...], rows: int) -> Batch:
        made = several(views)(keys, rows)
        made.target = torch.arange(views).expand(rows, -1) if each else torch.arange(rows) % classes
        return made

    return make


def holed(keys: tuple[str, ...], rows: int) -> Batch:
    """Images with a hole each, and the whole ones."""
    made = several(2)(keys, rows)
    made.extra["holes"] = torch.zeros(rows, 1, 16, 16)
    for row in range(rows):
        made.extra["holes"][row, :, row : row + 6, 4:10] = 1
    return made


def seeded(keys: tuple[str, ...], rows: int) -> Batch:
    """One view of each sample, and what its mask is drawn from."""
    made = plain(keys, rows)
    made.extra["seed"] = torch.arange(rows) + 7
    return made


def tokenized(keys: tuple[str, ...], rows: int) -> Batch:
    """One image each, what its mask is drawn from, and a smaller copy for a tokenizer."""
    made = seeded(keys[:1], rows)
    made.views[keys[1]] = [made.views[keys[0]][0][:, :, ::2, ::2]]
    return made


def subtitled(keys: tuple[str, ...], rows: int) -> Batch:
    """Films with three texts each, of which one, two or all are subtitles."""
    made = plain(keys, rows)
    made.views["text"] = [made.views["text"][0], *(plain(keys, rows + n).views["text"][0] for n in (1, 2))]
    made.views["text"][1:] = [
        picked(view, torch.arange(n, rows + n)) for n, view in enumerate(made.views["text"][1:], 1)
    ]
    made.extra["said"] = 1 + torch.arange(rows) % 3
    return made


WORD = {"width": 8, "tags": 30, "learn_from": 16}


def masked(keys: tuple[str, ...], rows: int) -> Batch:
    """Two views of images in segments, most of which both show, and what is drawn of them."""
    made = seeded(keys, rows)
    made.views[keys[0]] += several(1)(keys, rows).map(lambda x: x.flip(0)).views[keys[0]]
    drawn = torch.randint(3, (rows, 2, 2, 2), generator=torch.Generator().manual_seed(3))
    masks = drawn.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    made.fields[keys[0]] = {"mask": list(masks.unbind(1))}
    return made


def boxed(keys: tuple[str, ...], rows: int) -> Batch:
    """Two views of images of a colour each, and a box in each."""
    made, generator = several(2)(keys, rows), torch.Generator().manual_seed(5)
    colors = torch.randint(0, 256, (rows, 3, 1, 1), generator=generator)
    made.views[keys[0]] = [(x // 8 + 7 * (colors // 8)).byte() for x in made.views[keys[0]]]
    corner = torch.rand(2, rows, 2, generator=torch.Generator().manual_seed(4)) * 8
    boxes = torch.cat([corner, corner + 7], dim=2)
    made.fields[keys[0]] = {"boxes": [Ragged(each, torch.ones(rows, dtype=torch.long)) for each in boxes]}
    made.extra["seed"] = torch.arange(rows) + 7
    return made


def several_seeded(keys: tuple[str, ...], rows: int) -> Batch:
    """Three views of each sample, and what its words are drawn from."""
    made = several(3)(keys, rows)
    made.extra["seed"] = torch.arange(rows) + 7
    return made


def proposed(keys: tuple[str, ...], rows: int) -> Batch:
    """Three views of images, the third smaller, and two to four boxes in each, of which the others show most."""
    made, generator = boxed(keys, rows), torch.Generator().manual_seed(6)
    first, second = made.views[keys[0]]
    made.views[keys[0]] = [first, second, second[:, :, ::2, ::2].contiguous()]
    lengths = torch.arange(rows) % 3 + 2
    corner = torch.rand(int(lengths.sum()), 2, generator=generator) * 8
    boxes = torch.cat([corner, corner + 3 + 5 * torch.rand(len(corner), 2, generator=generator)], dim=1)
    shifted = (boxes - 3).clamp(0, 16)
    made.fields[keys[0]] = {"boxes": [Ragged(each, lengths) for each in (boxes, shifted, shifted / 2)]}
    return made


def placed(keys: tuple[str, ...], rows: int) -> Batch:
    """Two large views of images and a small one, and where they lie in sources of 40 x 40; one is mirrored."""
    made, generator = several(3)(keys, rows), torch.Generator().manual_seed(8)
    views = made.views[keys[0]]
    views[2] = views[2][:, :, ::2, ::2].contiguous()
    places = torch.zeros(3, rows, 2, 3)
    places[:, :, 0, 0] = places[:, :, 1, 1] = torch.tensor([30.0, 26, 18])[:, None]
    places[:, :, :, 2] = torch.rand(3, rows, 2, generator=generator) * 10
    places[1, :, 0, 0], places[1, :, 0, 2] = -26, places[1, :, 0, 2] + 26
    made.places[keys[0]] = list(places)
    made.extra["seed"] = torch.arange(rows) + 7
    return made


STAGED = ("convnet", {"image_size": 16, "widths": [4, 8, 8], "depths": [1, 1, 1], "stem_stride": 2})


def cut_mixed(keys: tuple[str, ...], rows: int) -> Batch:
    """Two views of each sample for both encoders, and how much of the mixed one is its own."""
    made = several(2)(keys, rows)
    made.extra["own"] = torch.linspace(0.2, 1.0, rows)
    return made


CONVNET = ("convnet", {"image_size": 16, "widths": [4, 8], "depths": [1, 1], "stem_stride": 2})

TAUGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "image_teacher": ("convnet", {"image_size": 16, "widths": (8, 8), "depths": (1, 1), "strides": (1, 2)})
}

SETTINGS = {
    "align": Setting(("image", "text"), {"temperature": 0.07}),
    "autoencoder": Setting(("image",), {"code": 8, "start": 4, "widths": (8, 8)}, several(1)),
    "autoencoder:denoising": Setting(("image",), {"code": 8, "start": 4, "widths": (8, 8)}, several(2)),
    "autoencoder:sparse": Setting(("image",), {"code": 8, "start": 4, "widths": (8, 8), "sparse": 0.1}, several(1)),
    "ambient_sound": Setting(
        ("image", "audio"),
        {"size": 4},
        several(1),
        {"audio": ("sound_texture", {"seconds": 0.1, "bands": 6, "modulations": 2})},
    ),
    "avc": Setting(("image", "audio"), {"hidden": 8}),
    "ave": Setting(("image", "audio"), {"embed_dim": 8}),
    "avol": Setting(("image", "audio"), {"embed_dim": 8}),
    "avts": Setting(("video", "audio"), {"embed_dim": 8}, shifted_sounds),
    "barlow_twins": Setting(("image",), {"embed_dim": 8, "hidden": [16, 16]}, several(2)),
    "beit": Setting(
        ("image", "image_tokenizer"),
        {"block": 1},
        tokenized,
        {
            "image": ("vit", VIT | {"patch_size": 4}),
            "image_tokenizer": ("codes", {"image_size": 8, "codes": 6, "width": 4, "groups": 2, "depth": 1}),
        },
    ),
    "bownet": Setting(("image", "image_words"), {"words": 5, "learn_from": 60}, cut_mixed, {"image_words": CONVNET}),
    "byol": Setting(("image",), {"embed_dim": 8, "hidden": [16], "momentum": 0.9}, several(2)),
    "clip": Setting(("image", "text"), {"embed_dim": 8}),
    "colorization": Setting(
        ("image",), {"bins": 4, "neighbors": 2, "uniform": 1.0, "widths": (8,), "learn_from": 200}, color_of_cells
    ),
    "cmc": Setting(
        ("image", "image_ab"),
        {"embed_dim": 8, "negatives": 12},
        several(1),
        {
            "image": ("lab", {"part": "lightness", "image": {"name": "vit", **VIT}}),
            "image_ab": ("lab", {"part": "color", "image": {"name": "vit", **VIT}}),
        },
    ),
    "color_tracking": Setting(
        ("video",), {"clusters": 4, "embed_dim": 8, "width": 8, "learn_from": 200}, colored_cells
    ),
    "detcon": Setting(("image",), {"embed_dim": 8, "hidden": [16], "masks": 4, "momentum": 0.9}, masked),
    "detcon:s": Setting(("image",), {"embed_dim": 8, "hidden": [16], "masks": 4}, masked),
    "directclr": Setting(("image",), {"dims": 6}, several(2)),
    "dvae": Setting(
        ("image",),
        {"width": 4, "first": 8, "depth": 1, "kl_over": 1.0, "cool_over": 1.0},
        seeded,
        {"image": ("codes", {"image_size": 16, "codes": 8, "width": 4, "groups": 2, "depth": 1})},
    ),
    "inpainting": Setting(("image",), {"overlap": 1, "adversarial": 0.1, "judges": (8, 8), "widths": (8, 8)}, holed),
    "insloc": Setting(
        ("image",),
        {"embed_dim": 8, "width": 8, "hidden": 16, "queue": 12, "momentum": 0.9},
        boxed,
        {"image": STAGED},
        settled=3,
    ),
    "jigsaw": Setting(("image",), {"permutations": 5, "width": 8, "hidden": (16,), "dropout": 0.0}, asked(9, 5)),
    "leopart": Setting(
        ("image",),
        {"prototypes": 5, "embed_dim": 8, "hidden": [16], "queue": 40, "size": 3, "momentum": 0.9},
        placed,
        {"image": ("vit", VIT | {"patch_size": 4})},
    ),
    "mae": Setting(("image",), {"ratio": 0.5, "width": 8, "depth": 1, "heads": 2}, seeded),
    "exemplar": Setting(("image",), {"hidden": [8]}, several(2)),
    "moco": Setting(("image",), {"embed_dim": 8, "queue": 12, "momentum": 0.9}, several(2)),
    "moco:v2": Setting(("image",), {"embed_dim": 8, "queue": 12, "momentum": 0.9}, several(2)),
    "moco:v3": Setting(("image",), {"embed_dim": 8, "hidden": [16, 16], "momentum": 0.9}, several(2)),
    "moby": Setting(("image",), {"embed_dim": 8, "hidden": [16], "queue": 12, "momentum": 0.9}, several(2)),
    "npid": Setting(("image",), {"embed_dim": 8, "negatives": 12}, several(1)),
    "obow": Setting(("image",), {"words": 12, "border": 0, "average": 1}, several_seeded, {"image": CONVNET}),
    "odd_one_out": Setting(
        ("video",), {"frames": 3, "widths": [8], "dropout": 0.0}, shuffled_frames(3, 3, sequences=3)
    ),
    "opn": Setting(("video",), {"widths": (8, 8), "dropout": 0.0}, shuffled_frames(4, 12)),
    "cpc": Setting(("image",), {"embed_dim": 8, "width": 8, "layers": 2, "rows": [1, 2]}, several(9)),
    "clusterfit": Setting(
        ("image", "image_teacher"),
        {"clusters": 4},
        several(1),
        TAUGHT,
    ),
    "distill": Setting(
        ("image", "image_teacher"), {"classes": 3, "hidden": 8, "alpha": 0.6, "fraction": 0.4}, several(1), TAUGHT
    ),
    "finetune": Setting(("image",), {"classes": 3, "hidden": 8, "fraction": 0.4}, several(1)),
    "metric_transfer": Setting(
        ("image", "image_teacher"),
        {"classes": 3, "fraction": 0.4, "neighbors": 4, "vectors": 6},
        several(1),
        TAUGHT,
    ),
    "densecl": Setting(("image",), {"embed_dim": 8, "queue": 90, "momentum": 0.9, "weight": 0.4}, several(2), FINE),
    "cross_and_learn": Setting(("image", "flow"), {"embed_dim": 8, "dropout": 0.0}),
    "deepcluster": Setting(("image",), {"clusters": 4, "pca": 8}, several(1)),
    "deepcluster:v2": Setting(("image",), {"embed_dim": 8, "hidden": [16], "clusters": [4, 3]}, several(3)),
    "dim": Setting(("image",), {"embed_dim": 24}, several(1)),
    "depthcontrast": Setting(
        ("points", "points_voxels"),
        {"embed_dim": 8, "hidden": [16], "queue": 12, "momentum": 0.9},
        cloud_pairs,
        {"points_voxels": ("sparse_unet", {"planes": [4, 8], "voxel": 0.4})},
    ),
    "dino": Setting(
        ("image",),
        {"prototypes": 6, "bottleneck": 8, "hidden": [16, 16], "lengths": True, "momentum": 0.9, "frozen": 0.0},
        several(3),
    ),
    "esvit": Setting(
        ("image",),
        {"prototypes": 6, "bottleneck": 8, "hidden": [16, 16], "momentum": 0.9, "frozen": 0.0, "weight": 0.4},
        several(3),
        FINE,
    ),
    "directpred": Setting(("image",), {"embed_dim": 4, "hidden": [16], "momentum": 0.9}, several(2)),
    "pirl": Setting(("image",), {"embed_dim": 8, "patches": 4, "negatives": 12}, several(5)),
    "pic": Setting(("image",), {"embed_dim": 8}, several(1)),
    "pixcontrast": Setting(
        ("image",),
        {"embed_dim": 8, "hidden": [16], "momentum": 0.9, "instance": 0.5},
        crops(2),
        FINE,
    ),
    "pixpro": Setting(
        ("image",),
        {"embed_dim": 8, "hidden": [16], "momentum": 0.9, "instance": 0.5},
        crops(2),
        FINE,
    ),
    "pcl": Setting(
        ("image",), {"embed_dim": 8, "clusters": [3, 5], "queue": 6, "momentum": 0.9, "warmup": 0.0}, several(2)
    ),
    "pcl:v2": Setting(
        ("image",), {"embed_dim": 8, "clusters": [3, 5], "queue": 6, "momentum": 0.9, "warmup": 0.0}, several(2)
    ),
    "pointcontrast": Setting(("points",), {"embed_dim": 8}, cloud_pairs),
    "relative_position": Setting(("image",), {"hidden": (16,)}, asked(2, 8)),
    "resim": Setting(
        ("image",),
        {"embed_dim": 8, "queue": 90, "momentum": 0.9, "width": 8, "cells": [4, 2], "windows": [8, 6], "steps": [4, 3]},
        crops(2),
        {"image": ("convnet", {"image_size": 16, "widths": [4, 6, 8], "depths": [1, 1, 1], "stem_stride": 2})},
    ),
    "rotation": Setting(("image",), {}, asked(4, 4, each=True)),
    "sela": Setting(("image",), {"clusters": 4, "heads": 3}, several(1)),
    "selavi": Setting(
        ("video", "audio"), {"clusters": 4, "heads": 2, "hidden": (8,), "dropout": 0.0, "warm": 2}, several(1)
    ),
    "shuffle_and_learn": Setting(("video",), {"widths": (8,), "hidden": (8,), "dropout": 0.0}, shuffled_frames(3, 2)),
    "siglip": Setting(("image", "text"), {"embed_dim": 8}),
    "simclr": Setting(("image",), {"embed_dim": 8}, several(2)),
    "simclr:v2": Setting(("image",), {"embed_dim": 8}, several(2)),
    "soco": Setting(
        ("image",),
        {"embed_dim": 8, "hidden": [16], "width": 8, "features": 16, "boxes": 2, "sizes": [5.0], "momentum": 0.9},
        proposed,
        {"image": STAGED},
    ),
    "split_brain": Setting(
        ("image", "image_ab"),
        {"bins": 4, "neighbors": 2, "lightness_bins": 5, "widths": (8,), "learn_from": 200},
        color_of_cells,
        {"image_ab": ("vit", VIT)},
    ),
    "super_resolution": Setting(("image",), {"adversarial": 0.01, "judges": (8, 8), "widths": (8, 8)}, several(2)),
    "simmim": Setting(("image",), {"mask_size": 8}, seeded),
    "simsiam": Setting(("image",), {"embed_dim": 8, "hidden": [16], "bottleneck": 4}, several(2)),
    "swav": Setting(
        ("image",),
        {"embed_dim": 8, "hidden": [16], "prototypes": 5, "queue": 6, "queue_from": 0.0, "frozen": 0.0},
        several(3),
    ),
    "virtex": Setting(
        ("image", "text"),
        {"layers": 2, "heads": 2, "dropout": 0.0},
        encoders={"text": ("transformer", TEXT | {"depth": 0})},
    ),
    "icmlm": Setting(("image", "text"), WORD | {"head": "tfm", "depth": 1, "heads": 2}, seeded),
    "watch_and_learn": Setting(("video", "text"), {"embed_dim": 8}, subtitled),
    "vicreg": Setting(("image",), {"embed_dim": 8, "hidden": [16, 16]}, several(2)),
}


def build(name: str) -> MultiTask:
    """Makes a run of the one method, the same at every call.

    BatchNorm keeps its starting statistics, so that several processes can equal one.
    """
    torch.manual_seed(0)
    setting = SETTINGS[name]
    encoders: dict[str, Encoder] = {}
    for key in setting.keys:
        kind, options = {**ENCODERS, **setting.encoders}[key]
        encoders[key] = create_encoder(kind, **options)
    method, _ = names.resolve("methods", name)
    objective = method.objective(encoders, **setting.options)
    reserve(objective, SAMPLES)
    objective.choose(classes)
    bring(encoders)
    model = MultiTask(encoders, {name: objective}, {name: 1.0})
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    objective.before_epoch(encoders, epoch_of(name))
    return model


def classes(field: str) -> dict[int, int]:
    """Returns the class of every sample of the training set by its number, which depends on the field."""
    return {number: number // len(field) % 3 for number in range(SAMPLES)}


def bring(encoders: Mapping[str, Encoder]) -> None:
    """Gives encoders the weights of the heads of runs that they begin with."""
    with torch.random.fork_rng(devices=[]):
        for key, encoder in encoders.items():
            torch.manual_seed(len(key))
            middles = {space: Middle(encoder.dim, out=8) for space in ("simclr_middle", "other_middle")}
            whole = {space: Classes(encoder.dim, classes=3, hidden=8) for space in ("finetune", "other")}
            encoder.brought = {space: head.state_dict() for space, head in {**middles, **whole}.items()}


def epoch_of(name: str, number: int = 0) -> Epoch:
    """Returns a pass over the training set, whose training batches are all the same."""
    return Epoch(number, lambda: iter(lambda: batch(name), None), lambda: sweep(name))


def sweep(name: str) -> Iterator[Batch]:
    """Yields the whole training set once, this process's share of it, one view of each sample."""
    keys = SETTINGS[name].keys
    whole = plain(keys, SAMPLES)
    whole.extra["index"] = torch.arange(SAMPLES)
    for rows in torch.arange(dist.rank(), SAMPLES, dist.world()).split(4):
        yield pick(whole, rows)


def batch(name: str, rows: int = 8, *, missing: bool = True) -> Batch:
    """Makes a batch of raw views, the same at every call; some samples lack a modality."""
    setting = SETTINGS[name]
    made = setting.make(setting.keys, rows)
    for number, key in enumerate(setting.keys):
        present = torch.ones(rows, dtype=torch.bool)
        if missing:
            present[number :: 3 + number] = False
        made.extra[f"{key}_present"] = present
    return made


def picked(view: Tensor | Ragged, rows: Tensor) -> Tensor | Ragged:
    """Returns a view of the samples at an index (b,)."""
    if not isinstance(view, Ragged):
        return view[rows]
    if view.padded:
        return Ragged(view.values[rows], view.lengths[rows], padded=True)
    return Ragged.pack([view.split()[row] for row in rows.tolist()])


def pick(whole: Batch, rows: Tensor) -> Batch:
    """Returns the samples at an index (b,)."""
    views = {key: [picked(view, rows) for view in several] for key, several in whole.views.items()}
    target = None if whole.target is None else whole.target[rows]
    moved = {
        key: {name: [picked(value, rows) for value in values] for name, values in fields.items()}
        for key, fields in whole.fields.items()
    }
    places = {key: [place[rows] for place in several] for key, several in whole.places.items()}
    return Batch(views, target, {key: value[rows] for key, value in whole.extra.items()}, places, moved)
