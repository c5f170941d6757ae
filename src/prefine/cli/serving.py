"""``prefine serve``: a model behind an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A model directory (RUN/policy for instance).")],
    host: Annotated[str, typer.Option(help="Where to listen; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Which port; 0 picks a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model (default: the directory's name).")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="How many requests are answered at once.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:N or mps (default: the accelerator if there is one).")
    ] = None,
) -> None:
    """Serve a model to OpenAI-compatible clients.

    Example: prefine serve runs/demo/policy --port 8000
    """
    from prefine.binding.model import check_model
    from prefine.serving import serve as listen

    check_model(directory)
    listen(directory, host, port, name=name, key_env=key_env, max_batch=max_batch, device=device)
