"""Several views pass through an encoder together, and a teacher follows."""

from __future__ import annotations

import pytest
import torch

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.objectives.teacher import Teacher
from mmssl.transforms.image import Crop
from mmssl.types import Batch, Encoder, Features, Pretext, Ragged
from mmssl.views.template import Views


def test_views_of_one_size_pass_at_once_and_come_back_in_order() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).eval()
    views = [torch.rand(3, 3, size, size) for size in (16, 16, 8, 8, 8)]
    found = pooled_views(encoder, views, 3)
    for view, pooled in zip(views, found, strict=True):
        torch.testing.assert_close(pooled, encoder(view).pooled)


def test_views_apart_meet_in_no_batch_norm() -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).train()
    views = [torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16) / 2]
    alone = [encoder(view).pooled for view in views]
    for made, expected in zip(pooled_views(encoder, views, 3, separate=True), alone, strict=True):
        torch.testing.assert_close(made, expected)
    assert not torch.allclose(pooled_views(encoder, views, 3)[0], alone[0], atol=1e-2)
    head = Projection(8, out=4)
    taught = Teacher(encoder, head, separate=True)(views, 3)
    for made, expected in zip(taught, alone, strict=True):
        torch.testing.assert_close(made, head.project(expected))


def test_clouds_are_packed() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("pointnet", widths=[8, 16]).eval()
    views = [Ragged.pack(torch.rand(n, 3).split([3, n - 3])) for n in (5, 4)]
    for view, pooled in zip(views, pooled_views(encoder, views, 2), strict=True):
        torch.testing.assert_close(pooled, encoder(view).pooled)


def test_the_encoder_is_the_only_one_or_named() -> None:
    image, audio = create_encoder("convnet", image_size=16), create_encoder("raw:audio")
    alone = MultiView({"audio": audio})
    assert (alone.uses, alone.key, alone.dim) == (("audio",), "audio", audio.dim)
    assert alone.training and not list(alone.parameters()), "the encoder is not the task's own"
    named = MultiView({"image": image, "audio": audio}, encoder="audio")
    assert (named.uses, named.key, named.dim) == (("audio",), "audio", audio.dim)
    with pytest.raises(UserError, match="the run has the encoders image, audio; say which"):
        MultiView({"image": image, "audio": audio})
    with pytest.raises(UserError, match="objective.encoder is 'audio'; the run has image"):
        MultiView({"image": image}, encoder="audio")
    assert not MultiView.separate


def test_too_few_views_are_refused_and_the_rest_are_those_of_the_encoder() -> None:
    made = MultiView({"image": create_encoder("convnet", image_size=16)})
    one, other = torch.zeros(1), torch.ones(1)
    batch = Batch({"audio": [one] * 3, "image": [one, other]}, extra={"image_present": torch.tensor([False])})
    assert made.views(batch) is batch.views["image"] and made.views(batch, least=2) is batch.views["image"]
    assert made.present(batch).tolist() == [False]
    with pytest.raises(UserError, match="compares 3 views of image, but 2 is shown"):
        made.views(batch, least=3)
    single = Batch({"image": [one]})
    with pytest.raises(UserError, match="compares 2 views"):
        made.views(single)
    assert len(made.views(single, least=1)) == 1 and made.present(single).tolist() == [True]


def test_places_and_fields_are_those_of_the_encoder_or_refused() -> None:
    task = MultiView({"image": create_encoder("convnet", image_size=16)})
    place, mask = torch.zeros(1, 2, 3), torch.zeros(1, 4, 4)
    batch = Batch({"image": [mask]}, places={"image": [place]}, fields={"image": {"mask": [mask]}})
    assert task.places(batch) is batch.places["image"] and task.fields(batch, "mask") is batch.fields["image"]["mask"]
    with pytest.raises(UserError, match="the task needs boxes that move with image; say it in view.fields"):
        task.fields(batch, "boxes")
    other = Batch({"image": [mask]}, places={"audio": [place]})
    with pytest.raises(UserError, match="its view does not say where its views of image lie"):
        task.places(other)
    with pytest.raises(UserError, match="the task needs mask"):
        task.fields(other, "mask")


