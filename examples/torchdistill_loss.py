"""EduFast's loss in torchdistill's registry, for several teachers. Needs torchdistill and
scikit-learn.

torchdistill has one teacher model: here a module that runs all teachers and returns a list. A YAML
file names the loss as below: ``criterion: {key: EduFastLoss, kwargs: {...}}``.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import RandomSampler, TensorDataset
from torchdistill.core.distillation import get_distillation_box
from torchdistill.losses.registry import register_mid_level_loss

from edufast.ops import kd_loss

HALVES = [range(0, 5), range(5, 10)]


@register_mid_level_loss
class EduFastLoss(nn.Module):
    """All options of ``kd_loss``; the models return logits, and a list of them."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, student_io_dict, teacher_io_dict, targets=None, *args, **kwargs):
        teacher_logits = teacher_io_dict["."]["output"]
        return kd_loss(student_io_dict["."]["output"], teacher_logits, targets, **self.options)


class Experts(nn.ModuleList):
    def forward(self, pixels):
        return [expert(pixels) for expert in self]


def network(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def expert(pixels: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    model = network(128, 5)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


torch.manual_seed(0)
digits = load_digits()
pixels, labels = torch.tensor(digits.images / 8 - 1).float(), torch.tensor(digits.target)
train, val = slice(1200), slice(1200, None)
mine = [labels[train] // 5 == half[0] // 5 for half in HALVES]
experts = [expert(pixels[train][m], labels[train][m] % 5) for m in mine]
student = network(32, 10)
options = {"slices": HALVES, "weighting": "routed", "temperature": 2, "alpha": 0.5}
loss = {"criterion": {"key": "EduFastLoss", "kwargs": options}, "weight": 1}
loader = {"sampler": {"class_or_func": RandomSampler}, "kwargs": {"batch_size": 64}}
config = {
    "num_epochs": 15,
    "train_data_loader": {"dataset_id": "digits", **loader},
    "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
    "student": {"forward_proc": "forward_batch_only"},
    "optimizer": {"key": "AdamW", "kwargs": {"lr": 3e-3}},
    "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": loss}}},
}
data = {"digits": TensorDataset(pixels[train], labels[train])}
device = torch.device("cpu")
box = get_distillation_box(Experts(experts), student, data, config, device, None, False, 1)
for epoch in range(box.num_epochs):
    box.pre_epoch_process(epoch=epoch)
    for batch, targets, supp_dict in box.train_data_loader:
        box.post_forward_process(loss=box.forward_process(batch, targets, supp_dict))
    box.post_epoch_process()
accuracy = (student(pixels[val]).argmax(1) == labels[val]).float().mean()
print(f"student of two experts: accuracy {accuracy:.1%}")
