"""One small Ray cluster and one S3 server for all tests that ask for them; the others never start either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# their asserts explain themselves too
pytest.register_assert_rewrite("asked", "harm", "made", "open_ports", "pages", "queried", "reference")

from nightrank.cluster.local import LocalCluster, local_cluster  # noqa: E402
from remote import Bucket, s3_server  # noqa: E402


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """An S3 bucket; its server is found through the environment, as a real one is."""
    with s3_server() as found:
        yield found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, bucket: Bucket) -> Iterator[LocalCluster]:
    """A local cluster as `make cluster` starts it, with 2 CPUs as on the smallest machine that is promised.

    Its workers may reach the bucket.
    """
    with local_cluster(home=tmp_path_factory.mktemp("home"), num_cpus=2) as started:
        yield started
