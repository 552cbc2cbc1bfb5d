"""cluster.yaml: the table of actors, what is refused, Ray's own validation, the sums that keep it alive."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import pytest
import yaml

from nightrank.config.cluster import ActorTable, load_cluster
from nightrank.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
RAW = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
CPUS, MEMORY_BYTES = 2.0, 4 * 2**30  # the smallest machine promised, and what Ray offers there as `memory`
RAY_DATA_CPUS = 0.25  # what the score stage gives to Ray Data's own read and write tasks


def written(tmp_path: Path, raw: object) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def changed(**actors: object) -> dict[str, object]:
    raw = copy.deepcopy(RAW)
    for kind, figures in actors.items():
        raw["metadata"]["actors"][kind] = figures
    return raw


def refusal(tmp_path: Path, raw: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_cluster(written(tmp_path, raw))
    assert str(tmp_path / "cluster.yaml") in str(caught.value)
    return str(caught.value)


def test_nothing_deadlocks_on_two_cpus():
    """Service, driver, partitions and Ray Data's tasks leave room for every stage's actors at their most."""
    specs = load_cluster(ROOT / "cluster.yaml").specs()
    always = ("service", "driver", "partition")
    for stage in ("tune_trial", "trainer", "scorer"):
        kinds = [specs[kind] for kind in (*always, stage)]
        assert sum(spec.num_cpus * spec.max_count for spec in kinds) + RAY_DATA_CPUS <= CPUS, stage
        assert sum(spec.memory * spec.max_count for spec in kinds) <= MEMORY_BYTES, stage
    assert all(spec.num_gpus == 0 for spec in specs.values())
    assert all(
        specs[kind].min_count >= 1 for kind in ("driver", "tune_trial", "trainer", "scorer", "service")
    )


def test_ray_up_accepts_the_file():
    """`ray up` runs these two functions on the file before it does anything."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    prepared = util.prepare_config(copy.deepcopy(RAW))
    util.validate_config(prepared)
    assert prepared["metadata"] == RAW["metadata"]
    assert prepared["available_node_types"]["local.cluster.node"]["max_workers"] == 0


def test_the_start_commands_use_options_ray_has():
    """Every option of the `ray start` and token lines exists in this Ray; the head stays on loopback."""
    scripts = pytest.importorskip("ray.scripts.scripts")
    lines = RAW["head_start_ray_commands"] + RAW["worker_start_ray_commands"] + RAW["head_setup_commands"]
    seen = 0
    for words in (shlex.split(line) for line in lines):
        for name in ("start", "get-auth-token"):
            if name in words:
                known = {option for param in scripts.cli.commands[name].params for option in param.opts}
                used = {word.split("=")[0] for word in words[words.index(name) :] if word.startswith("--")}
                assert used <= known
                seen += 1
    assert seen == 3
    head = RAW["head_start_ray_commands"][-1].split()
    assert {"--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "RAY_AUTH_MODE=token"} <= set(head)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"num_cpus": -1}, "metadata.actors.scorer.num_cpus: found -1, expected at least 0"),
        ({"num_cpus": "1"}, 'metadata.actors.scorer.num_cpus: found "1", expected a number'),
        ({"memory": 1.5}, "metadata.actors.scorer.memory: found 1.5, expected a whole number"),
        ({"memory": "1GiB"}, "metadata.actors.scorer.memory: found \"1GiB\""),
        ({"max_count": 0}, "metadata.actors.scorer.max_count: found 0, expected at least 1"),
        ({"min_count": 3}, "metadata.actors.scorer.max_count: found 2, expected at least min_count"),
        ({"min_count": -1}, "metadata.actors.scorer.min_count: found -1"),
        ({"num_gpus": 1}, "metadata.actors.scorer.num_gpus: found 1.0, expected 0"),
        ({"num_cpu": 1}, "metadata.actors.scorer.num_cpu: unknown key (found 1); did you mean num_cpus"),
    ],
)  # fmt: skip
def test_wrong_figures_are_refused_by_name(tmp_path, figures, said):
    """A mistake in the table names file, actor, figure, value and what was expected."""
    assert said in refusal(tmp_path, changed(scorer={**RAW["metadata"]["actors"]["scorer"], **figures}))


@pytest.mark.parametrize("kind", sorted(ActorTable.model_fields))
def test_every_kind_is_required(tmp_path, kind):
    """No kind of actor runs on a default that nobody chose."""
    raw = copy.deepcopy(RAW)
    del raw["metadata"]["actors"][kind]
    assert f"metadata.actors.{kind}: missing" in refusal(tmp_path, raw)


@pytest.mark.parametrize("figure", ["num_cpus", "num_gpus", "memory", "min_count", "max_count"])
def test_every_figure_is_required(tmp_path, figure):
    """The same for each figure of a kind."""
    figures = {key: value for key, value in RAW["metadata"]["actors"]["trainer"].items() if key != figure}
    assert f"metadata.actors.trainer.{figure}: missing" in refusal(tmp_path, changed(trainer=figures))


def test_unknown_kinds_name_the_nearest(tmp_path):
    """A mistyped kind cannot leave the real one on old figures."""
    message = refusal(tmp_path, changed(trainers=RAW["metadata"]["actors"]["trainer"]))
    assert "metadata.actors.trainers: unknown key" in message
    assert "did you mean trainer" in message


def test_files_without_our_table_are_refused(tmp_path):
    """Another project's cluster.yaml in the working directory is named, not guessed around."""
    other = {key: value for key, value in RAW.items() if key != "metadata"}
    assert "metadata: missing" in refusal(tmp_path, other)
    assert "did you mean metadata" not in refusal(tmp_path, other)
    assert "metadata.actors: missing" in refusal(tmp_path, {**other, "metadata": {}})
    assert "metadata: found null" in refusal(tmp_path, {**other, "metadata": None})
    extra = copy.deepcopy(RAW)
    extra["metadata"]["actor"] = {}
    assert "metadata.actor: unknown key (found {}); did you mean actors?" in refusal(tmp_path, extra)


def test_the_file_is_found_here_then_in_the_package(tmp_path, monkeypatch):
    """An explicit file wins, then ./cluster.yaml, then the code's own copy; a missing one is named."""
    monkeypatch.chdir(tmp_path)
    shipped = load_cluster(ROOT / "cluster.yaml")
    assert load_cluster() == shipped
    here = changed(scorer={**RAW["metadata"]["actors"]["scorer"], "max_count": 7})
    written(tmp_path, here)
    assert load_cluster().scorer.max_count == 7
    assert load_cluster(ROOT / "cluster.yaml") == shipped
    with pytest.raises(SettingsError, match=r"absent\.yaml: no such file"):
        load_cluster(tmp_path / "absent.yaml")
