"""A real server of the S3 protocol on loopback, for tests of stores that are not a folder."""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

NAME = "nightrank-tests"


class Faulty:
    """In front of the server: refuses requests as told, and counts those that it lets through."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.refused: list[tuple[str, re.Pattern[str], str]] = []
        self.requests: list[tuple[str, str]] = []

    def refuse(self, method: str, path: str, *, status: str, times: int = 1) -> None:
        """The next `times` requests of this kind whose path matches get this answer and change nothing."""
        self.refused += [(method, re.compile(path), status)] * times

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        for place, (kind, pattern, status) in enumerate(self.refused):
            if kind == method and pattern.search(path):
                del self.refused[place]
                start_response(status, [("Content-Length", "0")])
                return []
        self.requests.append((method, path))
        answer: Iterable[bytes] = self.app(environ, start_response)
        return answer


class Bucket:
    """An empty bucket; `url` gives each test a prefix of its own."""

    def __init__(self, endpoint: str, server: Faulty) -> None:
        self.endpoint, self.server = endpoint, server
        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=NAME)
        self._numbers = itertools.count()

    def url(self) -> str:
        """A store that nobody used yet."""
        return f"s3://{NAME}/store-{os.getpid()}-{next(self._numbers)}"

    def keys(self, url: str) -> dict[str, bytes]:
        """All objects of a store with their content, as another client sees them."""
        prefix = url.removeprefix(f"s3://{NAME}/") + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=NAME, Prefix=prefix)
        names = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {
            name.removeprefix(prefix): self.client.get_object(Bucket=NAME, Key=name)["Body"].read()
            for name in names
        }

    def copied(self, url: str) -> str:
        """A store with the same objects."""
        other = self.url()
        for key, data in self.keys(url).items():
            self.put(other, key, data)
        return other

    def put(self, url: str, key: str, data: bytes) -> None:
        """Overwrite an object behind nightrank's back."""
        prefix = url.removeprefix(f"s3://{NAME}/")
        self.client.put_object(Bucket=NAME, Key=f"{prefix}/{key}", Body=data)


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Starts it, and sets what a process needs to reach it; child processes inherit that."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield Bucket(settings["AWS_ENDPOINT_URL"], app)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
