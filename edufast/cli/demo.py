"""The command that shows a page on which to drop pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edufast.cli.common import say, user
from edufast.cli.options import path_of


def demo(
    model: Annotated[
        Path,
        typer.Argument(
            parser=path_of("model"), help="A run folder, a bundle, or an exported .onnx file."
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0: any that is free.")
    ] = 0,
) -> None:
    """Serve a web page that classifies pictures dropped on it.

    Only this machine can open it; Ctrl-C ends it.
    """
    from edufast.edge.demo import HOST, Demo, DemoServer

    with user(DemoServer, user(Demo, model), port) as server:
        say(f"open http://{HOST}:{server.server_port}/ in a browser; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
