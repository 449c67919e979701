"""What a run might have logged, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def trial(method: str, seed: int, accuracies: list[list[float]]) -> list[Event]:
    """Events of one trial: accuracies of the epochs of each grade."""
    events: list[Event] = []
    samples = 0
    total = len(accuracies)
    for grade, epochs in enumerate(accuracies, start=1):
        about = {"method": method, "seed": seed, "grade": grade}
        for epoch, accuracy in enumerate(epochs):
            samples += 1000 * grade
            step = {"step": 0, "loss": 1.0, "lr": 0.1, "images_per_second": 900.0}
            events.append({"event": "step", **about, "epoch": epoch, **step})
            events.append(
                {
                    "event": "epoch",
                    **about,
                    "epoch": epoch,
                    "samples": samples,
                    "accuracy": accuracy,
                    "loss": 1.0,
                    "images_per_second": 1000.0 / grade,
                    "student_flops": 1e9 * samples,
                    "teacher_flops": 0.0,
                }
            )
        of_slice = [max(0.0, epochs[-1] - 0.1 * (grade - s)) for s in range(1, grade + 1)]
        blank: list[float | None] = [None] * (total - grade)
        events.append(
            {
                "event": "grade",
                **about,
                "epoch": len(epochs) - 1,
                "classes": 2 * grade,
                "fragments": grade,
                "accuracy": epochs[-1],
                "slice_accuracy": of_slice + blank,
                "slice_accuracy_masked": [min(1.0, a + 0.05) for a in of_slice] + blank,
            }
        )
    return events


def result(method: str, seed: int, accuracy: float, flops: float) -> Event:
    return {
        "event": "result",
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "best_accuracy": accuracy + 0.01,
        "best_epoch": 5,
        "slice_accuracy": [accuracy - 0.1, accuracy, accuracy + 0.01],
        "slice_accuracy_masked": [accuracy, accuracy, accuracy + 0.02],
        "samples": 12000,
        "student_flops": flops,
        "teacher_flops": 2e9,
        "teacher_training_flops": 3e12,
        "teacher_training_seconds": 40.0,
        "seconds": 75.0,
        "training_seconds": 60.0,
        "data_wait": 0.05,
    }


RUN: Event = {
    "event": "run",
    "name": "tiny <script>alert(1)</script>",
    "dataset": "digits & more",
    "classes": ['"zero"', "<b>one</b>", "two", "three", "four", "five"],
    "num_classes": 6,
    "device": "cpu",
    "torch": "2.14.1",
    "student": "resnet8",
    "split": "holdout",
    "equal": "flops",
    "slices": [[0, 1], [2, 3], [4, 5]],
    "grades": [
        {
            "grade": g,
            "fragments": g,
            "classes": 2 * g,
            "image_size": 8 * g,
            "epochs": 2,
            "target": "routed",
        }
        for g in (1, 2, 3)
    ],
}
TEACHER: Event = {
    "event": "teacher",
    "teacher": 0,
    "model": "resnet14",
    "classes": [0, 1],
    "accuracy": 0.97,
    "seconds": 12.3,
    "flops": 1.2e12,
    "samples": 8000,
}
EXPORT: Event = {
    "event": "export",
    "path": "student.onnx",
    "opset": 18,
    "bytes": 325_000,
    "noise": False,
    "accuracy": 0.954,
    "samples": 256,
    "agreement": 1.0,
    "accuracy_torch": 0.968,
    "max_abs_difference": 1e-5,
    "latency_ms": 0.12,
}
LEARNING = [[0.5, 0.9], [0.7, 0.8], [0.75, 0.95]]


def complete() -> list[Event]:
    """Two methods, two seeds."""
    events = [RUN, TEACHER]
    for method, flops in (("education", 6e12), ("scratch", 1.2e13)):
        for seed in (0, 1):
            shifted = [[a - 0.02 * seed for a in epochs] for epochs in LEARNING]
            at_once = [[accuracy for epochs in shifted for accuracy in epochs]]
            accuracies = shifted if method == "education" else at_once
            events += trial(method, seed, accuracies)
            events.append(result(method, seed, accuracies[-1][-1], flops))
        events += [
            {"event": "phase", "method": method, "seed": seed, "phase": phase, "seconds": seconds}
            for phase, seconds in (("data", 5.0), ("student", 60.0), ("other <i>", 1.0))
            for seed in (0, 1)
        ]
    return [*events, EXPORT]


def write(folder: Path, events: Iterable[Event]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(lines)
    return folder
