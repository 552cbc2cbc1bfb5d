"""The local cluster: ports nobody else has, nothing left behind, clients that need `env` alone."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from nightrank.cluster import haproxy, node, node_env, ports, supervisor
from nightrank.cluster.local import LocalCluster, applied_env, local_cluster, run_foreground
from nightrank.errors import ClusterError

# A child that outlives its parent, in a session of its own and deaf to SIGTERM: what HAProxy can become.
ORPHAN = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("orphan", "w").write(str(os.getpid()))
    time.sleep(600)
while not os.path.exists("orphan") or not open("orphan").read():
    time.sleep(0.01)
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a child subreaper, or HAProxy")


def eventually(check: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server.getsockname()[1]


def unused_port() -> int:
    """Outside the kernel's ephemeral range, Ray's workers' and our own blocks: nobody takes it by chance."""
    while not ports.is_free(port := random.randrange(31_100, 32_700)):
        pass
    return port


class TestPorts:
    def test_preferred_ports_are_taken_where_free(self) -> None:
        """Users type 8000 and 8265 by hand: they get them whenever possible."""
        wanted = unused_port()
        chosen = ports.reserve(http_port=wanted, dashboard_port=unused_port())
        try:
            assert chosen.http == wanted
            assert ports.is_free(wanted)  # held against other clusters, free for Serve to bind
        finally:
            chosen.release()

    def test_a_listener_moves_the_port(self) -> None:
        """Somebody else's server on a preferred port is no reason to fail."""
        with listening() as busy:
            chosen = ports.reserve(http_port=busy, dashboard_port=busy)
            try:
                assert busy not in chosen.singles()
            finally:
                chosen.release()

    def test_two_clusters_share_no_port(self) -> None:
        """Serve binds its port long after the start: a probe alone would give both clusters the same one."""
        wanted, other = unused_port(), unused_port()
        first = ports.reserve(http_port=wanted, dashboard_port=other)
        second = ports.reserve(http_port=wanted, dashboard_port=other)
        try:
            numbers = [
                *first.singles(), *first.replicas_http, *first.replicas_grpc,
                *second.singles(), *second.replicas_http, *second.replicas_grpc,
            ]  # fmt: skip
            assert len(numbers) == len(set(numbers))
        finally:
            first.release()
            second.release()
        again = ports.reserve(http_port=wanted, dashboard_port=other)
        again.release()
        assert again.http == wanted

    def test_no_block_left_is_a_cluster_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host full of listeners is reported by name, not as an IndexError."""
        monkeypatch.setattr(ports, "is_free", lambda port: False)
        with pytest.raises(ClusterError, match="found no free block"):
            ports.reserve(http_port=1, dashboard_port=2)


class TestSupervisor:
    def start(self, folder: Path, code: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, str(folder), folder.name, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, supervisor.ID_VARIABLE: folder.name},
        )

    def test_end_of_the_command_ends_its_orphans(self, tmp_path: Path) -> None:
        """Ray dying by itself leaves no worker behind, and its exit code is told."""
        folder = tmp_path / f"nr-test-{uuid4().hex}"  # the name is the mark: unique among test runs, too
        folder.mkdir()
        process = self.start(folder, ORPHAN + "raise SystemExit(7)")
        assert process.stdout is not None
        assert process.stdout.readline() == b"7\n"
        assert is_gone(int((folder / "orphan").read_text()))
        process.communicate()
        assert not folder.exists()

    @linux_only
    def test_an_orphan_without_the_mark_is_found_by_adoption(self, tmp_path: Path) -> None:
        """A process that cleaned its environment is still ours."""
        folder = tmp_path / f"nr-test-{uuid4().hex}"  # the name is the mark: unique among test runs, too
        folder.mkdir()
        code = ORPHAN + "time.sleep(600)"
        clean = f"import os, sys; os.execve(sys.executable, [sys.executable, '-c', {code!r}], {{}})"
        process = self.start(folder, clean)
        eventually(lambda: (folder / "orphan").exists() and (folder / "orphan").read_text())
        orphan = int((folder / "orphan").read_text())
        process.communicate(b"stop\n")
        assert is_gone(orphan)

    def test_a_killed_owner_leaves_nothing(self, tmp_path: Path) -> None:
        """SIGKILL of the process that asked is no way to leak a cluster."""
        folder = tmp_path / f"nr-test-{uuid4().hex}"  # the name is the mark: unique among test runs, too
        folder.mkdir()
        owner = subprocess.Popen(
            [
                sys.executable, "-c",
                "import subprocess, sys, time\n"
                "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
                "time.sleep(600)",
                sys.executable, "-P", supervisor.__file__, str(folder), folder.name,
                sys.executable, "-c", ORPHAN + "time.sleep(600)",
            ],
            cwd=folder,
            env={**os.environ, supervisor.ID_VARIABLE: folder.name},
        )  # fmt: skip
        eventually(lambda: (folder / "orphan").exists() and (folder / "orphan").read_text())
        orphan = int((folder / "orphan").read_text())
        owner.kill()
        owner.wait()
        eventually(lambda: not folder.exists())
        assert is_gone(orphan)

    def test_only_marked_processes_end(self) -> None:
        """Another cluster of the same user survives."""
        mark = f"nr-test-{uuid4().hex}"
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        ours = subprocess.Popen(sleeper, env={**os.environ, supervisor.ID_VARIABLE: mark})
        theirs = subprocess.Popen(sleeper, env={**os.environ, supervisor.ID_VARIABLE: f"{mark}-not"})
        try:
            assert supervisor.end(mark) == []
            assert ours.wait(5) != 0
            assert theirs.poll() is None
        finally:
            theirs.kill()
            theirs.wait()


class TestStart:
    def fake(self, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        ready = "import os; os.mkdir('ray'); open('ray/ray_current_cluster', 'w').close()\n"
        monkeypatch.setattr(node, "_ray_start", lambda *_, **__: [sys.executable, "-c", ready + code])

    def test_failure_tells_rays_words_and_leaves_only_logs(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """What Ray said must reach the user, since its folder is gone afterwards."""
        self.fake(monkeypatch, "print('no such plasma'); raise SystemExit(7)")
        with (
            pytest.raises(ClusterError, match=r"(?s)exit code 7.*no such plasma"),
            local_cluster(home=tmp_path),
        ):
            pytest.fail("it did not start")
        (log,) = tmp_path.glob(f"logs/*/{supervisor.NODE_LOG}")
        assert not Path("/tmp", log.parent.name.partition("Z-")[2]).exists()
        assert "no such plasma" in log.read_text()

    def test_a_stolen_port_is_tried_once_more(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Between the choice of a port and Ray's bind somebody else may take it."""
        stack = contextlib.ExitStack()
        tried = []

        def steal(_: Path, chosen: ports.Ports, **__: object) -> list[str]:
            tried.append(chosen.gcs)
            if len(tried) == 1:
                stack.enter_context(listening(chosen.gcs))
            ready = "import os, time; os.mkdir('ray'); open('ray/ray_current_cluster', 'w').close()\n"
            return [sys.executable, "-c", "" if len(tried) == 1 else ready + "time.sleep(600)"]

        monkeypatch.setattr(node, "_ray_start", steal)
        monkeypatch.setattr(node, "_is_healthy", lambda *_: len(tried) == 2)
        with stack, local_cluster(home=tmp_path) as cluster:
            assert cluster.address == f"127.0.0.1:{tried[1]}"
            assert tried[0] != tried[1]

    def test_an_exception_in_the_body_ends_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A failing demo must not leave a cluster; the token is readable by its owner only."""
        self.fake(monkeypatch, "import time; time.sleep(600)")
        monkeypatch.setattr(node, "_is_healthy", lambda *_: True)
        before = dict(os.environ)
        seen: list[LocalCluster] = []
        with pytest.raises(KeyboardInterrupt):
            self.interrupted(tmp_path, seen)
        assert not Path(seen[0].env["RAY_AUTH_TOKEN_PATH"]).parent.exists()
        assert dict(os.environ) == before

    def interrupted(self, home: Path, seen: list[LocalCluster]) -> None:
        before = dict(os.environ)
        with local_cluster(home=home) as cluster:
            seen.append(cluster)
            token = Path(cluster.env["RAY_AUTH_TOKEN_PATH"])
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
            assert dict(os.environ) == before
            raise KeyboardInterrupt

    def test_ray_dying_under_the_foreground_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """`make cluster` does not sit on a dead cluster."""
        self.fake(monkeypatch, "import time; time.sleep(1); raise SystemExit(3)")
        monkeypatch.setattr(node, "_is_healthy", lambda *_: True)
        with pytest.raises(ClusterError, match="ended by itself with exit code 3"):
            run_foreground(home=tmp_path)
        (kept,) = tmp_path.glob("logs/*")
        assert not Path("/tmp", kept.name.partition("Z-")[2]).exists()


class TestEnvironment:
    def test_another_cluster_in_the_callers_shell_is_ignored(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """An exported RAY_ADDRESS, or a token that wins over the token's path, reaches neither side."""
        monkeypatch.setenv("RAY_ADDRESS", "198.51.100.7:6379")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        monkeypatch.setenv("PYTHONPATH", "platform")
        chosen = ports.reserve(http_port=unused_port(), dashboard_port=unused_port())
        chosen.release()
        client = node_env.client_env(tmp_path, chosen, home=tmp_path, serve={})
        env = node_env.node_env(client, chosen, cluster_id="nr-x", id_variable="MARK")
        assert "RAY_ADDRESS" not in env
        assert "RAY_AUTH_TOKEN" not in env
        assert env["MARK"] == "nr-x"
        assert env["PYTHONPATH"] == str(Path("platform").absolute())
        cluster = LocalCluster(
            client["RAY_ADDRESS"], client["RAY_DASHBOARD_ADDRESS"], chosen.http, "proxy", client
        )
        with applied_env(cluster):
            assert os.environ["RAY_ADDRESS"] == f"127.0.0.1:{chosen.gcs}"
            assert "RAY_AUTH_TOKEN" not in os.environ
        assert os.environ["RAY_ADDRESS"] == "198.51.100.7:6379"

    def test_a_web_proxy_is_not_asked_for_loopback(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Behind a company's proxy `ray job submit` would send the token there."""
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", "example.com")
        chosen = ports.reserve(http_port=unused_port(), dashboard_port=unused_port())
        chosen.release()
        env = node_env.client_env(tmp_path, chosen, home=tmp_path, serve={})
        assert env["NO_PROXY"] == "example.com,127.0.0.1,localhost"

    def test_haproxy_pages_move_to_loopback(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """HAProxy's statistics have no password, and Ray binds them on every interface."""
        monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "21011")
        monkeypatch.delenv("RAY_SERVE_HAPROXY_METRICS_PORT", raising=False)
        config = tmp_path / "haproxy.cfg"
        config.write_text("    bind :9101\n    bind *:8000\n  bind *:21011\n  bind *:210110\n")
        for _ in range(2):  # HAProxy starts anew with the same file
            haproxy.correct(config)
            assert config.read_text().split("\n")[:4] == [
                "    bind 127.0.0.1:9101",
                "    bind *:8000",
                "  bind 127.0.0.1:21011",
                "  bind *:210110",
            ]

    @linux_only
    def test_our_haproxy_is_haproxy(self) -> None:
        """Serve starts it by path, with its own path in the environment; it must become the real one."""
        env = node_env.loopback_haproxy()
        assert set(env) == {haproxy.BINARY_VARIABLE}
        told = subprocess.run(
            [env[haproxy.BINARY_VARIABLE], "-v"], env={**os.environ, **env}, capture_output=True, check=True
        )
        assert told.stdout.startswith(b"HAProxy version")


def ask(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return bytes(answer.read())


SERVE = """
import sys
from ray import serve
@serve.deployment(ray_actor_options={"num_cpus": 0})
class Home:
    def __call__(self, request):
        import os
        return os.environ["NIGHTRANK_HOME"]
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Home.bind())
"""

FOREGROUND = """
import sys
from pathlib import Path
from nightrank.cluster.local import run_foreground
http_port, dashboard_port = map(int, sys.argv[2:])
run_foreground(home=Path(sys.argv[1]), http_port=http_port, dashboard_port=dashboard_port, num_cpus=1)
"""


@pytest.mark.ray
def test_two_clusters_at_once_serve_and_leave_nothing(tmp_path: Path) -> None:
    """Start, serve through the ingress, stop by leaving the block and by SIGTERM: nothing stays."""
    import ray

    user_home = tmp_path / "user"
    user_home.mkdir()
    src = str(Path(supervisor.__file__).parents[2])
    env = {**os.environ, "HOME": str(user_home), "RAY_ADDRESS": "198.51.100.7:6379", "PYTHONPATH": src}
    chosen = {"http_port": unused_port(), "dashboard_port": unused_port()}
    with local_cluster(home=tmp_path / "a", num_cpus=1, **chosen) as first:
        command = [sys.executable, "-c", FOREGROUND, str(tmp_path / "b")]
        taken = [str(first.http_port), first.dashboard_url.rpartition(":")[2]]
        with subprocess.Popen([*command, *taken], env=env, stdout=subprocess.PIPE, text=True) as foreground:
            second = read_exports(foreground)
            assert second["NIGHTRANK_HTTP_PORT"] not in taken
            for cluster_env in (first.env, second):
                cluster = LocalCluster(cluster_env["RAY_ADDRESS"], "", 0, "proxy", cluster_env)
                with applied_env(cluster):  # the second proves that the first one's token is forgotten
                    ray.init(log_to_driver=False, configure_logging=False)
                    assert ray.get_runtime_context().gcs_address == cluster_env["RAY_ADDRESS"]
                    ray.shutdown()
            port = second["NIGHTRANK_HTTP_PORT"]
            clean = {name: value for name, value in env.items() if name not in node_env.FOREIGN}
            subprocess.run(
                [sys.executable, "-c", SERVE, port], env={**clean, **second}, check=True, capture_output=True
            )
            assert ask(f"http://127.0.0.1:{port}/") == str(tmp_path / "b").encode()
            ids = [Path(one["RAY_TMPDIR"]).name for one in (first.env, second)]
            assert all(supervisor.members(one) for one in ids)
            foreground.send_signal(signal.SIGTERM)
            assert foreground.wait(30) == 0
            assert supervisor.members(ids[1]) == []
            assert supervisor.members(ids[0]) != []
    assert supervisor.members(ids[0]) == []
    assert not any(Path("/tmp", one).exists() for one in ids)
    assert all(ports.is_free(port) for port in chosen.values())
    assert list(user_home.iterdir()) == []


def read_exports(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            found[name] = value
            if name == "NIGHTRANK_HTTP_PORT":  # the last one
                break
    return found
