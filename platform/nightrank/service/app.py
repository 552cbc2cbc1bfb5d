"""The Ray Serve application: one ingress deployment. `import_path` of serve_config.yaml names `build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from nightrank.config.service import ServiceArgs, service_args, service_user_config
from nightrank.release.store import open_store
from nightrank.service.api import Api
from nightrank.service.exposure import check_address
from nightrank.service.holder import ReleaseHolder
from nightrank.service.jobs import Jobs
from nightrank.service.keys import Keys
from nightrank.service.meters import Meters
from nightrank.service.routes import build_api


@serve.deployment(user_config={"release": None})
@serve.ingress()
class Service:
    """A replica: holds a release by memory map and answers from it."""

    def __init__(self, args: ServiceArgs) -> None:
        check_address(has_keys=args.keys is not None)
        keys = None if args.keys is None else Keys(Path(args.keys))
        meters = Meters()
        refreshed = [] if keys is None else [keys.refresh]
        self.holder = ReleaseHolder(open_store(args.store), meters=meters, every_second=refreshed)
        jobs = None if args.jobs is None else Jobs(args.jobs, told=self.holder.told)
        self.api = build_api(self.holder, limits=args.limits, keys=keys, meters=meters, jobs=jobs)

    def __serve_build_asgi_app__(self) -> Api:
        return self.api

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """{release: null} follows CURRENT, an id pins. The first call opens it."""
        self.holder.follow(service_user_config(user_config).release)


def build(args: dict[str, Any]) -> Application:
    """The application for Serve, from the `args` of serve_config.yaml; unknown keys are refused by name."""
    application: Application = Service.bind(service_args(args))  # type: ignore[attr-defined]
    return application
