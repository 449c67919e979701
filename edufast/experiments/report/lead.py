"""The first part of a report: which file to ship, how good it is, and what to do next."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from edufast.data.contact_sheet import thumbnail
from edufast.edge.intervals import proportion
from edufast.experiments.answers import Answers
from edufast.experiments.events import ExportEvent
from edufast.experiments.report.advice import (
    Choice,
    by_class,
    choose,
    confused,
    confusion,
    least_certain,
    most_wrong,
    next_steps,
)
from edufast.experiments.report.format import percent, si
from edufast.experiments.report.html import folded, image_data, note, table, tiles
from edufast.experiments.run_log import RunLog

_PICTURES = 8  # of each kind
_ROWS = 20  # classes that are shown at once, and for which there is a matrix


def lead(log: RunLog, answers: Answers | None) -> str:
    """The first part of the page; empty if no file was exported or none was evaluated."""
    choice = choose(log.exports, log.run.fitting if log.run else None)
    if choice is None or answers is None:
        return ""
    # Of an 8-bit file written later, show the answers of the file that it was made from.
    file = choice.file.path if choice.file.path in answers.chosen else "student.onnx"
    if file not in answers.chosen:
        return ""
    recipe = (log.run.config or {}).get("recipe", {}) if log.run else {}
    steps = next_steps(answers, file, recipe.get("minutes"))
    sections = [
        (f"The file to use: {choice.file.path}", _file(choice, log.exports, answers)),
        ("What to do next", f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in steps)}</ul>"),
        ("Class by class", _classes(answers, file)),
        ("Which classes are mixed up", _confusion(answers, file)),
        ("Pictures", _pictures(answers, file)),
    ]
    return "\n".join(
        f"<section><h2>{escape(heading)}</h2>{body}</section>" for heading, body in sections if body
    )


def _file(choice: Choice, exports: Sequence[ExportEvent], answers: Answers) -> str:
    file = choice.file
    count = len(answers.labels)
    low, high = proportion(round(file.accuracy * count), count)
    cards = [
        ("accuracy", percent(file.accuracy), f"{percent(low)} to {percent(high)}, 95 % interval"),
        ("size", si(file.bytes, "B"), "one self-contained file"),
        ("time per picture", f"{file.latency_ms:.2f} ms", "one thread of this machine"),
        ("classes", str(len(answers.classes)), f"{answers.trained.sum():,} training pictures"),
    ]
    said = note(
        f"{choice.reason} Accuracy is the share of correct answers on {count:,} pictures that were "
        "set aside and never trained on."
    )
    use = (
        '<p class="note">To use it, run <code>edufast predict</code> with this file and pictures; '
        "without EduFast, run <code>python predict.py</code>, which is in the same folder.</p>"
    )
    if len(exports) < 2:
        return tiles(cards) + said + use
    rows = [
        [
            export.path,
            percent(export.accuracy),
            si(export.bytes, "B"),
            f"{export.latency_ms:.2f} ms",
        ]
        for export in sorted(exports, key=lambda export: export.bytes)
    ]
    return tiles(cards) + said + table(["file", "accuracy", "size", "a picture"], rows) + use


def _classes(answers: Answers, file: str) -> str:
    rows = []
    for summary in by_class(answers, file):
        low, high = proportion(summary.right, summary.count) if summary.count else (0.0, 1.0)
        taken = "–" if summary.rival is None else f"{summary.rival[0]} ({summary.rival[1]})"
        sure = "–" if not summary.answered else percent(summary.right / summary.answered)
        rows.append(
            [
                summary.name,
                f"{summary.trained:,}",
                f"{summary.right} of {summary.count}",
                f"{100 * low:.0f}–{100 * high:.0f} %",
                sure,
                taken,
            ]
        )
    heads = [
        "class",
        "training pictures",
        "recognised",
        "95 % interval",
        "right when predicted",
        "most often taken for",
    ]
    shown = table(heads, rows[:_ROWS])
    if len(rows) > _ROWS:
        shown += folded(f"The other {len(rows) - _ROWS} classes", table(heads, rows[_ROWS:]))
    return shown


def _confusion(answers: Answers, file: str) -> str:
    if len(answers.classes) <= _ROWS:
        return _matrix(answers.classes, confusion(answers, file))
    rows = [[f"{a}, {b}", str(times)] for a, b, times in confused(answers, file)[:_ROWS]]
    return table(["mixed up", "pictures"], rows) if rows else ""


def _matrix(classes: Sequence[str], counts: NDArray[np.int64]) -> str:
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td style="--share:{100 * shares[a, b]:.0f}%"'
            f"{' class=right' if a == b else ''}>{counts[a, b] or ''}</td>"
            for b in range(len(classes))
        )
        + "</tr>"
        for a, name in enumerate(classes)
    )
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        + note("Rows: what the pictures show. Columns: what the model answers.")
    )


def _pictures(answers: Answers, file: str) -> str:
    if not answers.pictures:
        return ""
    wrong = most_wrong(answers, file)
    certain = set(wrong[:_PICTURES].tolist())
    unsure = [i for i in least_certain(answers, file).tolist() if i not in certain]
    parts = [
        ("Wrong, and most confident: is the label right?", wrong[:_PICTURES].tolist()),
        ("Least certain", unsure[:_PICTURES]),
    ]
    shown = "".join(
        f"<h3>{title}</h3><div class=pictures>{''.join(_picture(answers, file, i) for i in some)}"
        "</div>"
        for title, some in parts
        if len(some)
    )
    return shown + note("This page contains these pictures: consider whom you share it with.")


def _picture(answers: Answers, file: str, i: int) -> str:
    from PIL import Image

    path, content = answers.pictures[i], io.BytesIO()
    Image.fromarray(thumbnail(path)).save(content, "JPEG", quality=85)
    label, said = (answers.classes[c] for c in (answers.labels[i], answers.chosen[file][i]))
    share = f"{said} ({answers.confidence[file][i]:.0%})"
    text = f"{label}: taken for {share}" if said != label else share
    return (
        f'<figure><img src="{image_data(content.getvalue(), "jpeg")}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}<br><small>{escape(path.name)}</small></figcaption></figure>"
    )
