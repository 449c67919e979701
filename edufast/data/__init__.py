"""What is learned from (data sets), in which order (sampling) and as which pixels (pipeline)."""

from edufast.data.augment import Augment, Views, draw_views, numbered_views
from edufast.data.datasets import absolute_source, load_dataset
from edufast.data.pipeline import Batch, Loader
from edufast.data.samples import DataSet, Samples
from edufast.data.sampling import ClassSampler, MixedSampler, Sampler, SliceSampler

__all__ = [
    "Augment",
    "Batch",
    "ClassSampler",
    "DataSet",
    "Loader",
    "MixedSampler",
    "Sampler",
    "Samples",
    "SliceSampler",
    "Views",
    "absolute_source",
    "draw_views",
    "load_dataset",
    "numbered_views",
]