class Normed(Encoder):
    """BatchNorm alone, and a note of the batches that passed."""

    modality, dim = "pulse", 3

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.sizes = torch.nn.BatchNorm1d(3), []

    def forward(self, x: torch.Tensor) -> Features:
        self.sizes.append(tuple(x.shape))
        return Features(self.norm(x.unflatten(1, (-1, 3)).mean(dim=1)))


class Apart(MultiView):
    separate = True


@pytest.mark.parametrize("kind", [MultiView, Apart])
def test_a_task_passes_its_views_as_its_paper_does(kind: type[MultiView]) -> None:
    encoder = Normed()
    views = [torch.randn(4, 3), 2 * torch.randn(4, 3), torch.randn(4, 6), torch.randn(4, 3)]
    found = kind({"pulse": encoder}).pooled({"pulse": encoder}, Batch({"pulse": views}))
    passed = [[0], [1], [2], [3]] if kind is Apart else [[0, 1], [2], [3]]  # those of one size that stand side by side
    assert encoder.sizes == [(4 * len(group), views[group[0]].shape[1]) for group in passed]
    for group in passed:
        together = encoder(torch.cat([views[i] for i in group])).pooled
        for place, number in enumerate(group):
            torch.testing.assert_close(found[number], together[4 * place : 4 * place + 4])


@pytest.mark.parametrize("separate", [False, True])
def test_clouds_pass_together_or_apart(separate: bool) -> None:
    encoder = create_encoder("pointnet", widths=[8, 16]).train()
    views = [Ragged.pack(torch.rand(n, 3).split([3, n - 3])) for n in (5, 4)]
    found = pooled_views(encoder, views, 2, separate=separate)
    both = Ragged.pack([*views[0].split(), *views[1].split()])
    expected = [encoder(view).pooled for view in views] if separate else encoder(both).pooled.split(2)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


class Bag:
    """Numbers of two samples, that are no tensor."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows


class Sums(Encoder):
    """Sums a padded or a packed batch, or a Bag, and notes how many samples came at once."""

    modality, dim = "bag", 1

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Ragged | Bag) -> Features:
        sums = x.rows if isinstance(x, Bag) else torch.stack([row.sum() for row in x.split()])
        self.sizes.append(len(sums))
        return Features(sums[:, None])


@pytest.mark.parametrize(
    ("lengths", "make", "sizes"),
    [([2, 2, 3], Ragged.pad, [4, 2]), ([2, 2, 3], Ragged.pack, [6]), ([2, 2, 3], Bag, [2, 2, 2])],
    ids=["padded", "packed", "own"],
)
def test_ragged_views_of_one_size_pass_at_once_and_others_alone(
    lengths: list[int], make: object, sizes: list[int]
) -> None:
    encoder, rows = Sums(), [[torch.rand(length), torch.rand(1)] for length in lengths]
    expected = [torch.stack([row.sum() for row in view]) for view in rows]
    views = expected if make is Bag else rows
    found = pooled_views(encoder, [make(view) for view in views], 2)  # type: ignore[operator]
    assert encoder.sizes == sizes
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine[:, 0], theirs)


class Compares(MultiView):
    compares = 2


def test_too_few_views_are_refused_before_a_run() -> None:
    template = Views(1, image=[Crop()])
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1])
    pretext = Pretext(Compares({"image": encoder}), template, {})
    with pytest.raises(UserError, match="the task compares 2 views of image, but 1 is shown; see view.views"):
        pretext.show({"image": encoder})
    assert pretext.show({"image": encoder}, views=3).shows == {"image": 3}
    alone = Pretext(MultiView({"image": encoder}), template, {})
    assert alone.show({"image": encoder}).shows == {"image": 1}


@pytest.mark.parametrize("name", ["simclr", "moco:v3", "byol", "vicreg", "dino", "swav"])
def test_methods_of_two_views_say_so(name: str) -> None:
    method, _ = names.resolve("methods", name)
    assert method.objective.compares == 2 <= method.view.views
