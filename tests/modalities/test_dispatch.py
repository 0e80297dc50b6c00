"""Fields are opened by their last extension, and damage is told apart from mistakes."""

import importlib
import io

import numpy as np
import pytest

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import EXTENSIONS, MODALITIES, decode, points, text


def test_the_extensions_are_those_of_the_files():
    assert set(MODALITIES) == {"audio", "image", "points", "text", "video"}
    listed = {e: m for m in MODALITIES for e in importlib.import_module(f"mmssl.modalities.{m}").EXTENSIONS}
    assert listed == EXTENSIONS


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_fields_with_a_role():
    data = npz(xyz=np.ones((4, 3), dtype=np.float32))
    assert isinstance(decode("npz", data), points.Cloud)
    assert isinstance(decode("points_b.npz", data), points.Cloud)
    assert decode("pose.npz", data)["xyz"].shape == (4, 3)
    assert decode("caption.TXT", b"hi") == "hi"
    assert decode("json", b'{"a": 1}') == {"a": 1}
    assert decode("cls", b"7\n") == 7


@pytest.mark.parametrize("field", ["json", "cls", "txt", "jpg", "npy", "pose.npy", "ply", "pcd", "npz"])
def test_rubbish_is_damage(field):
    with pytest.raises(DamagedError):
        decode(field, b"\xff\xfe rubbish")


def test_unknown_extension_is_a_mistake():
    with pytest.raises(UserError, match="did you mean 'jpeg'") as caught:
        decode("jpegg", b"")
    assert not isinstance(caught.value, DamagedError)


def test_text_forms(tmp_path):
    assert text.decode("\ufeffgrün\n".encode()) == "grün"
    assert text.load(["a cat", " ", "a tabby"]) == ["a cat", "a tabby"]
    (tmp_path / "a.txt").write_text("from a file\nin two lines")
    assert text.load(tmp_path / "a.txt") == "from a file\nin two lines"
    for empty in ("", " \n", [], [""]):
        with pytest.raises(DamagedError, match="empty text"):
            text.load(empty)
    with pytest.raises(UserError, match="int"):
        text.load(3)
