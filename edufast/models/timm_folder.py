"""A trained model of timm as a folder that timm loads without us: Hugging Face's layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from edufast.data.centre_crop import CentreCrop
from edufast.models.weights import ModelInfo, save_weights
from edufast.models.wrappers import unwrapped
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

_PREFIX = "timm/"


def save_timm_folder(folder: str | os.PathLike[str], model: nn.Module, info: ModelInfo) -> None:
    """Write ``model`` for ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

    The folder gets model.safetensors, a README.md that is a model card, and config.json, with the
    names of the classes and what ``timm.data.resolve_model_data_config`` needs to prepare pictures.
    It may be uploaded to a hub as it is. Files of these names are replaced.

    Args:
        folder: made if it is missing.
        model: a network of timm, such as the graduate of a run.
        info: what it is; ``info.model`` begins with ``timm/``.

    Raises:
        UserError: the model is none of timm's.
        OSError: a file cannot be written.
    """
    if not info.model.startswith(_PREFIX):
        raise UserError(f"model is {info.model!r}; expected one of timm, timm/<name>")
    folder = Path(folder)
    save_weights(folder / "model.safetensors", model)
    texts = {"README.md": _card(info, folder.absolute().name)}
    # Last, since timm takes a folder with a config.json for whole.
    texts["config.json"] = json.dumps(_config(model, info), indent=2) + "\n"
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, "utf-8")


def _config(model: nn.Module, info: ModelInfo) -> dict[str, Any]:
    size, count = info.image_size, len(info.classes)
    view = CentreCrop.to(size, size)
    # Names of the layers that timm replaces for other channels or classes.
    layers = getattr(unwrapped(model), "pretrained_cfg", {})
    return {
        "architecture": info.model.removeprefix(_PREFIX),
        "num_classes": count,
        "label_names": list(info.classes),
        "pretrained_cfg": {
            **{key: layers[key] for key in ("first_conv", "classifier") if key in layers},
            "num_classes": count,
            "input_size": [3, size, size],
            "crop_pct": view.crop[0] / view.cover[0],
            "interpolation": "bilinear",
            "mean": list(info.mean),
            "std": list(info.std),
        },
    }


def _card(info: ModelInfo, name: str) -> str:
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- knowledge-distillation
---
# {name}

`{info.model.removeprefix(_PREFIX)}` for {len(info.classes)} classes, trained with EduFast.

| | |
|---|---|
| data | {info.data_title} |
| image size | {info.image_size} × {info.image_size} pixels |
| accuracy on its validation split | {info.accuracy:.1%} |

```python
import timm

model = timm.create_model("local-dir:{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
classes = model.pretrained_cfg["label_names"]
```
"""
