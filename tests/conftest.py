"""One small Ray cluster for all tests that are marked `ray`; the others never start one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# their asserts explain themselves too
pytest.register_assert_rewrite("asked", "harm", "made", "pages", "queried", "reference")

from nightrank.cluster.local import LocalCluster, local_cluster  # noqa: E402


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A local cluster as `make cluster` starts it, with 2 CPUs as on the smallest machine that is promised."""
    with local_cluster(home=tmp_path_factory.mktemp("home"), num_cpus=2) as started:
        yield started
