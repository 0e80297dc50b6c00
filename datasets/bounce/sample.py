"""Makes one sample: draws the scene, renders and sounds it, and encodes every field."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
from camera import Array, Camera
from caption import captions
from factors import SHAPES, is_novel
from PIL import Image
from render import Picture, render
from scene import SECONDS, Scene, depth_cameras, draw_scene, key_camera, video_camera
from sound import RATE, soundtrack

from mmssl.modalities import image, points, video

KEY_SCALE = 1.5  # side of the key frame over that of the video
DEPTH_SIZE = 44  # pixels of a depth camera: 1,936 points
DEPTH_NOISE = 0.002  # m
OVERLAP, NEAR = 0.4, 0.05  # wanted share of points that the other camera sees, within metres


def make(index: int, *, split: str, seed: int, size: int, fps: float) -> dict[str, Any]:
    """Returns the encoded fields of sample `index`, a pure function of its arguments."""
    scene = draw_scene(seed, split, index)
    times = np.arange(round(SECONDS * fps)) / fps
    clip = render(scene.room, scene.solids, video_camera(scene, times, size), *scene.at(times))
    key_time, camera = key_camera(scene, round(size * KEY_SCALE))
    key = render(scene.room, scene.solids, camera, *scene.at(np.array([key_time])), fine=2)
    clouds, overlap = scans(scene, key_time)
    texts = captions(scene.objects, {impact.against for impact in scene.impacts}, scene.rng)
    labels = describe(scene) | {
        "captions": texts, "overlap": round(overlap, 3), "key_time": round(key_time, 4),
        "fps": fps, "frames": len(times), "seconds": SECONDS, "seed": seed, "split": split, "index": index,
    }  # fmt: skip
    for role, (_, view) in clouds.items():
        labels[role] = {
            "camera_to_world": view.pose[0].round(6).tolist(),
            "intrinsics": view.intrinsics.round(6).tolist(),
            "size": view.size,
        }
    return {
        "__key__": f"{split}-{index:06d}",
        "mp4": video.encode(clip.color, fps=fps, audio=sound(scene), sample_rate=RATE),
        "jpg": image.encode(key.color[0], quality=92),
        "txt": texts[0].encode(),
        "json": json.dumps(labels).encode(),
        "masks.npz": packed(clip.mask),
        "mask.png": png(classes(scene, key.mask[0])),
        "normals.png": png(np.round(key.normal[0] * 127.5 + 127.5).clip(1, 255).astype(np.uint8)),
        "annotations.json": json.dumps(annotations(scene, key.mask[0])).encode(),
        **{f"{role}.ply": points.encode(cloud) for role, (cloud, _) in clouds.items()},
    }


def describe(scene: Scene) -> dict[str, Any]:
    """Returns the factors: those of the first object, of all objects, and the impacts within the clip."""
    objects: list[dict[str, Any]] = [asdict(thing) for thing in scene.objects]
    for thing in objects:
        thing["novel"] = is_novel(thing["shape"], thing["color"], thing["material"])
    impacts = [
        {"time": round(i.time, 4), "object": i.body, "speed": round(i.speed, 3), "against": i.against}
        for i in scene.impacts
    ]
    return {**objects[0], "n_objects": len(objects), "objects": objects, "impacts": impacts}


def sound(scene: Scene) -> Array:
    """Returns the sound track of the clip, with what still rings from before it."""
    impacts = [(i.time - scene.start, i.speed, i.body) for i in scene.motion.impacts]
    return soundtrack(impacts, [(thing.material, thing.size) for thing in scene.objects], SECONDS, scene.rng)


def packed(masks: np.ndarray) -> bytes:
    """Returns masks (T, H, W) uint8 as a compressed npz with the one array `masks`."""
    stream = io.BytesIO()
    np.savez_compressed(stream, masks=masks)
    return stream.getvalue()


def png(values: np.ndarray) -> bytes:
    """Returns (H, W) or (H, W, 3) uint8 as they are."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def classes(scene: Scene, mask: np.ndarray) -> np.ndarray:
    """Returns the class of each pixel of a mask (H, W): 0 the room, k the k-th of all shapes."""
    numbers = [0, *(1 + list(SHAPES).index(thing.shape) for thing in scene.objects)]
    return np.array(numbers, np.uint8)[mask]


def annotations(scene: Scene, mask: np.ndarray) -> list[dict[str, Any]]:
    """Returns the box and the outline of each object in a mask (H, W), as COCO has them; its category is its shape."""
    found = []
    for number, thing in enumerate(scene.objects, 1):
        inside = mask == number
        if not inside.any():
            continue
        (top, bottom), (left, right) = (np.flatnonzero(inside.any(axis))[[0, -1]].tolist() for axis in (1, 0))
        found.append(
            {
                "category": thing.shape,
                "bbox": [left, top, right + 1 - left, bottom + 1 - top],
                "segmentation": {"size": [*inside.shape], "counts": run_lengths(inside)},
                "area": int(inside.sum()),
                "iscrowd": 0,
            }
        )
    return found


def run_lengths(inside: np.ndarray) -> list[int]:
    """Returns how long the runs of 0 and 1 are, in turn and column by column, as COCO writes masks."""
    flat = np.concatenate([[False], inside.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff([0, *edges, inside.size]).tolist()


def scans(scene: Scene, time: float) -> tuple[dict[str, tuple[points.Cloud, Camera]], float]:
    """Returns role -> cloud in its camera's frame and that camera, and the share of points that both cameras see."""
    for attempt in range(8):
        cameras = depth_cameras(scene, time, DEPTH_SIZE, spread=0.7**attempt)
        pictures = [render(scene.room, scene.solids, view, *scene.at(np.array([time]))) for view in cameras]
        local = [unproject(view, picture) for view, picture in zip(cameras, pictures, strict=True)]
        overlap = min(
            seen_share(local[i] @ cameras[i].rotation[0].T + cameras[i].position[0], cameras[1 - i], pictures[1 - i])
            for i in (0, 1)
        )
        if overlap > OVERLAP:
            break
    found = {}
    for role, view, picture, xyz in zip(("points_a", "points_b"), cameras, pictures, local, strict=True):
        noisy = (xyz + scene.rng.normal(0, DEPTH_NOISE, xyz.shape)).astype(np.float32)
        found[role] = points.Cloud(noisy, picture.color[0].reshape(-1, 3)), view
    return found, overlap


def unproject(camera: Camera, picture: Picture) -> Array:
    """Returns the points (N, 3) of a depth image in the camera's own frame."""
    return camera.grid().T * picture.depth[0].reshape(-1, 1)


def seen_share(world: Array, camera: Camera, picture: Picture) -> float:
    """Returns the share of points (N, 3) that a depth camera sees too, within NEAR of its depth."""
    pixels, depth = camera.project(world)
    column, row = np.floor(pixels[0]).astype(int).T
    inside = (depth[0] > 0) & (np.minimum(column, row) >= 0) & (np.maximum(column, row) < camera.size)
    found = picture.depth[0][row[inside], column[inside]]
    return float((np.abs(found - depth[0, inside]) < NEAR).sum() / len(world))
