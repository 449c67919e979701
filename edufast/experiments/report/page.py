"""The page of a report. Everything that comes from a run goes through `html.escape`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from edufast.experiments.events import EQUAL, SPLITS, Event, Method, RunLog
from edufast.experiments.report.format import mean, percent, si, spread
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.plots import Plot

_NOTHING = "–"


def render(log: RunLog, pictures: Sequence[tuple[Plot, bytes, bytes]]) -> str:
    """The page as text: no scripts, no references to other files.

    Args:
        log: the run.
        pictures: each plot with its PNG in the light and in the dark theme.
    """
    template = Template(
        files("edufast.experiments.report").joinpath("page.html").read_text("utf-8")
    )
    figures = {plot.name: _figure(*picture) for picture in pictures for plot in picture[:1]}
    matrices = [html for name, html in figures.items() if name.startswith("forgetting")]
    learning = [figures.get("accuracy", ""), figures.get("grades", ""), *matrices]
    spending = [figures.get(name, "") for name in ("flops", "cost", "time", "throughput")]
    sections = [
        ("Results", _results(log)),
        ("Class slices", _slices(log)),
        ("Learning and forgetting", "".join(learning)),
        ("Cost", "".join(spending)),
        ("Teachers", _teachers(log)),
        ("Curriculum", _curriculum(log)),
        ("Exported files", _exports(log)),
        ("Configuration", _config(log)),
    ]
    name = str(log.run.get("name", "run"))
    return template.substitute(
        title=escape(name),
        facts=_facts(log.run),
        notice=_notice(log),
        tiles=_tiles(log),
        sections="\n".join(
            f"<section><h2>{heading}</h2>{body}</section>" for heading, body in sections if body
        ),
    )


def _figure(plot: Plot, light: bytes, dark: bytes) -> str:
    sources = [
        f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in (light, dark)
    ]
    caption = escape(plot.caption)
    return (
        f'<figure><picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{sources[1]}"><img src="{sources[0]}" alt="{caption}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; the first column names the row, the others align right."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _facts(run: Event) -> str:
    """One line under the title: what was run, on what."""
    facts: list[tuple[str, Any]] = [
        (key, run[key]) for key in ("dataset", "num_classes", "student", "device") if key in run
    ]
    if "torch" in run:
        facts.append(("PyTorch", run["torch"]))
    return "".join(
        f"<span>{escape(key.replace('num_classes', 'classes'))} <b>{escape(str(value))}</b></span>"
        for key, value in facts
    )


def _notice(log: RunLog) -> str:
    phrases = log.unfinished()
    if not phrases:
        return ""
    return (
        '<p class="notice" role="status"><b>Unfinished run.</b> '
        f"{escape('; '.join(phrases))}. What follows is what was logged until then.</p>"
    )


def _tiles(log: RunLog) -> str:
    """The answer first: education against the baseline, in accuracy and cost."""
    education, baseline = log.methods.get("education"), log.baseline
    if education is None or not education.results:
        return ""
    accuracy = [r["accuracy"] for r in education.results]
    tiles = [("accuracy by education", spread(accuracy), _seeds(education))]
    if baseline is not None:
        reference = [r["accuracy"] for r in baseline.results]
        gap = 100 * (mean(accuracy) - mean(reference))
        tiles.append((f"against {baseline.name}", f"{gap:+.1f} points", spread(reference)))
        for key, text in (("student_flops", "student FLOPs"), ("seconds", "time")):
            ratio = _ratio(education, baseline, key)
            if ratio is not None:
                tiles.append((text, f"{ratio:.2f} ×", f"of {baseline.name}"))
    return (
        '<div class="tiles">'
        + "".join(
            f"<div><span>{escape(top)}</span><strong>{escape(value)}</strong>"
            f"<small>{escape(bottom)}</small></div>"
            for top, value, bottom in tiles
        )
        + "</div>"
    )


def _results(log: RunLog) -> str:
    methods = [method for method in log.methods.values() if method.results]
    if not methods:
        return ""
    baseline = log.baseline or methods[0]
    rows = []
    for method in methods:
        ratio = _ratio(method, baseline, "student_flops")
        rows.append(
            [
                method.name,
                str(len(method.results)),
                spread([r["accuracy"] for r in method.results]),
                spread(best) if (best := _values(method, "best_accuracy")) else _NOTHING,
                _average(method, "samples", lambda value: f"{value:,.0f}"),
                _NOTHING if ratio is None else f"{ratio:.2f} ×",
                _average(method, "teacher_flops", lambda value: si(value, "FLOP")),
                _average(method, "teacher_training_flops", lambda value: si(value, "FLOP")),
                _average(method, "teacher_training_seconds", duration),
                _average(method, "seconds", duration),
            ]
        )
    heads = [
        "method",
        "seeds",
        "accuracy, last epoch",
        "best epoch",
        "samples",
        "student FLOPs",
        "teachers' forward FLOPs",
        "teachers' training FLOPs",
        "teachers' training time",
        "time",
    ]
    note = (
        f"Accuracy {SPLITS[log.run.get('split', 'validation')]}. Means over seeds; ± is one sample "
        "standard deviation. The best epoch is chosen on the same images: read it as optimistic. "
        "Teachers that several students share were trained once."
    )
    if "equal" in log.run:
        note += f" Methods had equal {EQUAL[log.run['equal']]}."
    if _values(baseline, "student_flops"):
        flops = _average(baseline, "student_flops", lambda value: si(value, "FLOP"))
        note += f" Student FLOPs are relative to {baseline.name}, 1 × = {flops}."
    return _table(heads, rows) + f'<p class="note">{escape(note)}</p>'


def _slices(log: RunLog) -> str:
    """What the students know of each grade's classes, at the end."""
    methods = [method for method in log.methods.values() if _values(method, "slice_accuracy")]
    counts = {len(r["slice_accuracy"]) for m in methods for r in m.results}
    if len(counts) != 1 or counts == {1}:
        return ""
    rows = [
        [
            f"{method.name}{words}",
            *(spread(shares) for shares in zip(*_values(method, key), strict=True)),
        ]
        for method in methods
        for words, key in (
            ("", "slice_accuracy"),
            (", within the slice", "slice_accuracy_masked"),
        )
    ]
    note = (
        "Accuracy on the classes of each grade after the last epoch: with the answer free among "
        "all classes, and within the slice, where the other classes are masked. The distance is "
        "what a student loses between slices rather than within them."
    )
    heads = ["method", *(f"slice {number}" for number in range(1, counts.pop() + 1))]
    return _table(heads, rows) + f'<p class="note">{escape(note)}</p>'


