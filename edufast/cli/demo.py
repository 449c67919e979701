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
        int, typer.Option(min=0, max=65535, help="Of the page's address; 0: any that is free.")
    ] = 0,
) -> None:
    """Show a page on which to drop pictures, and what the model says of them.

    It is for this machine only, and there until Ctrl-C.
    """
    from edufast.edge.demo import HOST, Demo, DemoServer

    with user(DemoServer, user(Demo, model), port) as server:
        say(f"open http://{HOST}:{server.server_port}/ in a browser; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
