"""The least that a Serve deployment can do: a bare ASGI callable that sends stored bytes. The peer of `http_load.py`.

The bytes and the headers are those that the service itself gave for the same paths, so that nothing but the work
differs. Serve imports it on the cluster; `serve_peer` is the same, and the package's own API, under plain uvicorn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


def stored_answers(file: Path) -> Callable[..., Awaitable[None]]:
    """An ASGI callable: for each path in `file` its headers and body, else 404."""
    kept = json.loads(file.read_text("utf-8"))
    answers = {
        path: (
            [(name.encode(), value.encode()) for name, value in answer["headers"]],
            {"type": "http.response.body", "body": answer["body"].encode()},
        )
        for path, answer in kept.items()
    }

    async def answer(scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":  # Serve waits for it to say that it has started
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        found = answers.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if found is None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return
        headers, body = found
        # A list of its own: Serve adds its request id to what it is given, so one list for all would grow for ever.
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send(body)

    return answer


@serve.deployment
@serve.ingress()
class Raw:
    """A replica of it."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __serve_build_asgi_app__(self) -> Callable[..., Awaitable[None]]:
        return stored_answers(self.file)


def build(args: dict[str, str]) -> Application:
    """args: {file: where the answers are}."""
    application: Application = Raw.bind(args["file"])  # type: ignore[attr-defined]
    return application


def main() -> None:
    """Plain uvicorn on the package's API over a store, or on the stored answers."""
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store")
    parser.add_argument("--answers", type=Path)
    options = parser.parse_args()
    if options.answers is not None:
        app: Any = stored_answers(options.answers)
    else:
        from http_served import plain_api

        app = plain_api(options.store)
    uvicorn.run(
        app,
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
        lifespan="off",
    )


if __name__ == "__main__":
    main()
