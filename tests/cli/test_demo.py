"""The command that shows a page on which to drop pictures."""

from __future__ import annotations

import threading
import urllib.request

from edufast.edge.demo import DemoServer
from tests.commands import edufast, one_line


def test_the_page_is_there_until_ctrl_c(run, monkeypatch):
    pages = []

    def forever(server):
        """Answers one request, as Ctrl-C would come after it."""

        def visit():
            address = f"http://127.0.0.1:{server.server_port}/"
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as page:
                pages.append(page.read())

        visitor = threading.Thread(target=visit)
        visitor.start()
        server.handle_request()
        visitor.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(DemoServer, "serve_forever", forever)
    result = edufast("demo", run)
    assert result.stderr.startswith("open http://127.0.0.1:") and result.stderr.endswith("ended\n")
    assert b"Drop pictures here" in pages[0]


def test_what_is_wrong_is_told_in_one_line(tmp_path):
    assert "has no student.onnx" in one_line(edufast("demo", tmp_path, code=2))
    assert "does not exist" in one_line(edufast("demo", tmp_path / "m.onnx", code=2))
