"""The Ray Serve application: one ingress deployment. `import_path` of serve_config.yaml names `build`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from nightrank.config.service import ServiceArgs, service_args, service_user_config
from nightrank.release.store import open_store
from nightrank.service.holder import ReleaseHolder
from nightrank.service.live_index import index_opener
from nightrank.service.partition import partition_deployments
from nightrank.service.routes import build_api


@serve.deployment(user_config={"release": None})
@serve.ingress()
class Service:
    """A replica: holds a release by memory map and answers from it."""

    def __init__(self, args: ServiceArgs, partitions: Sequence[DeploymentHandle] = ()) -> None:
        self.open_index = index_opener(args.live, partitions, threads=own_threads())
        self.holder = ReleaseHolder(open_store(args.store))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self.holder)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """{release: null} follows CURRENT, an id pins. The first call opens it."""
        self.holder.follow(service_user_config(user_config).release)


def own_threads() -> int:
    """With how many threads this replica may rank: its whole CPUs, at least one."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0)))


def build(args: dict[str, Any]) -> Application:
    """The application for Serve, from the `args` of serve_config.yaml; unknown keys are refused by name.

    `live.placement: actors` adds a deployment for each share of the catalogue.
    """
    settings = service_args(args)
    application: Application = Service.bind(settings, partition_deployments(settings))  # type: ignore[attr-defined]
    return application
