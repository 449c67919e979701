"""timm alone, without this package, loads what was saved for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edufast.data.centre_crop import CentreCrop
from edufast.models.timm_folder import save_timm_folder
from edufast.models.weights import ModelInfo
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError

timm = pytest.importorskip("timm")

# Around the code of the model card.
BEFORE = "import sys\nsys.modules['edufast'] = None\n"
AFTER = """
import torch
from PIL import Image
print(classes)
pixels = transform(Image.open("x.png"))
torch.save((pixels, model(pixels[None])), "answer.pt")
"""


def info(size: int, model: str = "timm/test_resnet") -> ModelInfo:
    return ModelInfo(
        model=model,
        classes=("apple", "Birne", "ку́ст"),
        class_ids=(0, 1, 2),
        data="folder",
        image_size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.21, 0.22),
        accuracy=0.876,
        training_flops=1,
    )


@pytest.mark.parametrize("size", [32, 160])
def test_timm_alone_gives_the_logits_and_prepares_pictures_as_validation_does(
    size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = create_model("timm/test_resnet", 3).eval()
    save_timm_folder(tmp_path / "fruit", model, info(size))
    view = CentreCrop.to(size, size)
    noise = np.random.default_rng(0).integers(0, 256, (*view.cover, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    card = (tmp_path / "fruit" / "README.md").read_text("utf-8")
    code = BEFORE + re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0] + AFTER
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "['apple', 'Birne', 'ку́ст']\n", done.stderr
    pixels, logits = torch.load(tmp_path / "answer.pt")
    assert pixels.shape == (3, size, size)
    assert torch.equal(logits, model(pixels[None]))
    shown = torch.tensor(view(Image.fromarray(noise)) / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(x)[:, None, None] for x in (info(size).mean, info(size).std))
    assert (pixels - (shown - mean) / std).abs().max() < 1e-5


def test_the_folder_has_a_model_card_that_says_how_well_it_does(tmp_path: Path) -> None:
    save_timm_folder(tmp_path / "fruit", create_model("timm/test_resnet", 3), info(32))
    assert {path.name for path in (tmp_path / "fruit").iterdir()} == {
        "README.md", "config.json", "model.safetensors",
    }  # fmt: skip
    card = (tmp_path / "fruit" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "87.6%" in card and "test_resnet" in card and '"local-dir:fruit"' in card


def test_a_model_of_another_library_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model is 'resnet8'; expected one of timm, timm/<name>"):
        save_timm_folder(tmp_path / "x", create_model("resnet8", 3), info(32, "resnet8"))
    assert list(tmp_path.iterdir()) == []
