"""timm's training with several teachers: a task for its loops, with EduFast's loss.

timm's own distillation task has one teacher that knows all classes; this one has experts, each for
some of them. timm averages, wraps and saves it like its own tasks. Needs timm and scikit-learn.
"""

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, TrainingTask
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from edufast.ops import kd_loss

torch.manual_seed(0)
HALVES = [range(0, 5), range(5, 10)]


class ExpertsTask(TrainingTask):
    def __init__(self, student, experts, slices=None, **options):
        super().__init__(**options)
        self.trainable_module, self.slices = student, slices
        self.experts = nn.ModuleList(experts).eval().requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.experts.eval()
        return self

    def prepare_distributed(self, device_ids=None, **options):
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **options
        )
        return self

    def forward(self, input, target):
        logits = self.trainable_module(input)
        with torch.no_grad():
            teacher_logits = [expert(input) for expert in self.experts]
        loss = kd_loss(
            logits, teacher_logits, target, slices=self.slices, weighting="routed",
            temperature=2, alpha=0.5,
        )  # fmt: skip
        return {"loss": loss, "output": logits}


def fit(task, images, labels, epochs):
    """The loop of timm's script, in short."""
    loader = DataLoader(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(task.trainable_module, opt="adamw", lr=3e-3)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    for epoch in range(epochs):
        task.train()
        for input, target in loader:
            task(input, target)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step(epoch + 1)
    return task.get_eval_model().eval()


digits = load_digits()
small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
images = nn.functional.interpolate(small, scale_factor=4).expand(-1, 3, -1, -1)
labels = torch.tensor(digits.target)
experts = []
for half in HALVES:
    model = timm.create_model("test_resnet", num_classes=5)
    mine = labels[:1200] // 5 == half[0] // 5
    own = ClassificationTask(model, nn.CrossEntropyLoss())
    experts.append(fit(own, images[:1200][mine], labels[:1200][mine] - half[0], epochs=8))
student = timm.create_model("test_resnet", num_classes=10)
fit(ExpertsTask(student, experts, HALVES), images[:1200], labels[:1200], epochs=8)
accuracy = (student(images[1200:]).argmax(1) == labels[1200:]).float().mean()
print(f"student of two experts: accuracy {accuracy:.1%}")
