"""The page on which to drop pictures: what it answers, and what it refuses, over HTTP."""

from __future__ import annotations

import base64
import errno
import http.client
import io
import json
import socket
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from edufast.edge import demo as module
from edufast.edge.demo import HOST, MOST_BYTES, Demo, DemoServer
from edufast.edge.early_exit import write_early_exit
from edufast.edge.exit_choice import Target
from edufast.edge.export import export
from edufast.edge.predict import predict
from edufast.edge.registry import FORMATS
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.browser import browsing
from tests.edge.students import original, student_with_exits

CLASSES = ["<b>apple</b>", "pear", "quince"]
FILES = ["student.onnx", "student-exit1.onnx"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two files."""
    folder = tmp_path_factory.mktemp("run")
    constants = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    for seed, name in enumerate(FILES):
        torch.manual_seed(seed)
        model = create_model("resnet8", 3)
        export(model, folder / name, input_size=(3, 16, 16), classes=CLASSES, **constants)
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[DemoServer]:
    with DemoServer(Demo(run)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: DemoServer,
    body: bytes = b"",
    path: str = "/predict",
    method: str = "POST",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), content


def picture(height: int = 20, width: int = 30) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def refused(server: DemoServer, body: bytes, **headers: str) -> tuple[int, str]:
    status, _, content = ask(server, body, **headers)
    return status, json.loads(content)["error"]


def test_every_file_answers_as_it_predicts(server: DemoServer, run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    status, headers, content = ask(server, picture())
    answers = json.loads(content)
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert [answer["file"] for answer in answers] == FILES
    for answer in answers:
        (expected,) = predict(run / answer["file"], tmp_path / "a.png")
        found = [(each["name"], each["probability"]) for each in answer["classes"]]
        assert found == [(n, pytest.approx(p)) for n, p in expected.top(3)]
    assert {each["name"] for each in answers[0]["classes"]} == set(CLASSES)


def test_one_file_can_be_shown_alone(run: Path) -> None:
    (answer,) = Demo(run / FILES[1]).answer(picture())
    assert answer["file"] == FILES[1]
    with pytest.raises(UserError, match=r"has no student\.onnx"):
        Demo(run / "..")


def test_of_early_exits_it_is_said_where_a_picture_left_and_how_long_it_took(tmp_path) -> None:
    path = tmp_path / "student-early.onnx"
    all_leave = Target(100.0, of_cost=False)
    whole, student = original(), student_with_exits()
    write_early_exit(whole, student, all_leave, FORMATS["onnx"], path, whole.metadata)
    (answer,) = Demo(path).answer(picture())
    assert answer["exit"] == 1 and answer["milliseconds"] > 0


def test_the_page_loads_nothing_from_elsewhere_and_shows_names_as_text(server: DemoServer) -> None:
    status, headers, page = ask(server, path="/", method="GET")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert b'src="/demo.js"' in page and b"http" not in page
    _, headers, script = ask(server, path="/demo.js", method="GET")
    assert headers["Content-Type"].startswith("text/javascript")
    assert b"textContent" in script and b"innerHTML" not in script
    assert ask(server, path="/../demo.py", method="GET")[0] == 404
    assert ask(server, picture(), path="/other")[0] == 404


@pytest.mark.parametrize("content", [b"", b"no picture", picture()[:300]])
def test_what_is_no_picture_is_told(server: DemoServer, content: bytes) -> None:
    assert refused(server, content) == (422, "this picture cannot be read or decoded")


def test_decoders_print_nothing_about_damaged_pictures(run: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (20, 30)).save(content, "TIFF")
    demo = Demo(run)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for end in range(20, 100, 10):
            with pytest.raises(UserError, match="cannot be read or decoded"):
                demo.answer(content.getvalue()[:end])
    assert not told


def test_a_disk_that_is_full_is_told_and_the_server_goes_on(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        assert refused(server, picture()) == (500, "the server failed: No space left on device")
    assert ask(server, picture())[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def bomb() -> bytes:
    """A PNG file of few bytes that claims to be of 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def test_a_picture_of_too_many_pixels_is_not_decoded(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, reason = refused(server, bomb())
    assert status == 422  # Pillow refuses so many itself
    monkeypatch.setattr(module, "MOST_PIXELS", 500)
    status, reason = refused(server, picture())
    assert (status, reason) == (422, "this picture has 600 pixels; expected at most 500")


def test_too_large_an_upload_is_not_read(server: DemoServer) -> None:
    for length in (MOST_BYTES + 1, 10**40):
        with socket.create_connection((HOST, server.server_port), timeout=30) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\n"
            connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
            assert connection.recv(99).startswith(b"HTTP/1.0 413 ")


@pytest.mark.parametrize("length", ["", "-1", "1e3", "0x10", "\u0663"])
def test_an_upload_without_a_length_is_refused(server: DemoServer, length: str) -> None:
    with socket.create_connection((HOST, server.server_port), timeout=30) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\n"
        said = f"Content-Length: {length}\r\n" if length else "Transfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}{said}\r\n".encode())
        assert connection.recv(99).startswith(b"HTTP/1.0 411 ")


def test_an_upload_that_ends_early_is_told_and_the_server_goes_on(server: DemoServer) -> None:
    with socket.create_connection((HOST, server.server_port), timeout=30) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\n"
        connection.sendall(f"{head}Content-Length: 500\r\n\r\nabc".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(99).startswith(b"HTTP/1.0 400 ")
    assert ask(server, picture())[0] == 200


def test_pages_of_other_origins_may_not_ask(server: DemoServer) -> None:
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert refused(server, picture(), **headers) == (
            403,
            "requests are accepted only from pages of this server",
        )
    own = f"http://localhost:{server.server_port}"
    assert ask(server, picture(), Origin=own)[0] == 200
    assert ask(server, path="/", method="GET", Host="evil.example")[0] == 403


def test_only_this_machine_is_served_and_a_taken_port_is_told(
    server: DemoServer, run: Path
) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match=rf"port {server.server_port} of 127\.0\.0\.1: .*in use"):
        DemoServer(server.demo, server.server_port)


DROP = """
(async () => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], "<i>a</i>.png"));
  dropped.items.add(new File(["no picture"], "b.png"));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, cancelable: true }));
  await last;
  return [...document.querySelectorAll("article")].map((each) => each.innerText);
})()
"""


def test_pictures_dropped_in_a_browser_are_answered(server: DemoServer, tmp_path: Path) -> None:
    content = base64.b64encode(picture()).decode()
    with browsing(f"http://{HOST}:{server.server_port}/", str(tmp_path)) as page:
        broken, answered = page.run(DROP % content)
    assert broken == "b.png\n\nNo answer: this picture cannot be read or decoded"
    name, *lines = answered.split("\n")
    assert name == "<i>a</i>.png"
    assert [line.partition(", ")[0] for line in lines if line.endswith(" ms")] == FILES
    assert sum(line.startswith("<b>apple</b>") for line in lines) == 2
    assert sum(line.endswith(" %") for line in lines) == 6
