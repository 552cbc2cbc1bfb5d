"""One small Ray cluster and one S3 server for all tests that ask for them; the others never start either."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# their asserts explain themselves too
pytest.register_assert_rewrite("asked", "harm", "made", "open_ports", "pages", "queried", "reference")

from nightrank.cluster.local import LocalCluster, local_cluster  # noqa: E402
from remote import Bucket, s3_server  # noqa: E402


@functools.cache
def on_ray(path: Path) -> bool:
    """Whether a file has tests on Ray."""
    return "pytest.mark.ray" in path.read_text(encoding="utf-8")


class OneCluster(LoadScopeScheduling):
    """What one of several processes (`-n 2`) runs as a whole: all files with tests on Ray, since these share one
    cluster of 2 CPUs, or one of the other files, whose fixtures are then made once.

    Not `--dist loadgroup`: xdist 3.8 forgets every group under pytest 9.2, in silence.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "on Ray" if on_ray(self.config.rootpath / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneCluster:
    return OneCluster(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on Ray first, the longest part by far: the other files then fill all processes to the end."""
    items.sort(key=lambda item: not on_ray(item.path))


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """An S3 bucket; its server is found through the environment, as a real one is."""
    with s3_server() as found:
        yield found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, bucket: Bucket) -> Iterator[LocalCluster]:
    """A local cluster as `make cluster` starts it, with 2 CPUs as on the smallest machine that is promised.

    Its workers may reach the bucket. A second one in the same run would take the CPUs of the first: refused.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        claim = tmp_path_factory.getbasetemp().parent / "cluster"
        claim.touch(exist_ok=False)  # a test on Ray without the mark runs beside those that have it
    with local_cluster(home=tmp_path_factory.mktemp("home"), num_cpus=2) as started:
        yield started
