"""serve_config.yaml: valid for Ray, stricter than Ray, equal to cluster.yaml where both say the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightrank.config.cluster import load_cluster
from nightrank.config.service import ServiceArgs, service_args, service_resources_equal, service_user_config
from nightrank.errors import SettingsError
from nightrank.service.serve_config import load_serve_config, with_partitions

ROOT = Path(__file__).resolve().parent.parent
RAW = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))


def edited(path: str, value: Any) -> dict[str, Any]:
    """The shipped file with one value set; `app` and `deployment` stand for ours."""
    raw = copy.deepcopy(RAW)
    parts = path.split(".")
    application = raw["applications"][0]
    place = {"app": application, "deployment": application["deployments"][0]}.get(parts[0], raw)
    for part in parts[1 if place is not raw else 0 : -1]:
        place = place.setdefault(part, {})
    place[parts[-1]] = value
    return raw


def loaded(tmp_path: Path, raw: dict[str, Any]) -> Any:
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_serve_config(path)


def refusal(tmp_path: Path, raw: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, raw)
    assert str(tmp_path / "serve_config.yaml") in str(caught.value)
    return str(caught.value)


def test_the_shipped_file_is_valid_and_bound_to_loopback(monkeypatch):
    """The file that users deploy passes Ray's schema and ours, on 127.0.0.1, following CURRENT."""
    monkeypatch.setenv("NIGHTRANK_HOME", "/srv/nightrank")
    config = load_serve_config(ROOT / "serve_config.yaml")
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.args.store == "/srv/nightrank/store"
    assert config.user_config.release is None
    assert config.raw == RAW


def test_both_files_give_the_service_the_same_resources():
    """serve_config.yaml repeats cluster.yaml's figures, as Serve reads its own file; no drift."""
    config = load_serve_config(ROOT / "serve_config.yaml")
    assert service_resources_equal(load_cluster(ROOT / "cluster.yaml"), config) == []


@pytest.mark.parametrize(
    ("path", "value", "differing"),
    [
        ("deployment.ray_actor_options.num_cpus", 1, ["num_cpus"]),
        ("deployment.ray_actor_options", {}, ["num_cpus", "memory"]),
        ("deployment.ray_actor_options.num_gpus", 1, ["num_gpus"]),
        ("deployment.ray_actor_options.memory", 1, ["memory"]),
        ("deployment.autoscaling_config.min_replicas", 1, ["min_count"]),
        ("deployment.autoscaling_config", {}, ["min_count", "max_count"]),
    ],
)
def test_a_difference_in_resources_is_told(tmp_path, path, value, differing):
    """Each figure that differs is named with both values; what is left out counts as Serve's default."""
    told = service_resources_equal(load_cluster(ROOT / "cluster.yaml"), loaded(tmp_path, edited(path, value)))
    assert [line.split()[1].rstrip(":") for line in told] == differing


@pytest.mark.parametrize(("replicas", "counts"), [(4, (4, 4)), ("auto", (1, 100)), (None, (1, 1))])
def test_without_autoscaling_the_replicas_are_both_counts(tmp_path, replicas, counts):
    """min_count and max_count are the fixed number, or what Serve takes `auto` and nothing at all to mean."""
    raw = edited("deployment.num_replicas", replicas)
    del raw["applications"][0]["deployments"][0]["autoscaling_config"]
    if replicas is None:
        del raw["applications"][0]["deployments"][0]["num_replicas"]
    resources = loaded(tmp_path, raw).resources
    assert (resources.min_count, resources.max_count) == counts


