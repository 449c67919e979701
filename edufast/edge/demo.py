"""A local web page that shows what exported files predict for pictures dropped on it."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edufast.data.image_files import UnreadableImage
from edufast.edge.predict import exported_models, predict_each
from edufast.utils.errors import UserError, one_line

HOST = "127.0.0.1"
MOST_BYTES = 30_000_000  # of a picture
MOST_PIXELS = 60_000_000  # of a picture, so that decoding takes at most some 400 MB
_TOP = 3  # classes
_PATIENCE = 20  # seconds, for a browser to send what it announced
_PAGES = {
    "/": ("demo.html", "text/html; charset=utf-8"),
    "/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Demo:
    """Exported files that are asked about one picture at a time.

    Args:
        path: one of them, or a folder with several, see
            :func:`edufast.edge.predict.exported_models`.

    Raises:
        UserError: as :class:`edufast.edge.predict.ExportedModel`.
    """

    def __init__(self, path: Path) -> None:
        self._models = exported_models(path, integers=True)
        self._one_at_a_time = threading.Lock()

    def answer(self, picture: bytes) -> list[dict[str, Any]]:
        """What each file says: its name, its most probable classes with their probabilities, how
        long it took, and after how many of the student's fragments the picture left early exits.

        Raises:
            UserError: the picture cannot be decoded, or is too large.
        """
        with TemporaryDirectory() as folder, self._one_at_a_time:
            path = Path(folder, "picture")
            path.write_bytes(picture)
            _check_pixels(path)
            try:
                (predictions,) = predict_each(self._models, [path])
            except UnreadableImage as error:
                raise UserError("this picture cannot be read or decoded") from error
        return [
            {
                "file": name,
                "classes": [{"name": c, "probability": p} for c, p in prediction.top(_TOP)],
                "milliseconds": prediction.milliseconds,
                "exit": prediction.exit,
            }
            for name, prediction in predictions.items()
        ]


def _check_pixels(path: Path) -> None:
    """By what the header says, before anything is decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about damaged files and many pixels
            with Image.open(path) as image:
                pixels = image.width * image.height
    except Exception as error:  # decoders fail in any way
        raise UserError("this picture cannot be read or decoded") from error
    if pixels > MOST_PIXELS:
        raise UserError(f"this picture has {pixels:,} pixels; expected at most {MOST_PIXELS:,}")


class DemoServer(ThreadingHTTPServer):
    """Serves the page to this machine only: a context manager with ``serve_forever()``.

    Args:
        demo: is asked about the pictures.
        port: 0: any that is free; ``server_port`` is the one that it got.

    Raises:
        UserError: the port is taken.
    """

    def __init__(self, demo: Demo, port: int = 0) -> None:
        self.demo = demo
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST}: {error.strerror}; expected a free port"
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that disconnect in the middle of a request."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    server_version, sys_version = "edufast", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        if not self._is_local():
            return
        if self.path not in _PAGES:
            self._reply(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return
        name, kind = _PAGES[self.path]
        self._reply(HTTPStatus.OK, files("edufast.edge").joinpath(name).read_bytes(), kind)

    def do_POST(self) -> None:
        if not self._is_local():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self._fail(HTTPStatus.NOT_FOUND, "not found")
        elif not (length.isascii() and length.isdigit()):
            self._fail(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        elif len(length) > 12 or int(length) > MOST_BYTES:
            limit = f"expected at most {MOST_BYTES / 1e6:.0f} MB"
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"this picture is too large; {limit}")
        else:
            self._predict(int(length))

    def _predict(self, length: int) -> None:
        picture = self.rfile.read(length)
        if len(picture) < length:
            self._fail(HTTPStatus.BAD_REQUEST, "the upload was cut off")
            return
        try:
            answers = self.server.demo.answer(picture)
        except UserError as error:
            self._fail(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(error))
        except OSError as error:  # a full disk
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"the server failed: {error.strerror}")
        else:
            self._reply(HTTPStatus.OK, json.dumps(answers).encode(), "application/json")

    def _is_local(self) -> bool:
        """Pages of other origins may not ask: neither under a name that leads here, nor at all."""
        port = self.server.server_port
        hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
        origin = self.headers.get("Origin")
        allowed = self.headers.get("Host") in hosts
        allowed &= origin is None or origin in [f"http://{host}" for host in hosts]
        if not allowed:
            self._fail(HTTPStatus.FORBIDDEN, "requests are accepted only from pages of this server")
        return allowed

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # what was sent is not read
        self._reply(status, json.dumps({"error": message}).encode(), "application/json")

    def _reply(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the page shows what happens."""
