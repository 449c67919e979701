"""The student of a method: trained, measured, and the first of education distillation kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from edufast.edge.trained import export_trained, write_script
from edufast.experiments.events import ExportEvent, PhaseEvent, ResultEvent
from edufast.experiments.method import Method
from edufast.experiments.run_setup import Setup
from edufast.models.weights import ModelInfo, read_info, save_model
from edufast.student.saved_exits import save_exits
from edufast.teachers.faculty import Faculty
from edufast.training.evaluation import evaluate_on
from edufast.training.school import School
from edufast.utils.ranks import from_first


def train_student(
    setup: Setup,
    method: Method,
    seed: int,
    faculty: Faculty,
    after_epoch: Callable[[School], str] = lambda school: "",
) -> ResultEvent:
    """Train one student and log its result; of education, the first one is saved and exported.

    Args:
        after_epoch: called after every validation; what it returns is added to the epoch's line.

    Raises:
        Interrupted: after Ctrl-C; call again to go on.
        TrainingError, ExportError: a step failed; the message says why.
    """
    school = method.create_school(
        seed,
        faculty,
        device=setup.config.device,
        event_log=setup.event_log,
        checkpoint=setup.folder.checkpoint(f"{method.name}-{seed}"),
        say=lambda line: setup.console.print(f"{method.name}: {line}"),
    )
    graduate = school.fit(lambda: after_epoch(school))
    return from_first(_finish, setup, method, seed, school, graduate)


def _finish(
    setup: Setup, method: Method, seed: int, school: School, graduate: nn.Module
) -> ResultEvent:
    if (method.name, seed) == ("education", setup.config.seeds[0]):
        _keep(setup, school, graduate)
    for phase, seconds in school.progress.phases.items():
        setup.event_log.write(
            PhaseEvent(method=method.name, seed=seed, phase=phase, seconds=seconds)
        )
    result = _result(setup, method, seed, school)
    setup.event_log.write(result)
    setup.console.print(
        f"{method.name}, seed {seed}: accuracy {result.accuracy:.1%} after the last epoch "
        f"(highest: {result.best_accuracy:.1%} after epoch {result.best_epoch}), "
        f"{result.samples:,} samples, "
        f"{result.student_flops / 1e12:.2f} TFLOP, {result.seconds:.0f} s"
    )
    return result


def _keep(setup: Setup, school: School, graduate: nn.Module) -> None:
    """Save the graduate and its exits; export the smaller students that end there."""
    at = school.progress
    info = ModelInfo.describe(
        setup.recipe.student.model,
        school.data,
        range(len(setup.data.classes)),
        at.accuracy,
        at.student_flops,
        at.seconds,
    )
    save_model(setup.folder.student, graduate, info)
    student = school.evaluated
    if student.exits:
        save_exits(setup.folder.exits, student, graduate)
    if setup.config.export:
        for depth in student.depths[:-1]:
            smaller = student.graduate(depth)
            tell_export(setup, export_student(setup, smaller, info, exit=depth))


def _result(setup: Setup, method: Method, seed: int, school: School) -> ResultEvent:
    at, student = school.progress, school.evaluated
    # By the slices of education, also where the method has a single grade.
    accuracy = evaluate_on(student, school.data, setup.methods["education"].curriculum.class_map)
    taught_by = [read_info(setup.teacher_file(k)) for k in method.teachers]
    return ResultEvent(
        method=method.name,
        seed=seed,
        accuracy=at.accuracy,
        best_accuracy=at.best_accuracy,
        best_epoch=at.best_epoch,
        slice_accuracy=list(accuracy.slices),
        slice_accuracy_masked=list(accuracy.masked),
        samples=at.samples,
        student_flops=at.student_flops,
        teacher_flops=at.teacher_flops,
        teacher_training_flops=sum(info.training_flops for info in taught_by),
        teacher_training_seconds=sum(info.training_seconds for info in taught_by),
        seconds=at.seconds,
        # What equal time is about: measuring and compiling are no training.
        training_seconds=at.seconds
        - sum(at.phases.get(phase, 0.0) for phase in ("validation", "compile")),
        data_wait=at.data_wait,
    )


def export_student(
    setup: Setup, model: nn.Module, info: ModelInfo, exit: int | None = None
) -> ExportEvent:
    """Write ``model`` to a file of the run's folder, verify and measure it; beside it, a script
    that predicts pictures with it.

    Args:
        exit: number of the student's fragments in ``model``, if it ends at an exit.

    Returns:
        What is written to the event log.

    Raises:
        ExportError: the file does not do what the model does.
    """
    name = "student.onnx" if exit is None else f"student-exit{exit}.onnx"
    (report,) = export_trained(model, info, setup.data, {"onnx": setup.folder.path / name})
    write_script(setup.folder.path)
    event = ExportEvent.of(replace(report, exit=exit))
    setup.event_log.write(event)
    return event


def tell_export(setup: Setup, event: ExportEvent) -> None:
    """Print what was exported."""
    setup.console.print(
        f"exported {setup.folder.path / event.path} ({event.accuracy:.1%}, "
        f"{event.bytes / 1e6:.2f} MB, {event.latency_ms:.2f} ms an image on one thread), agreement "
        f"with PyTorch {event.agreement:.1%}"
    )
