"""A headless Chromium, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Page:
    """A page in the browser: ``page.run("document.title")``."""

    def __init__(self, url: str, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        target = self._ask("Target.createTarget", url=url)["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        while self.run("document.readyState + ' ' + location.href") != f"complete {url}":
            time.sleep(0.05)  # it shows an empty page at first

    def run(self, script: str) -> Any:
        """What the expression gives, awaited."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        command = {"id": next(self._numbers), "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = json.loads(self._next())
            if message.get("id") == command["id"]:
                return message["result"]

    def _next(self) -> bytes:
        while b"\0" not in self._rest:
            more = os.read(self._answers, 65536)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return message


@contextmanager
def browsing(url: str, profile: str) -> Iterator[Page]:
    """The page at ``url``, in a new profile; the test is skipped where there is no browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no browser at hand")
    (theirs, ours), (read, write) = os.pipe(), os.pipe()

    def as_they_are_expected() -> None:
        os.dup2(theirs, 3)
        os.dup2(write, 4)

    # High numbers, which 3 and 4 do not overwrite.
    theirs, write = (_raised(end) for end in (theirs, write))
    browser = subprocess.Popen(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        ],
        preexec_fn=as_they_are_expected, close_fds=False, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    os.close(write)
    try:
        yield Page(url, ours, read)
    finally:
        browser.kill()
        browser.wait()
        os.close(ours)
        os.close(read)


def _raised(end: int) -> int:
    import fcntl

    copy = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return copy
