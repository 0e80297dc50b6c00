"""The toy world: determinism, held-out compositions, physics, and that sound, masks and scans fit the image."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mmssl import modalities

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets" / "bounce"
MODULES = ("caption", "factors", "physics", "render", "sample", "scene", "sound", "prepare")
OPTIONS = {"seed": 0, "size": 64, "fps": 12.5}


@pytest.fixture(scope="module")
def bounce() -> Iterator[SimpleNamespace]:
    """The generator's modules, imported as its script does, and forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def samples(bounce: SimpleNamespace) -> list[dict[str, bytes]]:
    return [bounce.sample.make(i, split="train", **OPTIONS) for i in range(10)]


@pytest.fixture(scope="module")
def opened(samples: list[dict[str, bytes]]) -> list[dict[str, Any]]:
    """The samples as the loader opens them."""
    return [{k: modalities.decode(k, v) for k, v in sample.items() if k != "__key__"} for sample in samples]


def test_a_sample_is_a_pure_function_of_seed_split_and_index(bounce: SimpleNamespace, samples: list) -> None:
    assert bounce.sample.make(3, split="train", **OPTIONS) == samples[3]
    for other in ({"seed": 1}, {"split": "test_seen"}):
        changed = bounce.sample.make(3, **{"split": "train", **OPTIONS, **other})
        assert all(changed[name] != samples[3][name] for name in ("mp4", "jpg", "json"))


def test_held_out_compositions_are_a_balanced_fifth_and_never_trained(bounce: SimpleNamespace) -> None:
    factors, scene = bounce.factors, bounce.scene
    novel = set(factors.compositions(novel=True))
    assert len(novel) == 40
    assert len(factors.compositions(novel=False)) == 192 - 40
    for part in (0, 1):
        assert set(Counter(c[part] for c in novel).values()) == {5}
        test = Counter(factors.chosen(0, "test_novel", i)[part] for i in range(200))
        train = Counter(factors.chosen(0, "train", i)[part] for i in range(19 * 8 * 3))
        assert set(test.values()) == {25}
        assert set(train.values()) == {57}
        assert max(Counter((c[part], c[2]) for c in novel).values()) == 2
    rng = np.random.default_rng(0)
    for split in ("train", "test_seen"):
        drawn = [scene.draw_objects(rng, split, factors.chosen(0, split, i)) for i in range(300)]
        assert {len(objects) for objects in drawn} == {1, 2}
        assert not any((o.shape, o.color, o.material) in novel for objects in drawn for o in objects)
    assert all(len(scene.draw_objects(rng, "test_novel", next(iter(novel)))) == 1 for _ in range(20))


def test_labels_tell_the_factors(bounce: SimpleNamespace, opened: list) -> None:
    for index, sample in enumerate(opened):
        labels = sample["json"]
        composition = tuple(labels[name] for name in ("shape", "color", "material"))
        assert composition == bounce.factors.chosen(0, "train", index)
        assert labels["objects"][0]["size"] == labels["size"]
        assert labels["n_objects"] == len(labels["objects"])
        assert labels["novel"] is False


def test_things_fall_and_lose_energy(bounce: SimpleNamespace) -> None:
    for index in range(12):
        motion = bounce.scene.draw_scene(0, "train", index).motion
        energy = motion.energy / motion.energy[0]
        assert (np.diff(energy) < 2e-3).all(), "energy rises"
        assert energy[-1] < 0.9
        fall = np.diff(motion.position[:, 0, 2], 2) / bounce.physics.STEP**2
        assert np.median(fall) == pytest.approx(-9.81, rel=1e-3)
        assert motion.position[..., 2].min() > 0.05


def test_every_clip_holds_several_impacts(bounce: SimpleNamespace) -> None:
    for index in range(30):
        times = [impact.time for impact in bounce.scene.draw_scene(0, "train", index).impacts]
        assert len(times) >= 3
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] < 2


