"""Hugging Face's Trainer with several teachers and gradient accumulation, with EduFast's loss.

Trainer expects a loss summed over the batch and divided by ``num_items_in_batch``: the number of
labels in all batches of a step, on all devices. A mean over the batch would be too large by
the number of batches. Needs transformers, accelerate and scikit-learn; the pixels could also come
from `datasets`.
"""

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from edufast.ops import kd_loss

HALVES = [range(0, 5), range(5, 10)]


class DistillationTrainer(Trainer):
    """Each teacher returns logits of the classes of its slice; without slices, of all."""

    def __init__(self, *, teachers, slices=None, **options):
        super().__init__(compute_loss_func=self.loss, **options)
        self.teachers = [teacher.to(self.args.device).eval() for teacher in teachers]
        self.slices = slices

    def compute_loss(self, model, inputs, *arguments, **options):
        with torch.no_grad():
            self.teacher_logits = [
                teacher(inputs["pixel_values"]).logits for teacher in self.teachers
            ]
        return super().compute_loss(model, inputs, *arguments, **options)

    def loss(self, outputs, labels, num_items_in_batch=None):
        total = kd_loss(
            outputs.logits, self.teacher_logits, labels, slices=self.slices, weighting="routed",
            temperature=2, alpha=0.5, reduction="sum",
        )  # fmt: skip
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def digits(part: slice, classes: range) -> list[dict]:
    """Samples of some classes, which are counted from 0."""
    data = load_digits()
    pixels = torch.tensor(data.images[part] / 8 - 1, dtype=torch.float32)[:, None]
    samples = zip(pixels, data.target[part], strict=True)
    return [{"pixel_values": x, "labels": y - classes[0]} for x, y in samples if y in classes]


def network(classes: range) -> ViTForImageClassification:
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"intermediate_size": 128, "image_size": 8, "patch_size": 2, "num_channels": 1}
    return ViTForImageClassification(ViTConfig(**size, num_labels=len(classes)))


def main() -> None:
    torch.manual_seed(0)
    arguments = TrainingArguments(
        output_dir="hugging_face_trainer", num_train_epochs=12, learning_rate=3e-3,
        per_device_train_batch_size=16, gradient_accumulation_steps=2, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    teachers = [network(half) for half in HALVES]
    for half, teacher in zip(HALVES, teachers, strict=True):
        Trainer(teacher, arguments, train_dataset=digits(slice(1200), half)).train()
    trainer = DistillationTrainer(
        model=network(range(10)), args=arguments, teachers=teachers, slices=HALVES,
        train_dataset=digits(slice(1200), range(10)),
    )  # fmt: skip
    trainer.train()
    predicted = trainer.predict(digits(slice(1200, None), range(10)))
    accuracy = (predicted.predictions.argmax(1) == predicted.label_ids).mean()
    print(f"student of two experts: accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
