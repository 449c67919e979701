"""Data sets, the order of their samples, and loaders."""

from edufast.data.augment import Augment, Views, draw_views, numbered_views
from edufast.data.datasets import load_dataset
from edufast.data.pipeline import Batch, Loader
from edufast.data.samples import DataSet, Samples, Splits
from edufast.data.sampling import ClassSampler, MixedSampler, Sampler, SliceSampler
from edufast.data.sources import DATA_SETS, absolute_source, register_data_set, runs_code

__all__ = [
    "DATA_SETS",
    "Augment",
    "Batch",
    "ClassSampler",
    "DataSet",
    "Loader",
    "MixedSampler",
    "Sampler",
    "Samples",
    "SliceSampler",
    "Splits",
    "Views",
    "absolute_source",
    "draw_views",
    "load_dataset",
    "numbered_views",
    "register_data_set",
    "runs_code",
]
