import torch
from torch import nn

from edufast.data import Batch
from edufast.data.class_map import ClassMap
from edufast.training.evaluation import evaluate


class Table(nn.Module):
    """Answers image i with row i of a table."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, images):
        return self.rows[images[:, 0, 0, 0].long()]


def batches(labels, size):
    images = torch.arange(len(labels)).float()[:, None, None, None].expand(-1, 3, 1, 1)
    labels = torch.tensor(labels)
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        yield Batch(images[part], labels[part], torch.arange(len(labels))[part])


def test_accuracy_over_all_by_slice_and_masked():
    # Classes 7, 3 | 5 in curriculum order: positions 0, 1 | 2.
    class_map = ClassMap.of([7, 3], [5])
    model = Table(
        [
            [5.0, 0.0, 0.0],  # right
            [0.0, 1.0, 9.0],  # wrong slice, right within its own
            [1.0, 0.0, 9.0],  # wrong slice, and wrong within its own
            [9.0, 0.0, 0.0],  # wrong slice; its own has one class
        ]
    ).train()
    for size in (1, 3, 4):
        accuracy = evaluate(model, batches([7, 3, 3, 5], size), class_map)
        assert accuracy.overall == 0.25
        assert accuracy.slices == (1 / 3, 0.0)
        assert accuracy.masked == (2 / 3, 1.0)
    assert model.training


def test_what_was_in_eval_mode_on_purpose_stays_in_it():
    model = nn.Sequential(Table([[1.0, 0.0]]).train(), nn.Dropout().eval())
    evaluate(model, batches([0], 1), ClassMap.of([0, 1]))
    assert [module.training for module in model.modules()] == [True, True, False]
