"""Who can reach the service: beyond loopback it needs keys, in serve_config.yaml and in a replica of a cluster."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightrank.cluster.local import applied_env, local_cluster
from nightrank.errors import ClusterError, SettingsError
from nightrank.service.deploy import deploy
from nightrank.service.exposure import check_address, is_loopback, unreachable
from nightrank.service.key_file import add
from nightrank.service.serve_config import load_serve_config, read_serve_config

CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"
ALL = "0.0.0.0"  # noqa: S104  what is refused


def written(folder: Path, *, host: str, keys: Path | None = None, **options: Any) -> Path:
    """The shipped file with another host, a key file, and more http_options."""
    raw = copy.deepcopy(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))
    raw["http_options"].update(host=host, **options)
    raw["applications"][0]["args"]["keys"] = None if keys is None else str(keys)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "::1"])
def test_loopback_needs_no_key(tmp_path: Path, host: str) -> None:
    """A laptop's service is deployed as shipped."""
    assert is_loopback(host)
    assert load_serve_config(written(tmp_path, host=host)).host == host


REACHABLE = [
    ALL,
    "::",
    "192.168.1.4",
    "203.0.113.9",
    "::ffff:192.0.2.1",
    "fe80::1",
    "128.0.0.1",
    "127.1",
    "*",
]
NAMES = ["recommender.example", "localhost.example", "127.0.0.1.example", " 127.0.0.1"]


@pytest.mark.parametrize("host", [*REACHABLE, *NAMES])
def test_any_other_address_needs_a_key_file(tmp_path: Path, host: str) -> None:
    """Refused with the cure, by whoever reads the file; a name is not trusted to mean this machine."""
    assert not is_loopback(host)
    with pytest.raises(SettingsError) as caught:
        load_serve_config(written(tmp_path, host=host))
    told = str(caught.value)
    assert f"http_options.host: found {host} and no key file" in told
    assert "`nightrank keys add`" in told
    assert load_serve_config(written(tmp_path, host=host, keys=tmp_path / "keys.json")).host == host


def test_a_host_that_is_not_given_is_all_interfaces() -> None:
    """Serve's own default where a controller has none."""
    assert not is_loopback(None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ALL, "::", None])
def test_haproxy_reaches_these(host: str | None) -> None:
    """Its replicas listen on 127.0.0.1, among others."""
    assert unreachable(host, has_certificate=False) is None


@pytest.mark.parametrize("host", ["127.0.0.2", "192.168.1.4", "::1", "recommender.example"])
def test_what_haproxy_does_not_reach_is_refused(host: str) -> None:
    """Serve would call the service healthy while every request got a 500; so it is with a certificate."""
    told = unreachable(host, has_certificate=False)
    assert told is not None
    assert told.startswith(f"host: found {host}, where HAProxy does not reach")
    assert str(unreachable("127.0.0.1", has_certificate=True)).startswith("ssl_keyfile: Serve gives it")


def test_without_a_cluster_nothing_is_refused() -> None:
    """The application is made in tests and tools too: no Ray is started to ask, and nothing listens."""
    import ray

    check_address(has_keys=False)
    assert not ray.is_initialized()


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_serve_deploy_is_refused_with_the_reason(tmp_path: Path) -> None:
    """`serve deploy` does not read the file as we do: the replica itself asks Serve, and fails with the cure.

    The host of a cluster is that of its first deployment, so each case has its own.
    """
    (tmp_path / "store").mkdir()
    add(tmp_path / "keys.json", role="read")
    missing = tmp_path / "missing.json"
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"host": ALL}, f"http_options.host: found {ALL} and no key file"),
        ({"host": ALL, "keys": missing}, f"key file {missing}: it cannot be read .* `nightrank keys add` makes it"),
        ({"host": "127.0.0.1", "ssl_keyfile": "/k", "ssl_certfile": "/c"}, "http_options.ssl_keyfile: Serve"),
        ({"host": "127.0.0.2"}, "http_options.host: found 127.0.0.2, where HAProxy does not reach"),
        ({"host": ALL, "keys": tmp_path / "keys.json"}, None),
    ]  # fmt: skip
    for options, said in cases:
        with local_cluster(home=tmp_path / "home", num_cpus=1) as cluster, applied_env(cluster):
            where = {"dashboard_url": cluster.dashboard_url, "port": cluster.http_port}
            config = read_serve_config(written(tmp_path, **options))
            if said is None:
                assert deploy(config, store=str(tmp_path / "store"), **where).endswith(
                    f":{cluster.http_port}"
                )
                continue
            with pytest.raises(ClusterError, match=said):
                deploy(config, store=str(tmp_path / "store"), **where)