def _teachers(log: RunLog) -> str:
    if not log.teachers:
        return ""
    rows = [
        [
            str(event["teacher"]),
            str(event.get("model", _NOTHING)),
            str(len(event["classes"])) if "classes" in event else _NOTHING,
            percent(event["accuracy"]),
            _optional(event, "samples", lambda value: f"{value:,.0f}"),
            _optional(event, "flops", lambda value: si(value, "FLOP")),
            _optional(event, "seconds", duration),
        ]
        for event in log.teachers
    ]
    return _table(
        ["teacher", "model", "classes", "accuracy on them", "samples", "training", "time"], rows
    )


def _curriculum(log: RunLog) -> str:
    parts = []
    if log.run.get("grades"):
        keys = ("fragments", "classes", "epochs", "target")
        rows = [
            [str(grade.get("grade", number)), *(str(grade.get(key, _NOTHING)) for key in keys)]
            for number, grade in enumerate(log.run["grades"], start=1)
        ]
        parts.append(_table(["grade", *keys], rows))
    names, slices = log.run.get("classes", []), log.run.get("slices", [])
    if slices:
        items = "".join(
            f"<dt>slice {number}, {len(ids)} classes</dt>"
            f"<dd>{escape(', '.join(_class_name(names, i) for i in ids))}</dd>"
            for number, ids in enumerate(slices, start=1)
        )
        parts.append(f"<details><summary>Classes of each slice</summary><dl>{items}</dl></details>")
    return "".join(parts)


def _exports(log: RunLog) -> str:
    if not log.exports:
        return ""
    rows = [
        [
            str(event["path"]),
            _optional(event, "bytes", lambda value: si(value, "B")),
            _optional(event, "opset", str),
            _optional(event, "accuracy", percent),
            _compared(event),
            f"{100 * event['agreement']:.2f} %",
            _optional(event, "accuracy_torch", percent),
            _optional(event, "accuracy_onnx", percent),
            _optional(event, "max_abs_difference", lambda value: f"{value:.1e}"),
            _optional(event, "latency_ms", lambda value: f"{value:.2f} ms"),
        ]
        for event in log.exports
    ]
    heads = [
        "file",
        "size",
        "opset",
        "accuracy",
        "compared on",
        "top-1 agreement",
        "there: accuracy, PyTorch",
        "accuracy, file",
        "largest logit difference",
        "one image, one thread",
    ]
    return _table(heads, rows)


def _config(log: RunLog) -> str:
    if log.config is None:
        return ""
    return (
        "<details><summary>The resolved recipe, config.yaml</summary>"
        f"<pre>{escape(log.config)}</pre></details>"
    )


def _compared(export: Event) -> str:
    kind = "random images" if export.get("noise") else "images"
    return _optional(export, "samples", lambda count: f"{count:,} {kind}")


def _class_name(names: Sequence[Any], index: int) -> str:
    return str(names[index]) if index < len(names) else str(index)


def _seeds(method: Method) -> str:
    count = len(method.results)
    return "1 seed" if count == 1 else f"{count} seeds"


def _values(method: Method, key: str) -> list[Any]:
    return [r[key] for r in method.results if r.get(key) is not None]


def _average(method: Method, key: str, write: Any) -> str:
    values = _values(method, key)
    return write(mean(values)) if values else _NOTHING


def _optional(event: Event, key: str, write: Any) -> str:
    return _NOTHING if event.get(key) is None else write(event[key])


def _ratio(method: Method, baseline: Method, key: str) -> float | None:
    """How much of ``key`` a method takes, relative to the baseline."""
    own, reference = _values(method, key), _values(baseline, key)
    if not own or not reference or mean(reference) == 0:
        return None
    return mean(own) / mean(reference)
