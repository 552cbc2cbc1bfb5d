"""The Ray Serve application: one ingress deployment. `import_path` of serve_config.yaml names `build`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from nightrank.config.service import ServiceArgs, service_args, service_user_config
from nightrank.release.store import open_store
from nightrank.service.api import Api
from nightrank.service.exposure import check_address
from nightrank.service.holder import ReleaseHolder
from nightrank.service.jobs import Jobs
from nightrank.service.keys import Keys
from nightrank.service.live_index import index_opener
from nightrank.service.logs import join_serves_log
from nightrank.service.meters import Meters
from nightrank.service.partition import partition_deployments
from nightrank.service.prometheus import export
from nightrank.service.routes import build_api


@serve.deployment(user_config={"release": None})
@serve.ingress()
class Service:
    """A replica: holds a release by memory map and answers from it."""

    def __init__(self, args: ServiceArgs, partitions: Sequence[DeploymentHandle] = ()) -> None:
        join_serves_log()
        check_address(has_keys=args.keys is not None)
        keys = None if args.keys is None else Keys(Path(args.keys))
        meters = Meters(replica=serve.get_replica_context().replica_tag)
        export(meters)
        if keys is not None:
            keys.follow()
        opener = index_opener(args.live, partitions, threads=own_threads())
        self.holder = ReleaseHolder(open_store(args.store), open_index=opener, meters=meters)
        jobs = None if args.jobs is None else Jobs(args.jobs, told=self.holder.told)
        self.api = build_api(self.holder, limits=args.limits, keys=keys, meters=meters, jobs=jobs)

    def __serve_build_asgi_app__(self) -> Api:
        return self.api

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """{release: null} follows CURRENT, an id pins. The first call opens it.

        What is there by then stays for good, so the garbage collector need not look at it again: with all that Ray
        and numba bring, a full collection took 0.12 s, in which nobody is answered, and afterwards less than 1 ms.
        """
        self.holder.follow(service_user_config(user_config).release)
        gc.collect()
        gc.freeze()


def own_threads() -> int:
    """With how many threads this replica may rank one query: its whole CPUs, at least one."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0)))


def build(args: dict[str, Any]) -> Application:
    """The application for Serve, from the `args` of serve_config.yaml; unknown keys are refused by name.

    `live.placement: actors` adds a deployment for each share of the catalogue.
    """
    settings = service_args(args)
    application: Application = Service.bind(settings, partition_deployments(settings))  # type: ignore[attr-defined]
    return application