def test_autoscaling_bounds_are_the_counts(tmp_path):
    """With autoscaling, min_count and max_count are its two bounds."""
    raw = edited("deployment.autoscaling_config", {"min_replicas": 2, "max_replicas": 5})
    resources = loaded(tmp_path, raw).resources
    assert (resources.min_count, resources.max_count) == (2, 5)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("proxy_locaton", "proxy_location"),
        ("http_options.prot", "port"),
        ("logging_config.enable_acess_log", "enable_access_log"),
        ("app.rout_prefix", "route_prefix"),
        ("app.args.stroe", "store"),
        ("deployment.max_ongoing_request", "max_ongoing_requests"),
        ("deployment.user_config.relase", "release"),
        ("deployment.ray_actor_options.num_cpu", "num_cpus"),
        ("deployment.autoscaling_config.max_replica", "max_replicas"),
        ("deployment.backpressure_config.status_cod", "status_code"),
        ("deployment.logging_config.log_levle", "log_level"),
    ],
)
def test_a_typo_is_refused_at_every_level(tmp_path, path, nearest):
    """Ray reads all of these files without a word and runs on defaults."""
    message = refusal(tmp_path, edited(path, 1))
    assert f"{path.split('.')[-1]}: unknown key (found 1); did you mean {nearest}" in message


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("http_options.port", "8000", 'http_options.port: found "8000", expected a whole number'),
        ("deployment.ray_actor_options.memory", "1GiB", 'ray_actor_options.memory: found "1GiB"'),
        ("deployment.max_queued_requests", 2.5, "max_queued_requests: found 2.5"),
        ("deployment.health_check_period_s", 0, "health_check_period_s: found 0, expected more than 0"),
        ("deployment.num_replicas", 2, "num_replicas is not allowed when autoscaling_config is provided"),
        ("proxy_location", "Everywhere", 'proxy_location: found "Everywhere"'),
        ("deployment.name", "Servce", 'deployments[0].name: found "Servce", which is no deployment'),
        ("app.args.keys", "f", 'applications[0].args.keys: found the relative path "f"; a replica starts in no'),
        ("app.args.live", {"partitions": 0}, "args.live.partitions: found 0, expected at least 1"),
        ("app.args.live", {"placement": "gpu"}, "args.live.placement: "),
        ("app.args.jobs", {"config": "/j"}, "args.jobs.address: missing"),
        ("app.args.jobs", {"address": "head", "config": "/j"}, "args.jobs.address: "),
        ("app.args.limits", {"k": 0}, "args.limits.k: found 0, expected at least 1"),
        ("app.args.store", "relative", 'applications[0].args.store: found the relative path "relative"'),
        ("app.args.store", "gs://b/p", "a store is a local path or s3://bucket/prefix"),
        ("deployment.user_config", {"release": 3}, "user_config.release: found 3, expected a text"),
        ("http_options.host", "${HOST}", 'http_options.host: found "${HOST}"; variables work in'),
        ("deployment.user_config", {"release": "${R}"}, 'user_config.release: found "${R}"; variables'),
        ("app.import_path", "other:app", "found 0 applications of nightrank"),
        ("app.deployments", [], "found 0 deployments named Service"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(tmp_path, path, value, said):
    """Types are not coerced, variables refused where nobody expands them, our application must be there."""
    assert said in refusal(tmp_path, edited(path, value))


@pytest.mark.parametrize("options", [None, {}, {"port": 8000}, {"host": None}])
def test_a_host_must_be_given(tmp_path, options):
    """Without http_options.host Serve listens on every interface of the machine."""
    raw = copy.deepcopy(RAW)
    raw["http_options"] = options
    if options is None:
        del raw["http_options"]
    assert "http_options.host: missing; Serve would listen on all interfaces" in refusal(tmp_path, raw)


def test_every_problem_is_listed_once(tmp_path):
    """Several mistakes take one run to find, and one mistake is told once."""
    raw = edited("logging_config.lg", 1)
    raw["http_options"] = {"prot": 1}
    message = refusal(tmp_path, raw)
    assert "3 problems" in message
    assert message.count("logging_config.lg") == 1


def test_other_applications_may_stand_beside_ours(tmp_path):
    """The file is Serve's whole state: somebody else's application in it is not our business."""
    raw = copy.deepcopy(RAW)
    other = {"name": "other", "route_prefix": "/other", "import_path": "other:app", "args": {"anything": 1}}
    raw["applications"].insert(0, other)
    assert loaded(tmp_path, raw).resources.num_cpus == 0.125


def test_service_args_default_and_expand(monkeypatch, tmp_path):
    """An application without args uses the same store as everything else; a variable must be set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NIGHTRANK_HOME", raising=False)
    assert service_args({}) == ServiceArgs() == ServiceArgs(store=str(tmp_path / ".nightrank/store"))
    assert service_args({"store": "${A_STORE:-/x}/y"}).store == "/x/y"
    with pytest.raises(SettingsError, match=r"args\.store: .*A_STORE is not set"):
        service_args({"store": "${A_STORE}"})


def test_user_config_pins_or_follows():
    """No user_config and a null release both follow CURRENT; an id pins; an empty id is a mistake."""
    assert service_user_config(None).release is None
    assert service_user_config({"release": None}).release is None
    assert service_user_config({"release": "r1"}).release == "r1"
    with pytest.raises(SettingsError, match=r"user_config\.release"):
        service_user_config({"release": ""})


def test_the_file_is_found_here_then_in_the_package(tmp_path, monkeypatch):
    """The same search order as cluster.yaml's."""
    monkeypatch.chdir(tmp_path)
    assert load_serve_config().raw == RAW
    (tmp_path / "serve_config.yaml").write_text(
        yaml.safe_dump(edited("http_options.port", 8123)), encoding="utf-8"
    )
    assert load_serve_config().port == 8123


# Live partitions


def with_actors(partitions: int, *entries: dict[str, Any]) -> dict[str, Any]:
    """The shipped file with the catalogue in deployments of their own, and these entries for some."""
    raw = edited("app.args.live", {"partitions": partitions, "placement": "actors"})
    raw["applications"][0]["deployments"] += entries
    return raw


def test_partitions_may_have_entries_of_their_own(tmp_path):
    """Replicas and resources of a partition can be set as of any deployment; what is not listed counts one."""
    options = {"num_cpus": 0.1, "memory": 268435456}
    entry = {"name": "Partition1", "num_replicas": 2, "ray_actor_options": options}
    config = loaded(tmp_path, with_actors(3, entry))
    assert config.partition_replicas() == 4
    assert config.partitions["Partition1"].resources == {"num_cpus": 0.1, "num_gpus": 0, "memory": 268435456}
    assert load_serve_config(ROOT / "serve_config.yaml").partition_replicas() == 0


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"name": "Partition2"}], 'deployments[1].name: found "Partition2", which is no deployment; did you mean'),
        ([{"name": "partition0"}], "did you mean Partition0"),
        ([{"name": "Partition0"}, {"name": "Partition0"}], 'deployments[2].name: found "Partition0" twice'),
        ([{"name": "Partition0", "user_config": {}}], "deployments[1].user_config: found {}; a partition takes none"),
    ],
)  # fmt: skip
def test_entries_that_fit_no_partition_are_refused(tmp_path, entries, said):
    """Ray would refuse them on the cluster only, or a replica fail to start."""
    assert said in refusal(tmp_path, with_actors(2, *entries))


