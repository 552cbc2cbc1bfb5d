"""Joining a Ray cluster as a driver, and running one task there with the resources of a kind of actor."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

import nightrank
from nightrank.config.cluster import ActorSpec
from nightrank.errors import ClusterError, NightrankError

Result = TypeVar("Result")


@contextlib.contextmanager
def joined(address: str | None = None) -> Iterator[None]:
    """Join the cluster at `address` (default: RAY_ADDRESS); leaves it at the end.

    The package travels with the driver, so that nodes need its dependencies but not nightrank itself, and
    always run the driver's version of it.
    Raises ClusterError where no cluster answers.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise ClusterError(
            "no Ray cluster: RAY_ADDRESS is not set; start one with `make cluster` and export the lines it "
            "prints, or submit the work with `ray job submit`"
        )
    _reachable(address)
    try:
        ray.init(
            address=address,
            runtime_env={"py_modules": [str(Path(nightrank.__file__).parent)]},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {error}. Is it running, and are RAY_AUTH_MODE and "
            "RAY_AUTH_TOKEN_PATH those that it was started with?"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reachable(address: str) -> None:
    """Ray would try a dead host:port for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}); is it running, and is RAY_ADDRESS up to date?"
        ) from None


def options(spec: ActorSpec) -> dict[str, Any]:
    """The resources of a kind of actor as Ray's options."""
    return {"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus, "memory": spec.memory}


def threads(spec: ActorSpec) -> int:
    """How many threads an actor of this kind may keep busy: its CPUs, at least one."""
    return max(1, int(spec.num_cpus))


def run_task(function: Callable[..., Result], *args: Any, spec: ActorSpec) -> Result:
    """Run a function as one task on the cluster; nightrank's own errors come back as they were raised."""
    remote = ray.remote(function).options(**options(spec))
    with translated(function.__name__.strip("_")):
        result: Result = ray.get(remote.remote(*args))
    return result


@contextlib.contextmanager
def translated(work: str) -> Iterator[None]:
    """Errors of tasks and actors as our own: one of nightrank's as it was raised, others in one line."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        last = cause
        while cause is not None:
            if isinstance(cause, NightrankError) and not isinstance(cause, RayError):
                raise cause from None  # Ray's own error of a task is an instance of both; its text is a trace
            last, cause = cause, getattr(cause, "cause", None) or cause.__cause__
        reason = str(last).strip().splitlines()[-1:] or [type(last).__name__]
        raise ClusterError(
            f"{work} failed on the cluster: {type(last).__name__}: {reason[0]}; mend that and run the same command "
            "again, it goes on where it stopped"
        ) from error
