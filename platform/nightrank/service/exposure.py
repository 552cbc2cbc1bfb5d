"""A service that other machines can reach needs API keys: without them it is not deployed, with the reason.

Asked twice, since `serve deploy` reads no settings of ours: by whoever reads serve_config.yaml, and by a replica,
which asks Serve on what address it really listens (the first deployment on a cluster decides that).
"""

from __future__ import annotations

import ipaddress

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


def require_keys(*, has_keys: bool) -> None:
    """In a replica: raise SettingsError where Serve answers beyond loopback and there are no keys.

    Blocks for two calls to Serve's controller. Without a controller nothing listens, so nothing is refused.
    """
    from ray.serve.context import (
        _get_global_client,  # the one place that knows; serve.status() has no address
    )

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    problem = exposed(client.http_config.host, has_keys=has_keys)
    if problem is not None:
        raise SettingsError(
            f"the service is not started. http_options.host: {problem} (Serve keeps the host of its first "
            "deployment until `serve shutdown`)"
        )
