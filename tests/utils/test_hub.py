"""Downloads: what is on the machine needs no network, and without either there is one line."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edufast.utils import hub
from edufast.utils.errors import UserError

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def server():
    """Of a page that is not found."""

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def nobody():
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_answers_whatever_it_says(server, nobody):
    assert hub._answers(server)
    assert not hub._answers(nobody)
    assert not hub._answers("http://no.such.host.invalid")


def test_without_a_network_the_hub_is_not_asked_again_and_again(monkeypatch, nobody, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UserError) as caught, hub.from_hub("the weights of x"):
        huggingface_hub.hf_hub_download("someone/model", "model.safetensors", cache_dir=tmp_path)
    assert str(caught.value) == (
        "the weights of x are not on this machine, and 127.0.0.1 does not answer; expected a "
        "network, or the path of a file of weights"
    )
    assert not waits and not constants.HF_HUB_OFFLINE


def test_what_is_cached_is_read_without_a_network(monkeypatch, nobody, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    folder = tmp_path / "models--someone--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1" * 40)
    (folder / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("1" * 40) / "hello.txt").write_text("hello")
    with hub.from_hub("texts"):
        found = huggingface_hub.hf_hub_download("someone/model", "hello.txt", cache_dir=tmp_path)
    with open(found) as file:
        assert file.read() == "hello"


def told(opened):
    """The line that an error of two lines in the block becomes."""
    with pytest.raises(UserError) as caught, opened:
        raise RuntimeError("two\nlines")
    return str(caught.value)


def test_other_failures_keep_their_reason_in_one_line(monkeypatch, server):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    expected = "the weights of x cannot be loaded: two lines"
    assert told(hub.from_hub("the weights of x")) == expected
    assert told(hub.from_server("the weights of x", server)) == expected
    with pytest.raises(UserError, match="as it was"), hub.from_hub("the weights of x"):
        raise UserError("as it was")


def test_damage_on_this_machine_is_told_also_without_a_network(monkeypatch, nobody):
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    assert told(hub.from_hub("the weights of x")) == "the weights of x cannot be loaded: two lines"
    long = pytest.raises(UserError, match=r"expected one of a, a, .* …$")
    with long as caught, hub.from_hub("the weights of x"):
        raise ValueError("expected one of " + "a, " * 1000)
    assert len(str(caught.value)) < 450


def test_a_server_that_does_not_answer_is_named(nobody):
    line = told(hub.from_server("the weights of x", nobody))
    assert line.startswith("the weights of x are not on this machine, and 127.0.0.1 does not ans")
