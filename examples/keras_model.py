"""A Keras 3 model with several teachers and EduFast's loss, on Keras's torch backend. Needs keras
and scikit-learn.

On other backends logits are not torch tensors, and the loss cannot be used.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

import keras
import torch
from sklearn.datasets import load_digits

from edufast.ops import kd_loss

HALVES = [range(0, 5), range(5, 10)]


class Distilled(keras.Model):
    """Trains ``student``, which is used without it afterwards."""

    def __init__(self, student, teachers, slices):
        super().__init__()
        self.student, self.teachers, self.slices = student, teachers, slices
        for teacher in teachers:
            teacher.trainable = False

    def call(self, x, training=False):
        return self.student(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with torch.no_grad():
            teacher_logits = [teacher(x, training=False) for teacher in self.teachers]
        return kd_loss(
            y_pred, teacher_logits, y, slices=self.slices, weighting="routed",
            temperature=2, alpha=0.5,
        )  # fmt: skip


def network(width: int, classes: int) -> keras.Model:
    layers = [keras.layers.Dense(width, activation="relu"), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), *layers])


keras.utils.set_random_seed(0)
digits = load_digits()
pixels, labels = (digits.images / 8 - 1).astype("float32"), digits.target
train, val = slice(1200), slice(1200, None)
teachers = []
for half in HALVES:
    mine, teacher = labels[train] // 5 == half[0] // 5, network(128, 5)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.AdamW(3e-3), loss=cross_entropy)
    teacher.fit(
        pixels[train][mine], labels[train][mine] - half[0], batch_size=64, epochs=10, verbose=0
    )
    teachers.append(teacher)
student = network(32, 10)
model = Distilled(student, teachers, HALVES)
model.compile(keras.optimizers.AdamW(3e-3))
model.fit(pixels[train], labels[train], batch_size=64, epochs=10, verbose=0)
accuracy = (student.predict(pixels[val], verbose=0).argmax(1) == labels[val]).mean()
print(f"student of two experts: accuracy {accuracy:.1%}")