def test_sound_begins_at_contact(opened: list) -> None:
    rises, hop = [], 160
    for sample in opened:
        wave = _sound(sample["mp4"])
        level = np.log(np.square(wave[: len(wave) // hop * hop].reshape(-1, hop)).mean(1) + 1e-8)
        times = [impact["time"] for impact in sample["json"]["impacts"]]
        for time in times:
            if 0.1 < time < 1.9 and all(other == time or abs(other - time) > 0.12 for other in times):
                near = np.arange(round(time * 100) - 8, round(time * 100) + 9)
                rises.append(near[np.argmax(level[near] - level[near - 1])] / 100 - time)
    assert len(rises) > 10
    assert np.mean(np.abs(rises) < 0.02) > 0.9, rises  # a frame lasts 0.08 s
    assert abs(np.median(rises)) < 0.011


def _sound(video: Any) -> np.ndarray:
    from mmssl.modalities import audio

    return np.asarray(audio.Audio(video.data).read(sample_rate=16_000, start=0.0, seconds=2.0))


def test_pitch_falls_with_size_and_metal_rings_longest(bounce: SimpleNamespace) -> None:
    def heard(material: str, size: str) -> tuple[float, float]:
        wave = bounce.sound.ring(material, bounce.sound.PITCH[size], np.random.default_rng(0))
        power = np.abs(np.fft.rfft(wave)) ** 2
        energy = np.cumsum(wave**2)
        centre = float((power * np.arange(len(power))).sum() / power.sum())
        return centre, float(np.searchsorted(energy, 0.9 * energy[-1]) / bounce.sound.RATE)

    for material in bounce.factors.MATERIALS:
        low, middle, high = (heard(material, size)[0] for size in ("large", "medium", "small"))
        assert low < middle < high
    lasting = {material: heard(material, "medium")[1] for material in bounce.factors.MATERIALS}
    assert lasting["metal"] > 3 * max(lasting["wood"], lasting["rubber"])


def test_harder_impacts_are_louder_and_the_gain_is_random(bounce: SimpleNamespace) -> None:
    def peaks(seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        wave = bounce.sound.soundtrack([(0.5, 4.0, 0), (1.5, 1.0, 0)], [("wood", "small")], 2.0, rng)
        return float(np.abs(wave[:16_000]).max()), float(np.abs(wave[16_000:]).max())

    heard = [peaks(seed) for seed in range(20)]
    assert all(hard > 1.5 * soft for hard, soft in heard)
    assert max(h for h, _ in heard) > 3 * min(h for h, _ in heard)


def test_masks_lie_on_the_objects_of_their_own_frame(opened: list) -> None:
    for sample in opened:
        labels, masks = sample["json"], sample["masks.npz"]["masks"]
        frames = sample["mp4"].frames((np.arange(25) + 0.5) / 12.5).astype(int)
        assert masks.shape == (25, 64, 64) == frames.shape[:3]
        assert masks.dtype == np.uint8
        assert masks.max() == labels["n_objects"]
        vivid = frames.max(-1) - frames.min(-1)
        inside, outside = vivid[masks > 0].mean(), vivid[masks == 0].mean()
        assert inside > outside + 40
        late = np.mean([vivid[t][masks[t + 2] > 0].mean() for t in range(23)])
        assert inside > late + 5


def test_key_frames_have_classes_boxes_and_outlines(bounce: SimpleNamespace, opened: list) -> None:
    for sample in opened:
        mask, labels = np.asarray(sample["mask.png"]), sample["json"]
        shapes = {thing["shape"] for thing in labels["objects"]}
        assert {bounce.factors.SHAPES[number - 1] for number in np.unique(mask) if number} == shapes
        pixels = np.asarray(sample["jpg"]).astype(int)
        vivid = pixels.max(-1) - pixels.min(-1)
        assert vivid[mask > 0].mean() > vivid[mask == 0].mean() + 40
        for thing in sample["annotations.json"]:
            counts, (height, width) = thing["segmentation"]["counts"], thing["segmentation"]["size"]
            inside = np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(width, height).T
            assert (
                inside.sum() == thing["area"] and (bounce.factors.SHAPES.index(thing["category"]) + 1) in mask[inside]
            )
            left, top, across, down = thing["bbox"]
            assert inside[top : top + down, left : left + across].sum() == thing["area"], "all of it is in its box"
            edges = inside[top, :], inside[top + down - 1, :], inside[:, left], inside[:, left + across - 1]
            assert all(edge.any() for edge in edges), "and the box is no larger"
        assert sum(thing["area"] for thing in sample["annotations.json"]) == (mask > 0).sum()


def test_normals_stand_on_the_surfaces_of_the_depth_image(bounce: SimpleNamespace) -> None:
    scene = bounce.scene.draw_scene(0, "train", 3)
    time, camera = bounce.scene.key_camera(scene, 96)
    picture = bounce.render.render(scene.room, scene.solids, camera, *scene.at(np.array([time])))
    points = (camera.grid().T * picture.depth[0].reshape(-1, 1)).reshape(96, 96, 3)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    plain = np.cross(down, across)
    plain /= np.linalg.norm(plain, axis=-1, keepdims=True)
    normal = picture.normal[0, 1:-1, 1:-1]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-3)
    cosine = (plain * normal).sum(-1)
    assert np.median(cosine) > 0.9999 and (cosine > 0.98).mean() > 0.9
    assert (cosine[picture.mask[0, 1:-1, 1:-1] > 0] > 0.95).mean() > 0.6, "solids, but for their edges"


def test_every_object_is_in_view_at_every_impact(opened: list) -> None:
    shown = []
    for sample in opened:
        masks = sample["masks.npz"]["masks"]
        for impact in sample["json"]["impacts"]:
            frame = masks[min(24, round(impact["time"] * 12.5))]
            shown.append((frame == impact["object"] + 1).sum() >= 12)
        edges = masks[:, [0, -1]].any((1, 2)) | masks[:, :, [0, -1]].any((1, 2))
        assert edges.mean() < 0.1, "objects are cut off by the image's edge"
    assert np.mean(shown) > 0.9


def test_picture_and_sound_fill_two_seconds_and_nothing_is_black(opened: list) -> None:
    for sample in opened:
        assert sample["mp4"].duration == pytest.approx(2.0, abs=0.001)
        frames = sample["mp4"].frames(np.arange(25) / 12.5)
        brightness = frames.mean((1, 2, 3))
        assert brightness.min() > 40
        assert np.ptp(brightness) < 30
        assert sample["jpg"].size == (96, 96)


def test_scans_coincide_in_the_world(opened: list) -> None:
    for sample in opened:
        labels, world = sample["json"], {}
        for role in ("points_a", "points_b"):
            pose = np.array(labels[role]["camera_to_world"])
            np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-5)
            cloud = sample[f"{role}.ply"]
            assert 1000 <= len(cloud.xyz) <= 2000
            assert cloud.color is not None
            assert cloud.xyz[:, 2].min() > 0
            world[role] = torch.tensor(cloud.xyz @ pose[:3, :3].T + pose[:3, 3], dtype=torch.float32)
            assert world[role][:, 2].min() > -0.03
        distance = torch.cdist(world["points_a"], world["points_b"])
        near = [(distance.amin(axis) < 0.075).float().mean().item() for axis in (0, 1)]
        apart = torch.cdist(*(torch.tensor(sample[f"points_{c}.ply"].xyz, dtype=torch.float32) for c in "ab"))
        assert min(near) >= 0.3
        assert min(near) > (apart.amin(1) < 0.075).float().mean().item()


def test_scans_overlap_even_where_a_block_hides_much(bounce: SimpleNamespace) -> None:
    hard = bounce.scene.draw_scene(0, "train", 1597)
    for time in (0.2, 0.9, 1.6):
        assert bounce.sample.scans(hard, time)[1] > bounce.sample.OVERLAP


def test_the_caption_names_every_factor_and_the_brief_ones_no_wrong_one(bounce: SimpleNamespace, opened: list) -> None:
    words = bounce.caption
    for sample in opened:
        labels = sample["json"]
        assert sample["txt"] == labels["captions"][0]
        assert len(set(labels["captions"])) == 5
        for thing in labels["objects"]:
            assert thing["color"] in sample["txt"]
            for table, factor in ((words.SIZE, "size"), (words.SHAPE, "shape"), (words.MATERIAL, "material")):
                known = table[thing[factor]] + (words.MADE_OF[thing[factor]] if factor == "material" else ())
                assert any(word in sample["txt"] for word in known), (sample["txt"], thing)
        for text in labels["captions"][1:]:
            said = set(text.replace(",", "").split())
            assert said & set(bounce.factors.COLORS) <= {thing["color"] for thing in labels["objects"]}
            for table, factor in ((words.SIZE, "size"), (words.SHAPE, "shape"), (words.MATERIAL, "material")):
                right = {word for thing in labels["objects"] for word in table[thing[factor]]}
                wrong = {word for several in table.values() for word in several} - right
                assert not said & wrong, (text, factor)


def test_brief_captions_leave_something_out(bounce: SimpleNamespace, opened: list) -> None:
    colors = set(bounce.factors.COLORS)
    brief = [text for sample in opened for text in sample["json"]["captions"][1:]]
    assert any(not colors & set(text.split()) for text in brief)
    assert any(colors & set(text.split()) for text in brief)


def test_card_fits_the_generator(bounce: SimpleNamespace, samples: list) -> None:
    card = yaml.safe_load((FOLDER / "card.yaml").read_text())
    factors = bounce.factors
    known = {"shape": factors.SHAPES, "color": factors.COLORS, "size": factors.SIZES, "material": factors.MATERIALS}
    assert card["factors"] == {name: list(values) for name, values in known.items()}
    assert list(card["splits"]) == list(factors.SPLITS)
    assert set(card["columns"]) == set(samples[0]) - {"__key__"}
    assert {"about", "licence", "size"} <= set(card)


def test_prepare_writes_the_splits_and_continues(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "prepare.py"), str(tmp_path / "out"), "--train", "2", "--test", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--workers", "1"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = {p.parent.name: json.loads(p.read_text())["samples"] for p in (tmp_path / "out").glob("*/index.json")}
    assert counts == {"train": 2, "test_seen": 2, "test_novel": 1}


def test_prepare_refuses_what_it_cannot_make(
    bounce: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bounce.prepare.main([str(tmp_path / "a"), "--size", "63"]) == 2
    assert "--size 63" in capsys.readouterr().err
    small = ["--train", "1", "--test", "0", "--workers", "1"]
    assert bounce.prepare.main([str(tmp_path / "b"), *small]) == 0
    written = next((tmp_path / "b" / "train").glob("*.tar"))
    before = written.stat().st_mtime_ns
    assert bounce.prepare.main([str(tmp_path / "b"), *small]) == 0
    assert written.stat().st_mtime_ns == before
    assert bounce.prepare.main([str(tmp_path / "b"), *small, "--seed", "1"]) == 2
    assert not (tmp_path / "a").exists()
