"""A service that other machines can reach needs API keys: without them it is not deployed, and says why.

Asked twice, since `serve deploy` reads no settings of ours: by whoever reads serve_config.yaml, and by a replica,
which asks Serve on what address it really listens (the first deployment on a cluster decides that).
"""

from __future__ import annotations

import ipaddress
import os

import ray
from ray._common.network_utils import get_localhost_ip  # what HAProxy's manager asks
from ray.serve.context import _get_global_client  # serve.status(), which is public, has no address

from nightrank.errors import SettingsError


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches `host`: localhost, 127.0.0.0/8 or ::1.

    Any other name counts as reachable whatever it resolves to here; so does None, where Serve takes all interfaces.
    """
    if host is None:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposed(host: str | None, *, has_keys: bool) -> str | None:
    """What is wrong with answering on `host`, and what to do; None where nothing is."""
    if has_keys or is_loopback(host):
        return None
    found = "all interfaces" if host is None else host
    return (
        f"found {found} and no key file: everybody who reaches that address could read every user's list. Make a "
        "key with `nightrank keys add`, name its file in the application's args.keys; or write host: 127.0.0.1"
    )


def unreachable(host: str | None, *, has_certificate: bool) -> str | None:
    """Why HAProxy would answer every request with 500 while Serve calls the service healthy; None where not.

    Serve 2.60 binds the replicas, too, to `host` and gives them the certificate; HAProxy always asks those of its own
    node at 127.0.0.1, in the clear.
    """
    if has_certificate:
        return (
            "ssl_keyfile: Serve gives it to replicas but not to HAProxy, which would answer every request with 500; "
            "remove it, and put a proxy that speaks TLS in front"
        )
    if host is None or host.lower() in {"localhost", "0.0.0.0", "::", get_localhost_ip()}:  # noqa: S104  compared
        return None
    return (
        f"host: found {host}, where HAProxy does not reach the replicas of its own node: it would answer each "
        "request with 500. Write 127.0.0.1, or 0.0.0.0 and a firewall"
    )


def check_address(*, has_keys: bool) -> None:
    """In a replica: raise SettingsError where Serve answers beyond loopback without keys, or could not answer at all.

    Blocks for two calls to Serve's controller. Where Ray or the controller is not there nothing listens, and nothing
    is refused.
    """
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    if client is None:
        return
    options = client.http_config
    problem = exposed(options.host, has_keys=has_keys)
    if problem is not None:
        problem = f"host: {problem} (Serve keeps the host of its first deployment until `serve shutdown`)"
    elif os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        problem = unreachable(options.host, has_certificate=options.ssl_keyfile is not None)
    if problem is not None:
        raise SettingsError(f"the service is not started. http_options.{problem}")
