"""A trained model as a folder in Hugging Face's layout, which timm or transformers loads without
us."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from edufast.data.centre_crop import CentreCrop
from edufast.models.weights import ModelInfo, save_weights
from edufast.models.wrappers import unwrapped
from edufast.models.zoo import Logits, import_library
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.files import atomic_files, naming

with needed_for("files of weights", "cli"):
    from safetensors import SafetensorError

_BILINEAR = 2  # PIL's number


def save_hub_folder(folder: str | os.PathLike[str], model: nn.Module, info: ModelInfo) -> None:
    """Write ``model`` as a folder that the library that it comes from loads without EduFast.

    The folder gets model.safetensors, config.json with the names of the classes, a README.md that
    is a model card with the code that loads it, and what says how pictures are prepared: of timm in
    config.json, of transformers in preprocessor_config.json. It may be uploaded to a hub as it is.
    Files of these names are replaced.

    Args:
        folder: made if it is missing.
        model: a network of timm or of transformers, such as the graduate of a run.
        info: what it is; ``info.model`` begins with ``timm/`` or ``hf/``.

    Raises:
        UserError: the model is of neither library.
        OSError: a file cannot be written.
    """
    library, _, name = info.model.partition("/")
    if library not in ("timm", "hf"):
        raise UserError(
            f"model is {info.model!r}; expected timm/<name> or hf/<name>, whose libraries load "
            "such a folder"
        )
    title = Path(folder).absolute().name
    # A folder that has config.json is taken for whole.
    with atomic_files(folder, last="config.json") as temporary:
        if library == "timm":
            save_weights(temporary / "model.safetensors", model)
            config = _timm_config(name, model, info)
            card = _card(title, name, info, "timm", _TIMM)
        else:
            config = _save_transformers(temporary, model, info)
            _write_json(temporary / "preprocessor_config.json", _processor(info))
            card = _card(title, name, info, "transformers", _TRANSFORMERS)
        (temporary / "README.md").write_text(card, "utf-8")
        _write_json(temporary / "config.json", config)


def _timm_config(name: str, model: nn.Module, info: ModelInfo) -> dict[str, Any]:
    size, count = info.image_size, len(info.classes)
    view = CentreCrop.to(size, size)
    # Names of the layers that timm replaces for other channels or classes.
    layers = getattr(unwrapped(model), "pretrained_cfg", {})
    return {
        "architecture": name,
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


def _save_transformers(folder: Path, model: nn.Module, info: ModelInfo) -> dict[str, Any]:
    """Write the weights, under the names that they have in files of transformers; returns what
    config.json has to say."""
    bars = import_library("transformers.utils.logging")
    network: Any = unwrapped(model)
    if isinstance(network, Logits):
        network = network.model
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    with tempfile.TemporaryDirectory() as written:
        try:
            with naming(written):
                network.save_pretrained(written)
        except SafetensorError as error:  # of the disk, which are none of Python's
            raise OSError(errno.EIO, str(error), written) from error
        finally:
            if shown:
                bars.enable_progress_bar()
        shutil.copyfile(Path(written, "model.safetensors"), folder / "model.safetensors")
        config: dict[str, Any] = json.loads(Path(written, "config.json").read_text("utf-8"))
    config["id2label"] = {str(index): name for index, name in enumerate(info.classes)}
    config["label2id"] = {name: index for index, name in enumerate(info.classes)}
    return config


def _processor(info: ModelInfo) -> dict[str, Any]:
    """Of the class of transformers that scales the shorter edge, and crops."""
    view = CentreCrop.to(info.image_size, info.image_size)
    height, width = view.crop
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": view.cover[0]},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(info.mean),
        "image_std": list(info.std),
    }


_TIMM = """\
import timm

model = timm.create_model({local_dir}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
classes = model.pretrained_cfg["label_names"]
"""

_TRANSFORMERS = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained({here}).eval()
processor = AutoImageProcessor.from_pretrained({here})
classes = list(model.config.id2label.values())
"""


def _card(title: str, name: str, info: ModelInfo, library: str, code: str) -> str:
    # An average of models has yet to be measured.
    accuracy = "not measured" if math.isnan(info.accuracy) else f"{info.accuracy:.1%}"
    data = info.data_title.replace("|", r"\|")
    places = {"local_dir": f"local-dir:{title}", "here": f"./{title}"}
    quoted = {key: json.dumps(place, ensure_ascii=False) for key, place in places.items()}
    return f"""---
library_name: {library}
pipeline_tag: image-classification
tags:
- image-classification
- {library}
- knowledge-distillation
---
# {title}

`{name}` for {len(info.classes)} classes, trained with EduFast.

| | |
|---|---|
| data | {data} |
| image size | {info.image_size} × {info.image_size} pixels |
| accuracy on its validation split | {accuracy} |

```python
{code.format(**quoted)}```
"""


def _write_json(path: Path, said: dict[str, Any]) -> None:
    path.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
