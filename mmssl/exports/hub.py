"""Encoders to and from the Hugging Face hub, over huggingface_hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from mmssl.checkpoint import save_encoder
from mmssl.errors import UserError
from mmssl.exports.card import card, public
from mmssl.exports.opened import open_one
from mmssl.loading import is_own, open_encoders
from mmssl.schema import read_yaml
from mmssl.types import Encoder

WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]  # of a repository: no pickles and no code


def push_to_hub(
    path: str | Path,
    repo_id: str,
    *,
    licence: str,
    private: bool = True,
    token: str | None = None,
    message: str = "Encoders by mmssl",
    trust_code: bool = False,
) -> str:
    """Uploads the encoders of a run, or an encoder's folder, with a model card; returns the address of what was made.

    The card tells the encoders, the data, the recipe and the figures of results.json. Paths are cut to their last
    part; checkpoints, logs and objectives stay here.

    path: a run's folder or an encoder's, that mmssl wrote.
    repo_id: USER/NAME on the hub, which is made where there is none.
    licence: of the weights, as the hub spells it: apache-2.0, mit, cc-by-nc-4.0, ...
    private: whether only its owner sees a repository that is made.
    token: of the hub, by default the one of `hf auth login`.
    message: of the commit.
    trust_code: allow the folder to name code outside mmssl.
    Raises UserError for a folder of another kind, and for what the hub refuses.
    """
    from huggingface_hub import HfApi

    if not licence.strip():
        raise UserError("say under which licence the weights are, as in licence='apache-2.0'")
    with tempfile.TemporaryDirectory() as temporary:
        stage(Path(path), Path(temporary), repo_id=repo_id, licence=licence, trust_code=trust_code)
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo_id, folder_path=temporary, commit_message=message)
        except (OSError, ValueError) as error:  # what huggingface_hub raises is one of both
            raise UserError(f"the hub does not take {repo_id}: {_line(error)}") from error
    return str(getattr(done, "commit_url", done))


def stage(path: Path, out: Path, *, repo_id: str, licence: str, trust_code: bool) -> None:
    """Writes into a folder what is uploaded."""
    if not is_own(path):
        raise UserError(
            f"{path} is neither a run nor an encoder that mmssl wrote; expected encoders/ or config.json in it"
        )
    encoders = open_encoders(str(path), {}, trust_code=trust_code)
    several = (path / "encoders").is_dir()
    for key, encoder in encoders.items():
        save_encoder(encoder, out / "encoders" / key if several else out)
    recipe: dict[str, Any] | None = None
    if (path / "recipe.yaml").is_file():
        recipe = public(read_yaml(path / "recipe.yaml"))
        (out / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (out / "README.md").write_text(card(path, encoders, repo_id=repo_id, licence=licence, recipe=recipe))


def from_pretrained(
    name: str | Path,
    *,
    encoder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    device: str = "cpu",
    trust_code: bool = False,
) -> Encoder:
    """Loads an encoder from the hub, or from a folder, ready to `encode`.

    name: USER/NAME on the hub, or a folder of a run, of an encoder, or of transformers.
    encoder: which of a run's encoders; one with a single encoder needs none.
    revision: a branch, tag or commit of the repository.
    token: of the hub, by default the one of `hf auth login`.
    trust_code: allow its files to name code outside mmssl.
    Raises UserError for what the hub does not give, and as `load_encoder` does.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            found = snapshot_download(str(name), revision=revision, token=token, allow_patterns=WANTED)
        except (OSError, ValueError) as error:
            raise UserError(f"{name} is no folder, and the hub does not give it: {_line(error)}") from error
        folder = Path(found)
    return open_one(folder, encoder=encoder, trust_code=trust_code).to(device)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
