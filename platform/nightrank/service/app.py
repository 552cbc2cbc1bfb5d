"""The Ray Serve application: one ingress deployment. `import_path` of serve_config.yaml names `build`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from nightrank.config.service import ServiceArgs, service_args, service_user_config
from nightrank.release.store import open_store
from nightrank.service.exposure import require_keys
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api


@serve.deployment(user_config={"release": None})
@serve.ingress()
class Service:
    """A replica: holds a release by memory map and answers from it."""

    def __init__(self, args: ServiceArgs) -> None:
        require_keys(has_keys=args.keys is not None)
        self.holder = ReleaseHolder(open_store(args.store))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self.holder)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """{release: null} follows CURRENT, an id pins. The first call opens it."""
        self.holder.follow(service_user_config(user_config).release)


def build(args: dict[str, Any]) -> Application:
    """The application for Serve, from the `args` of serve_config.yaml; unknown keys are refused by name."""
    application: Application = Service.bind(service_args(args))  # type: ignore[attr-defined]
    return application
