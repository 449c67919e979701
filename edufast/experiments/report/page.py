"""The page of a report. Everything that comes from a run goes through `html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from statistics import fmean

from edufast.experiments.answers import Answers
from edufast.experiments.events import ExportEvent, ResultEvent, RunEvent
from edufast.experiments.report.format import EQUAL, SPLITS, percent, si, spread
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.html import folded, image_data, note, page, table, tiles
from edufast.experiments.report.lead import lead
from edufast.experiments.report.plots import Plot
from edufast.experiments.run_log import MethodLog, RunLog

Quantity = Callable[[ResultEvent], float]


def render(
    name: str,
    log: RunLog,
    answers: Answers | None,
    config: str | None,
    pictures: Sequence[tuple[Plot, bytes, bytes]],
) -> str:
    """The page as text: no scripts, no references to other files.

    Where files were exported, it begins with what they are good for, and how they were trained is
    folded below.

    Args:
        name: of the run.
        log: what happened.
        answers: of the exported files, if there are some.
        config: the resolved recipe as text, if there is one.
        pictures: each plot with its PNG in the light and in the dark theme.
    """
    figures = {picture[0].name: _figure(*picture) for picture in pictures}
    matrices = [html for plot, html in figures.items() if plot.startswith("forgetting")]
    learning = [figures.get("accuracy", ""), figures.get("grades", ""), *matrices]
    spending = [figures.get(plot, "") for plot in ("flops", "cost", "time", "throughput")]
    sections = [
        ("Results", _results(log)),
        ("Class slices", _slices(log)),
        ("Learning and forgetting", "".join(learning)),
        ("Cost", "".join(spending)),
        ("Teachers", _teachers(log)),
        ("Curriculum", "" if log.run is None else _curriculum(log.run)),
        ("Exported files", _exports(log)),
        ("On devices", _devices(log)),
        ("Configuration", "" if config is None else _config(config)),
    ]
    research = _tiles(log) + "\n".join(
        f"<section><h2>{heading}</h2>{body}</section>" for heading, body in sections if body
    )
    decision = lead(log, answers)
    if decision:
        research = f'<div class="research">{folded("How it was trained", research)}</div>'
    return page(
        name,
        facts="" if log.run is None else _facts(log.run),
        notice=_notice(log),
        sections=decision + research,
    )


def _figure(plot: Plot, light: bytes, dark: bytes) -> str:
    sources = [image_data(picture, "png") for picture in (light, dark)]
    caption = escape(plot.caption)
    return (
        f'<figure><picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{sources[1]}"><img src="{sources[0]}" alt="{caption}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _facts(run: RunEvent) -> str:
    """One line under the title: what was run, on what."""
    facts = {
        "dataset": run.dataset,
        "classes": str(run.num_classes),
        "student": run.student,
        "device": run.device,
        "PyTorch": run.torch,
    }
    return "".join(f"<span>{key} <b>{escape(value)}</b></span>" for key, value in facts.items())


def _notice(log: RunLog) -> str:
    phrases = log.unfinished()
    if not phrases:
        return ""
    return (
        '<p class="notice" role="status"><b>Unfinished run.</b> '
        f"{escape('; '.join(phrases))}. This page shows what was logged until then.</p>"
    )


def _tiles(log: RunLog) -> str:
    """The answer first: education compared with the baseline, in accuracy and cost."""
    education, baseline = log.methods.get("education"), log.baseline
    if education is None or not education.results:
        return ""
    accuracy = [result.accuracy for result in education.results]
    cards = [("accuracy by education", spread(accuracy), _seeds(education))]
    if baseline is not None:
        reference = [result.accuracy for result in baseline.results]
        gap = 100 * (fmean(accuracy) - fmean(reference))
        cards += [
            (f"against {baseline.name}", f"{gap:+.1f} points", spread(reference)),
            (
                "student FLOPs",
                f"{_ratio(education, baseline, lambda result: result.student_flops):.2f} ×",
                f"of {baseline.name}",
            ),
            (
                "time",
                f"{_ratio(education, baseline, lambda result: result.seconds):.2f} ×",
                f"of {baseline.name}",
            ),
        ]
    return tiles(cards)


def _results(log: RunLog) -> str:
    methods = [method for method in log.methods.values() if method.results]
    if not methods:
        return ""
    baseline = log.baseline or methods[0]
    rows = [
        [
            method.name,
            str(len(method.results)),
            spread([result.accuracy for result in method.results]),
            spread([result.best_accuracy for result in method.results]),
            f"{_mean(method, lambda result: result.samples):,.0f}",
            f"{_ratio(method, baseline, lambda result: result.student_flops):.2f} ×",
            si(_mean(method, lambda result: result.teacher_flops), "FLOP"),
            si(_mean(method, lambda result: result.teacher_training_flops), "FLOP"),
            duration(_mean(method, lambda result: result.teacher_training_seconds)),
            duration(_mean(method, lambda result: result.seconds)),
        ]
        for method in methods
    ]
    heads = [
        "method",
        "seeds",
        "accuracy, last epoch",
        "accuracy, best epoch",
        "samples",
        "student FLOPs",
        "teachers' forward FLOPs",
        "teachers' training FLOPs",
        "teachers' training time",
        "time",
    ]
    text = (
        f"Accuracy {SPLITS[log.run.split if log.run else 'validation']}. Means over seeds; ± is "
        "one sample standard deviation. The best epoch is chosen on the same images, so it is "
        "optimistic. Teachers that several students share were trained once."
    )
    if log.run is not None:
        text += f" All methods were given equal {EQUAL[log.run.equal]}."
    flops = si(_mean(baseline, lambda result: result.student_flops), "FLOP")
    text += f" Student FLOPs are relative to {baseline.name}: 1 × is {flops}."
    return table(heads, rows) + note(text)


def _slices(log: RunLog) -> str:
    """What the students know of each grade's classes, at the end."""
    methods = [method for method in log.methods.values() if method.results]
    counts = {len(result.slice_accuracy) for m in methods for result in m.results}
    if len(counts) != 1 or counts == {1}:
        return ""
    rows = []
    for method in methods:
        free = [result.slice_accuracy for result in method.results]
        masked = [result.slice_accuracy_masked for result in method.results]
        rows += [
            [method.name, *map(spread, zip(*free, strict=True))],
            [f"{method.name}, within the slice", *map(spread, zip(*masked, strict=True))],
        ]
    text = (
        "Accuracy on the classes of each grade after the last epoch: with all classes as possible "
        "answers, and within the slice, with all other classes masked. The difference is what a "
        "student loses by confusing slices rather than classes within them."
    )
    heads = ["method", *(f"slice {number}" for number in range(1, counts.pop() + 1))]
    return table(heads, rows) + note(text)


