"""A LightningModule with several teachers and EduFast's loss. Needs lightning and scikit-learn.

With Fabric you write the loop yourself, as in your_own_loop.py, with ``fabric.backward(loss)``
instead of ``loss.backward()``.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edufast.ops import kd_loss

HALVES = [range(0, 5), range(5, 10)]


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        pixels, labels = batch
        self.log("accuracy", (self.model(pixels).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), 3e-3)


class Distilled(Classifier):
    def __init__(self, model: nn.Module, teachers: list[nn.Module], slices: list[range]) -> None:
        super().__init__(model)
        # Modules of this one, so that they go to its device; they neither learn nor drop out.
        self.slices, self.teachers = slices, nn.ModuleList(teachers).eval().requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.teachers.eval()
        return self

    def training_step(self, batch, index):
        pixels, labels = batch
        return kd_loss(
            self.model(pixels), [teacher(pixels) for teacher in self.teachers], labels,
            slices=self.slices, weighting="routed", temperature=2, alpha=0.5,
        )  # fmt: skip


def network(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def fit(module: Classifier, pixels, labels, epochs: int, **options) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(pixels, labels), batch_size=64, shuffle=True))
    return trainer


torch.manual_seed(0)
digits = load_digits()
pixels, labels = torch.tensor(digits.images / 8 - 1).float(), torch.tensor(digits.target)
train, val = slice(1200), slice(1200, None)
teachers = []
for half in HALVES:
    mine, teacher = labels[train] // 5 == half[0] // 5, network(128, 5)
    fit(Classifier(teacher), pixels[train][mine], labels[train][mine] - half[0], epochs=10)
    teachers.append(teacher)
module = Distilled(network(32, 10), teachers, HALVES)
trainer = fit(module, pixels[train], labels[train], epochs=10, accumulate_grad_batches=2)
loader = DataLoader(TensorDataset(pixels[val], labels[val]), batch_size=597)
(result,) = trainer.validate(module, loader, verbose=False)
print(f"student of two experts: accuracy {result['accuracy']:.1%}")
