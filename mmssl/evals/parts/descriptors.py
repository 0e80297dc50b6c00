"""Features of a cloud's points, those of an encoder and such that nothing has learnt, and registration from matches."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmssl.errors import UserError
from mmssl.modalities.points import Cloud
from mmssl.nn.packed import embed_tokens
from mmssl.transforms.local_shape import local_surface
from mmssl.transforms.pairs import Scan, angle
from mmssl.types import Encoder

Array = NDArray[np.floating]
ITERATIONS = 50_000


def open3d() -> ModuleType:
    """Imports open3d; UserError where it, or a system library that it needs, is missing."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise UserError(
            f"FPFH and RANSAC need open3d ({error}): pip install 'mmssl[points]' (on a bare Debian also apt-get "
            "install libgl1 libgomp1 libusb-1.0-0), or set fpfh and ransac to false"
        ) from None
    found: ModuleType = open3d
    return found


def encoded(encoder: Encoder, cloud: Cloud, *, space: str | None) -> Tensor:
    """Describes each point of a cloud by what an encoder of points makes of it (N, D), of unit length, on the CPU.

    space: the task whose embedding of points is used; without it the tokens themselves.
    """
    prepare: Any = encoder.preprocess
    x = prepare.collate([prepare.columns(cloud)]).to(encoder.device)
    with torch.inference_mode():
        return embed_tokens(encoder, x, space=space).cpu()


def coordinates(xyz: Array, *, rotation: str) -> Tensor:
    """Describes each point (N, 3) by where it lies about the cloud's mean, as far as the rotation leaves that alone.

    Distance (N, 1) for "any"; height and distance from the axis (N, 2) for "vertical"; x, y, z (N, 3) for "none".
    """
    if rotation == "none":
        return torch.from_numpy(xyz).float()
    if rotation == "any":
        return torch.from_numpy(np.linalg.norm(xyz, axis=1, keepdims=True)).float()
    return torch.from_numpy(np.stack([xyz[:, 2], np.linalg.norm(xyz[:, :2], axis=1)], axis=1)).float()


def surface(scan: Scan) -> Tensor:
    """Describes each point of a scan with normals by the surface around it (N, 36), see local_surface."""
    assert scan.cloud.normal is not None
    return torch.from_numpy(local_surface(scan.cloud.xyz, scan.cloud.normal))


def fpfh(cloud: Cloud, *, eye: Array, radius: float, normals: float) -> Tensor:
    """Describes each point by histograms of the angles between normals, which point to the eye (3,); (N, 33).

    Rusu et al., ICRA 2009. All points within the radius count. normals: metres within which the points lie that give a
    normal; 0 takes the cloud's own normals, UserError where it has none.
    """
    o3d = open3d()
    made = _cloud(o3d, cloud.xyz)
    search = o3d.geometry.KDTreeSearchParamRadius
    if normals:
        made.estimate_normals(search(normals))
        made.orient_normals_towards_camera_location(eye)
    elif cloud.normal is None:
        raise UserError(
            "fpfh_normals is 0, and a cloud has no normals; give metres, or prepare the scans with --normals"
        )
    else:
        made.normals = o3d.utility.Vector3dVector(cloud.normal.astype(np.float64))
    histograms = o3d.pipelines.registration.compute_fpfh_feature(made, search(radius)).data.T
    return torch.from_numpy(np.array(histograms, dtype=np.float32))


def ransac(a: Array, b: Array, pairs: Tensor, *, voxel: float) -> Array:
    """Returns the rigid transform (4, 4) from a (N, 3) to b (N', 3) that most of the pairs (M, 2) agree with."""
    o3d = open3d()
    o3d.utility.random.seed(0)
    found = o3d.pipelines.registration.registration_ransac_based_on_correspondence(
        _cloud(o3d, a),
        _cloud(o3d, b),
        o3d.utility.Vector2iVector(pairs.cpu().numpy().astype(np.int32)),
        1.5 * voxel,
        ransac_n=3,
        checkers=[o3d.pipelines.registration.CorrespondenceCheckerBasedOnEdgeLength(0.9)],
        criteria=o3d.pipelines.registration.RANSACConvergenceCriteria(ITERATIONS, 0.999),
    )
    transform: Array = np.asarray(found.transformation)
    return transform


def _cloud(o3d: ModuleType, xyz: Array) -> Any:
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz.astype(np.float64)))


def pose_errors(found: Array, true: Array) -> tuple[float, float]:
    """Returns by how many degrees and metres a rigid transform (4, 4) misses the true one."""
    return angle(found, true), float(np.linalg.norm(found[:3, 3] - true[:3, 3]))
