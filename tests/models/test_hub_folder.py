"""timm and transformers alone, without this package, load what was saved for them."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edufast.data.centre_crop import CentreCrop
from edufast.models.hub_folder import save_hub_folder
from edufast.models.weights import ModelInfo
from edufast.models.zoo import Logits, create_model
from edufast.utils.errors import UserError

CLASSES = ("apple", "Birne", "ку́ст")

# Runs the code of model cards as somebody would who does not have this package.
ALONE = """
import sys
sys.modules["edufast"] = None
import torch
from PIL import Image
picture = Image.open("x.png")
for folder in sys.argv[1:]:
    names = {}
    card = open(folder + "/README.md", encoding="utf-8").read()
    exec(card.split("```python")[1].split("```")[0], names)
    if "transform" in names:
        pixels = names["transform"](picture)
        logits = names["model"](pixels[None])
    else:
        pixels = names["processor"](picture, return_tensors="pt")["pixel_values"][0]
        logits = names["model"](pixels[None]).logits
    torch.save((names["classes"], pixels, logits.detach()), folder + ".pt")
"""


def info(size: int, model: str = "timm/test_resnet") -> ModelInfo:
    return ModelInfo(
        model=model,
        classes=CLASSES,
        class_ids=(0, 1, 2),
        data="folder",
        image_size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.21, 0.22),
        accuracy=0.876,
        training_flops=1,
    )


def vit(size: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        image_size=size, patch_size=20, num_labels=3,
    )  # fmt: skip
    return Logits(transformers.ViTForImageClassification(config)).eval()


def shown(picture: Image.Image, about: ModelInfo) -> Tensor:
    """What validation would have shown of the picture."""
    view = CentreCrop.to(about.image_size, about.image_size)(picture)
    pixels = torch.tensor(view / 255, dtype=torch.float32).permute(2, 0, 1)
    mean, std = (torch.tensor(x)[:, None, None] for x in (about.mean, about.std))
    return (pixels - mean) / std


def test_the_libraries_alone_give_the_logits_and_prepare_pictures_as_validation_does(
    tmp_path: Path,
) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    saved = {
        "timm-140": (create_model("timm/test_resnet", 3).eval(), info(140)),
        "timm-40": (create_model("timm/test_resnet", 3).eval(), info(40)),
        "hf-140": (vit(140), info(140, "hf/vit")),
        "hf-40": (vit(40), info(40, "hf/vit")),
    }
    for folder, (model, about) in saved.items():
        save_hub_folder(tmp_path / folder, model, about)
    # Scaled by whole numbers: else the libraries round where the crop begins, by up to a pixel.
    noise = np.random.default_rng(0).integers(0, 256, (320, 400, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "x.png")
    command = [sys.executable, "-c", ALONE, *saved]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, (model, about) in saved.items():
        classes, pixels, logits = torch.load(tmp_path / f"{folder}.pt")
        assert classes == list(CLASSES), folder
        assert torch.equal(logits, model(pixels[None])), folder
        difference = (pixels - shown(picture, about)).abs().max() * 255 * min(about.std)
        assert difference < 1.01, folder


def test_weights_are_named_as_earlier_versions_of_transformers_name_them(tmp_path: Path) -> None:
    save_hub_folder(tmp_path / "fruit", vit(140), info(140, "hf/vit"))
    names = load_file(tmp_path / "fruit" / "model.safetensors")
    assert "vit.encoder.layer.0.output.dense.weight" in names


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_folder_has_a_model_card_that_says_how_well_it_does(
    library: str, tmp_path: Path
) -> None:
    pytest.importorskip(library)
    if library == "timm":
        model, about = create_model("timm/test_resnet", 3), info(32)
    else:
        model, about = vit(140), info(140, "hf/vit")
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "mine.txt").touch()
    save_hub_folder(tmp_path / "fruit", model, about)
    assert {path.name for path in (tmp_path / "fruit").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "mine.txt",
        *(["preprocessor_config.json"] if library == "transformers" else []),
    }  # fmt: skip
    card = (tmp_path / "fruit" / "README.md").read_text("utf-8")
    assert card.startswith(f"---\nlibrary_name: {library}\n")
    assert "87.6%" in card and f"`{about.model.partition('/')[2]}`" in card and "fruit" in card


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_card_is_right_for_an_average_and_for_any_name(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    about = replace(info(140, "hf/vit"), accuracy=float("nan"), data="arrays:/x/a | b")
    model = vit(140)
    if library == "timm":
        model, about = create_model("timm/test_resnet", 3), replace(about, model="timm/test_resnet")
    folder = tmp_path / 'a "b" {c}'
    save_hub_folder(folder, model, about)
    card = (folder / "README.md").read_text("utf-8")
    assert "split | not measured |" in card and r"| arrays:a \| b |" in card
    code = card.split("```python")[1].split("```")[0]
    assert ast.parse(code) and 'a \\"b\\" {c}"' in code


def test_a_full_disk_of_temporary_files_is_named(tmp_path: Path, monkeypatch) -> None:
    model = vit(140)

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model.model, "save_pretrained", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_hub_folder(tmp_path / "fruit", model, info(140, "hf/vit"))
    assert caught.value.filename.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = vit(140)
    capfd.readouterr()  # what the library says when it is imported
    save_hub_folder(tmp_path / "fruit", model, info(140, "hf/vit"))
    assert capfd.readouterr() == ("", "")


def test_a_model_of_another_library_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model is 'resnet8'; expected timm/<name> or hf/"):
        save_hub_folder(tmp_path / "x", create_model("resnet8", 3), info(32, "resnet8"))
    assert list(tmp_path.iterdir()) == []


def test_weights_never_stay_beside_the_names_of_another_students_classes(tmp_path: Path) -> None:
    """As where the disk is full, or a file cannot be replaced, after the weights were written."""
    pytest.importorskip("timm")
    folder = tmp_path / "fruit"
    save_hub_folder(folder, create_model("timm/test_resnet", 3), info(32))
    before = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(UserError, match=r"README\.md is a folder; expected a file to write"):
        animals = replace(info(32), classes=("cat", "dog", "emu"))
        save_hub_folder(folder, create_model("timm/test_resnet", 3), animals)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(list(folder.iterdir())) == 3