def _teachers(log: RunLog) -> str:
    if not log.teachers:
        return ""
    rows = [
        [
            str(teacher.teacher),
            teacher.model,
            str(len(teacher.classes)),
            percent(teacher.accuracy),
            f"{teacher.samples:,}",
            si(teacher.flops, "FLOP"),
            duration(teacher.seconds),
        ]
        for teacher in log.teachers
    ]
    return table(
        ["teacher", "model", "classes", "accuracy on them", "samples", "training", "time"], rows
    )


def _curriculum(run: RunEvent) -> str:
    parts = []
    if run.grades:
        rows = [
            [
                *map(str, (g.grade, g.fragments, g.classes)),
                f"{g.image_size} × {g.image_size}",
                str(g.epochs),
                g.target,
            ]
            for g in run.grades
        ]
        parts.append(table(["grade", "fragments", "classes", "pixels", "epochs", "target"], rows))
    if run.slices:
        items = "".join(
            f"<dt>slice {number}, {len(ids)} classes</dt>"
            f"<dd>{escape(', '.join(_class_name(run.classes, c) for c in ids))}</dd>"
            for number, ids in enumerate(run.slices, start=1)
        )
        parts.append(folded("Classes of each slice", f"<dl>{items}</dl>"))
    return "".join(parts)


