"""train.start: which encoder begins with what, from our folders, transformers' and authors' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from mmssl import create_encoder, save_encoder
from mmssl.errors import UserError
from mmssl.nn.head import Middle, Projection
from mmssl.starting import start
from mmssl.types import Encoder

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
BERT = {"model_type": "bert", "vocab_size": 7, "max_position_embeddings": 12, **TINY}


def vit(**options: Any) -> Encoder:
    return create_encoder("vit", **{**SMALL, **options})


def same(a: Encoder, b: Encoder) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Encoder]:
    encoders = {"image": vit(), "text": create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=300)}
    for key, encoder in encoders.items():
        save_encoder(encoder, tmp_path / "run" / "encoders" / key)
    return encoders


def test_a_run_starts_the_encoders_that_it_has(run: dict[str, Encoder], tmp_path: Path) -> None:
    fresh = {"image": vit(), "image_b": vit(), "text": create_encoder(run["text"].name, **run["text"].options)}
    assert start(fresh, str(tmp_path / "run")) == {"image", "text"}
    assert same(fresh["image"], run["image"]) and same(fresh["text"], run["text"])
    assert not same(fresh["image_b"], run["image"])
    assert start(fresh, {"image_b": str(tmp_path / "run" / "encoders" / "image")}) == {"image_b"}
    assert same(fresh["image_b"], run["image"])
    again = {"image": vit()}
    assert start(again, {"image": str(tmp_path / "run")}) == {"image"} and same(again["image"], run["image"])
    with pytest.raises(UserError, match=r"^train\.start: .*run has encoders image, text; the run has audio$"):
        start({"audio": vit()}, str(tmp_path / "run"))


def test_an_encoder_brings_the_weights_of_its_runs_heads(tmp_path: Path) -> None:
    trained = vit()
    trained.spaces |= {"simclr": Projection(16, out=3, hidden=[5]), "simclr_middle": Middle(16, out=5)}
    save_encoder(trained, tmp_path / "run" / "encoders" / "image")
    for place in (tmp_path / "run", tmp_path / "run" / "encoders" / "image"):
        fresh = vit()
        start({"image": fresh}, {"image": str(place)})
        assert not fresh.spaces and set(fresh.brought) == {"simclr", "simclr_middle"}
        for space, head in trained.spaces.items():
            assert fresh.brought[space].keys() == head.state_dict().keys()
            assert all(value.equal(fresh.brought[space][name]) for name, value in head.state_dict().items())
    assert vit().brought == {}


def test_an_encoders_folder_starts_the_one_of_its_modality(run: dict[str, Encoder], tmp_path: Path) -> None:
    folder = str(tmp_path / "run" / "encoders" / "image")
    fresh: dict[str, Encoder] = {"image": vit(), "text": create_encoder("transformer", width=16, depth=1, heads=2)}
    assert start(fresh, folder) == {"image"} and same(fresh["image"], run["image"])
    with pytest.raises(UserError, match=r"say which of them begins with it, as in train\.start\.image="):
        start({"image": vit(), "image_b": vit()}, folder)
    with pytest.raises(
        UserError, match=r"^train\.start\.image: .* do not fit the run's vit: of another shape: class_t"
    ):
        start({"image": vit(width=8)}, {"image": folder})
    assert start({"image": vit()}, {}) == set()


def test_a_file_starts_the_only_encoder_or_the_one_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, file = create_encoder("timm:test_vit"), str(tmp_path / "dino.pth")
    torch.save({"teacher": {f"backbone.{k}": v for k, v in trained.model.state_dict().items()}}, file)
    fresh = create_encoder("timm:test_vit", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert start({"image": fresh}, file) == {"image"} and same(fresh, trained)
    assert not capsys.readouterr().out
    other = create_encoder("timm:test_vit")
    with pytest.raises(UserError, match=r"encoders image \(of image\), image_b \(of image\); say which"):
        start({"image": vit(), "image_b": other}, file)
    start({"image": vit(), "image_b": other}, {"image_b": file})
    assert same(other, trained)
    told = capsys.readouterr()
    assert "timm:test_vit has (0.5, 0.5, 0.5) and (0.5, 0.5, 0.5): say `mean` and `std`" in told.out + told.err
    with pytest.raises(UserError, match=r"^train\.start\.image: .*dino\.pth does not fit vit: missing: "):
        start({"image": vit(positions="learned")}, {"image": file})
    for place in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=r"^train\.start.*there are no weights at .*; expected a run's or an enc"):
            start({"image": vit()}, {"image": str(place)})


def test_a_folder_of_transformers_starts_one_of_its_family(tmp_path: Path) -> None:
    from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

    values = {key: value for key, value in BERT.items() if key != "model_type"}
    own = AutoModel.from_config(BertConfig(**values)).eval()
    own.save_pretrained(tmp_path)
    words = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "a", "red", "ball", "blue", "cube"))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    fresh = create_encoder("transformers", architecture=BERT, context_length=5).eval()
    fresh.preprocess.field = "caption"
    assert start({"image": vit(), "text": fresh}, {"text": str(tmp_path)}) == {"text"}
    ids = torch.tensor([[3, 4, 6]])
    torch.testing.assert_close(fresh(ids).tokens, own(ids).last_hidden_state)
    preprocess = fresh.preprocess
    assert (preprocess.field, preprocess.context_length) == ("caption", 5) and not fresh.learns_preprocess
    assert preprocess.collate(["red"]).values.tolist() == [[3]]
    with pytest.raises(UserError, match=r"holds a 'bert' of transformers, for which vit has no place; name the enc"):
        start({"image": vit()}, str(tmp_path))
    deeper = create_encoder("transformers", architecture={**BERT, "num_hidden_layers": 2})
    with pytest.raises(UserError, match="does not fit the run's bert: missing: model.encoder.layer.1"):
        start({"text": deeper}, str(tmp_path))


def test_both_towers_of_one_folder(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {**TINY, "max_position_embeddings": 12, "vocab_size": 9, "eos_token_id": 8}
    config = CLIPConfig(text_config=tower, vision_config={**TINY, "image_size": 16, "patch_size": 8}, projection_dim=4)
    own = CLIPModel(config)
    own.save_pretrained(tmp_path)
    options = {"architecture": config.to_dict()}
    fresh = {key: create_encoder("transformers", modality=key, **options) for key in ("image", "text")}
    assert start(fresh, str(tmp_path)) == {"image", "text"}
    weight = fresh["text"].spaces["clip"].layers[0].weight  # type: ignore[union-attr, index]
    assert torch.equal(weight, own.text_projection.weight)
    embedding = fresh["image"].model.embeddings.patch_embedding.weight
    assert torch.equal(embedding, own.vision_model.embeddings.patch_embedding.weight)
