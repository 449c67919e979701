"""Data sets, the order of their samples, and loaders.

Names are imported when they are first used: reading a picture needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edufast.data.augment import Augment as Augment
    from edufast.data.augment import Views as Views
    from edufast.data.augment import draw_views as draw_views
    from edufast.data.augment import numbered_views as numbered_views
    from edufast.data.batch import Batch as Batch
    from edufast.data.datasets import load_dataset as load_dataset
    from edufast.data.pipeline import Loader as Loader
    from edufast.data.samples import DataSet as DataSet
    from edufast.data.samples import Samples as Samples
    from edufast.data.samples import Splits as Splits
    from edufast.data.sampling import ClassSampler as ClassSampler
    from edufast.data.sampling import MixedSampler as MixedSampler
    from edufast.data.sampling import Sampler as Sampler
    from edufast.data.sampling import SliceSampler as SliceSampler
    from edufast.data.sources import DATA_SETS as DATA_SETS
    from edufast.data.sources import absolute_source as absolute_source
    from edufast.data.sources import register_data_set as register_data_set
    from edufast.data.sources import runs_code as runs_code

# Where each name lives; those above, for type checkers, are the same.
_HOMES = {
    "DATA_SETS": "sources",
    "Augment": "augment",
    "Batch": "batch",
    "ClassSampler": "sampling",
    "DataSet": "samples",
    "Loader": "pipeline",
    "MixedSampler": "sampling",
    "Sampler": "sampling",
    "Samples": "samples",
    "SliceSampler": "sampling",
    "Splits": "samples",
    "Views": "augment",
    "absolute_source": "sources",
    "draw_views": "augment",
    "load_dataset": "datasets",
    "numbered_views": "augment",
    "register_data_set": "sources",
    "runs_code": "sources",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edufast.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edufast.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