def test_an_entry_without_partitions_says_why(tmp_path):
    """In one process there is none: the message has the setting that would make one."""
    raw = copy.deepcopy(RAW)
    raw["applications"][0]["deployments"].append({"name": "Partition0"})
    assert "live.partitions is 1, live.placement process" in refusal(tmp_path, raw)


def test_partitions_beyond_cluster_yaml_are_told(tmp_path):
    """max_count of `partition` holds for all of them, and an entry's figures are cluster.yaml's."""
    actors = load_cluster(ROOT / "cluster.yaml")
    assert service_resources_equal(actors, loaded(tmp_path, with_actors(2))) == []
    (line,) = service_resources_equal(actors, loaded(tmp_path, with_actors(3)))
    assert "partition max_count: cluster.yaml says 2" in line
    assert "starts 3 (live.partitions 3, placement actors)" in line
    other = {"name": "Partition0", "ray_actor_options": {"num_cpus": 1, "memory": 268435456}}
    (line,) = service_resources_equal(actors, loaded(tmp_path, with_actors(2, other)))
    assert line.startswith("Partition0 num_cpus: cluster.yaml says 0.1")


def test_a_deployment_from_here_carries_the_figures_of_this_cluster_yaml(tmp_path):
    """Where the application is built there may be another cluster.yaml; what the file says itself goes before."""
    spec = load_cluster(ROOT / "cluster.yaml").partition
    own = {"name": "Partition1", "ray_actor_options": {"num_cpus": 2}}
    entries = with_partitions(loaded(tmp_path, with_actors(2, own)), spec)
    assert [entry["name"] for entry in entries] == ["Service", "Partition1", "Partition0"]
    assert entries[1]["ray_actor_options"] == {"num_cpus": 2}
    assert entries[2]["ray_actor_options"] == {"num_cpus": 0.1, "num_gpus": 0, "memory": 268435456}
    assert with_partitions(loaded(tmp_path, RAW), spec) == RAW["applications"][0]["deployments"]