def _exports(log: RunLog) -> str:
    if not log.exports:
        return ""
    rows = [
        [
            export.path,
            si(export.bytes, "B"),
            "" if export.opset is None else str(export.opset),
            percent(export.accuracy),
            f"{export.samples:,} {'random images' if export.noise else 'images'}",
            f"{100 * export.agreement:.2f} %",
            _known(export.accuracy_torch),
            _difference(export),
            _worst_class(export),
            f"{export.max_abs_difference:.1e}",
            f"{export.latency_ms:.2f} ms",
            "–" if export.latency_p95_ms is None else f"{export.latency_p95_ms:.2f} ms",
            "–" if export.peak_bytes is None else si(export.peak_bytes, "B"),
        ]
        for export in log.exports
    ]
    heads = [
        "file",
        "size",
        "opset",
        "accuracy",
        "compared on",
        "top-1 agreement",
        "accuracy, PyTorch",
        "difference, points (95 %)",
        "class that loses most",
        "largest logit difference",
        "one image, one thread",
        "95th percentile",
        "peak memory, with the runtime",
    ]
    early = "".join(note(_early(export)) for export in log.exports if export.early is not None)
    use = (
        '<p class="note">To classify pictures: <code>edufast predict</code> with this folder, or '
        "without EduFast <code>python predict.py student.onnx</code>, then the pictures.</p>"
    )
    return table(heads, rows) + early + use


def _devices(log: RunLog) -> str:
    if not log.devices:
        return ""
    heads = ["file", "machine", "runtime", "one image, one thread", "95th percentile"]
    heads += ["load and first answer", "peak memory", "memory before loading"]
    rows = [
        [
            row.file,
            row.machine,
            row.runtime,
            f"{row.median_ms:.2f} ms",
            f"{row.p95_ms:.2f} ms",
            f"{row.load_ms:.1f} ms",
            si(row.peak_bytes, "B"),
            si(row.runtime_bytes, "B"),
        ]
        for row in log.devices
    ]
    return table(heads, rows)


def _early(export: ExportEvent) -> str:
    early = export.early or {}
    left = ", ".join(
        f"{percent(share)} after {depth}"
        for depth, share in zip(early["depths"], early["shares"], strict=True)
    )
    return (
        f"{export.path} stops at the first exit that gives a class a probability of "
        f"{early['threshold']:.4g} or more ({early['target']}). Share of images that stop: {left} "
        f"of {early['depths'][-1]} fragments. Mean cost: {percent(early['cost'])} of the whole "
        f"student's. Accuracy on images that were not used to choose the threshold: "
        f"{percent(early['accuracy_on_others'])}."
    )


def _difference(export: ExportEvent) -> str:
    if export.difference is None or export.interval is None:
        return "–"
    low, high = (100 * bound for bound in export.interval)
    return f"{100 * export.difference:+.2f} ({low:+.2f} to {high:+.2f})"


def _worst_class(export: ExportEvent) -> str:
    worst = export.worst_class
    if worst is None:
        return "–" if export.difference is None else "none"
    shares = percent(worst["accuracy_torch"]), percent(worst["accuracy_exported"])
    return f"{worst['class']}: {', '.join(shares)}"


def _config(text: str) -> str:
    return folded("The resolved recipe, config.yaml", f"<pre>{escape(text)}</pre>")


def _class_name(names: Sequence[str], class_id: int) -> str:
    return names[class_id] if class_id < len(names) else str(class_id)


def _known(share: float | None) -> str:
    return "–" if share is None else percent(share)


def _seeds(method: MethodLog) -> str:
    count = len(method.results)
    return "1 seed" if count == 1 else f"{count} seeds"


def _mean(method: MethodLog, quantity: Quantity) -> float:
    """Over the seeds of a method that has results."""
    return fmean(quantity(result) for result in method.results)


def _ratio(method: MethodLog, baseline: MethodLog, quantity: Quantity) -> float:
    """How much of ``quantity`` a method takes, relative to the baseline."""
    return _mean(method, quantity) / _mean(baseline, quantity)
