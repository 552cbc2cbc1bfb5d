"""Reading YAML, expanding variables, overriding, validating: what every settings file goes through."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from nightrank.config.problems import nearest
from nightrank.config.reading import expand_variables, read_mapping
from nightrank.config.strict import StrictModel, known_keys, load
from nightrank.errors import SettingsError


class Inner(StrictModel):
    rate: float = 0.5
    count: int = 1
    name: str | None = None


class Outer(StrictModel):
    inner: Inner = Inner()
    flag: bool = False
    weights: dict[str, float] = Field(default_factory=dict)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(Outer, path, overrides=overrides)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("- a\n- b\n", "list at the top, expected a mapping"),
        ("just words", "str at the top, expected a mapping"),
        ("inner:\n  rate: 1\n  rate: 2\n", "line 3, column 3: the key `rate` is given twice"),
        ("flag: true\nflag: true\n", "the key `flag` is given twice"),
        ("inner: {rate: 1\n", "line 2"),
        ("inner: [1, 2\nflag: x", "line 2"),
        ("a: 2026-02-31", "not usable as YAML"),
        ("inner: !!python/object:os.system {}", "line 1"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_name_and_line(tmp_path, text, said):
    """A broken file is refused with the reason and, where YAML knows it, the line; never read halfway."""
    assert said in refusal(written(tmp_path, text))


def test_missing_and_unreadable_files_are_settings_errors(tmp_path):
    """A path mistake ends as exit code 2 with the path in it, not as a traceback."""
    assert "no such file" in refusal(tmp_path / "absent.yaml")
    assert "cannot be read" in refusal(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    assert "UTF-8" in refusal(latin)


def test_duplicate_keys_are_told_from_merge_keys(tmp_path):
    """Anchors and `<<` keep working, however deep: what they merge is not a key given twice."""
    text = "a: {x: &one {<<: &zero {k: 1, j: 0}, k: 2}}\nb: {<<: *one, k: 3}\nc: {<<: *one}\n"
    raw = read_mapping(written(tmp_path, text))
    assert raw["a"]["x"] == {"j": 0, "k": 2}
    assert raw["b"] == {"j": 0, "k": 3}
    assert raw["c"] == {"j": 0, "k": 2}


def test_an_anchor_that_contains_itself_is_refused(tmp_path):
    """A YAML loop ends in a message, not in a RecursionError."""
    assert "contains itself" in refusal(written(tmp_path, "inner: &i {name: *i}\n"))


def test_exponents_without_a_point_are_numbers(tmp_path):
    """`1e-3` means a number to whoever writes it; plain YAML 1.1 reads a text."""
    path = written(tmp_path, "inner: {rate: 1e-3}\nweights: {a: 2E+2, b: -1.5e1}\n")
    settings = load(Outer, path)
    assert settings.inner.rate == 0.001
    assert settings.weights == {"a": 200.0, "b": -15.0}


@pytest.mark.parametrize(
    ("text", "env", "expected"),
    [
        ("${A}/x", {"A": "/data"}, "/data/x"),
        ("${A:-~/d}/x", {}, "~/d/x"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-}", {}, ""),
        ("${A}${B:-2}", {"A": "1"}, "12"),
        ("$A and $ stay", {"A": "1"}, "$A and $ stay"),
        ("${A}", {"A": "${B}"}, "${B}"),
    ],
)
def test_variables_expand_as_in_a_shell(text, env, expected):
    """`${VAR}` and `${VAR:-default}` are replaced once, nested values too; all else stays as written."""
    raw = {"k": {"list": [text, 3]}}
    assert expand_variables(raw, source="f", env=env) == {"k": {"list": [expected, 3]}}
    assert raw == {"k": {"list": [text, 3]}}


def test_variables_that_cannot_be_expanded_are_all_named():
    """Unset, empty and broken variables are refused together, each with its key."""
    raw = {"a": "${X}", "b": {"c": ["${Y}"]}, "d": "${bad-name}", "e": "${open", "f": "${A:-${B}}"}
    with pytest.raises(SettingsError) as caught:
        expand_variables(raw, source="file.yaml", env={"Y": ""})
    lines = str(caught.value).splitlines()
    assert lines[0] == "file.yaml: 5 problems"
    for line, said in zip(lines[1:], ("a: ", "b.c[0]: ", "d: ", "e: ", "f: "), strict=True):
        assert line.strip().startswith(said)
    assert "variable X is not set" in lines[1]
    assert "broken variable" in lines[3]


def test_a_relative_home_is_refused():
    """A relative NIGHTRANK_HOME would be one store for the job file and another for the shell's folder."""
    with pytest.raises(SettingsError, match="NIGHTRANK_HOME is the relative path"):
        expand_variables({"store": "${NIGHTRANK_HOME:-x}"}, source="f", env={"NIGHTRANK_HOME": "data"})


@pytest.mark.parametrize(
    ("text", "key", "found", "expected"),
    [
        ('inner: {count: "3"}', "inner.count", '"3"', "a whole number"),
        ("inner: {count: 3.0}", "inner.count", "3.0", "a whole number"),
        ("inner: {count: true}", "inner.count", "true", "a whole number"),
        ("inner: {count: null}", "inner.count", "null", "a whole number"),
        ("inner: {rate: false}", "inner.rate", "false", "a number"),
        ('inner: {rate: "1"}', "inner.rate", '"1"', "a number"),
        ("inner: {rate: .nan}", "inner.rate", "NaN", "a finite number"),
        ("weights: {a: .inf}", "weights.a", "Infinity", "a finite number"),
        ("flag: 1", "flag", "1", "true or false"),
        ('flag: "yes"', "flag", '"yes"', "true or false"),
        ("inner: {name: 5}", "inner.name", "5", "a text"),
        ("inner: {name: 2026-01-02}", "inner.name", "2026-01-02", "a text"),
        ("inner: null", "inner", "null", "a mapping"),
        ("inner: [1]", "inner", "[1]", "a mapping"),
        ("weights: 3", "weights", "3", "a mapping"),
        ("weights: {1: 2}", "weights[1]", "the key 1", "a text as key"),
    ],
)
def test_nothing_is_coerced(tmp_path, text, key, found, expected):
    """A value of the wrong type is refused with key, value and what was expected; nothing is guessed."""
    message = refusal(written(tmp_path, text))
    assert f"{key}: found {found}" in message
    assert f"expected {expected}" in message


def test_whole_numbers_may_stand_for_floats(tmp_path):
    """`rate: 1` needs no point: the one conversion there is."""
    settings = load(Outer, written(tmp_path, "inner: {rate: 1}\nweights: {a: 2}\n"))
    assert (settings.inner.rate, settings.weights) == (1.0, {"a": 2.0})


def test_unknown_keys_name_the_nearest(tmp_path):
    """A typo is refused at every level with the key that was probably meant and all that exist."""
    message = refusal(written(tmp_path, "inner: {cuont: 3}\nflga: true\nzzz: 1\n"))
    assert "inner.cuont: unknown key (found 3); did you mean count? known here: count, name, rate" in message
    assert "flga: unknown key (found true); did you mean flag?" in message
    assert "zzz: unknown key (found 1); known here: flag, inner, weights" in message
    assert "3 problems" in message


def test_nearest_knows_case_and_keeps_long_lists_out():
    """`Factors` means `factors`; a list of twenty names does not hide the one that was meant."""
    assert nearest("FACTORS", ["factors", "reg"]).startswith("did you mean factors?")
    many = [f"name_{letter}" for letter in "abcdefghijklmnop"]
    assert nearest("nmae_a", many).startswith("did you mean name_a")
    assert "known here" not in nearest("nmae_a", many)
    assert "known here" in nearest("zzz", many)


def test_overrides_change_the_file_and_are_validated(tmp_path):
    """`--set` wins over the file, is read as YAML, makes missing mappings, and the last of two wins."""
    path = written(tmp_path, "flag: false\n")
    settings = load(
        Outer,
        path,
        overrides=["flag=true", "inner.count=2", "inner.count=3", "inner.name=", "weights={a: 1}"],
    )
    assert settings.flag is True
    assert settings.inner == Inner(count=3, name=None)
    assert settings.weights == {"a": 1.0}
    assert load(Outer, path, overrides=["weights.b=2"]).weights == {"b": 2.0}
    assert load(Outer, path).flag is False


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("inner.cuont=1", "unknown key inner.cuont; did you mean count?"),
        ("iner.count=1", "unknown key iner; did you mean inner?"),
        ("flag.x=1", "flag is a single value"),
        ("inner.name.x=1", "inner.name is a single value"),
        ("flag", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("inner..count=3", "expected key.path=value"),
        ("weights={a: 1", "expected a value in YAML"),
    ],
)
def test_a_bad_override_is_refused_by_name(tmp_path, override, said):
    """A `--set` that reaches nothing is an error that quotes it, never a silent no-op."""
    message = refusal(written(tmp_path, "flag: false\n"), override)
    assert said in message
    assert f"--set {override}" in message


def test_a_wrong_value_names_the_override_it_came_from(tmp_path):
    """Whoever reads the file must not search in it for a value that came from the command line."""
    message = refusal(written(tmp_path, "inner: {count: x}\n"), "inner.rate=x")
    assert "(from --set inner.rate=x)" in message
    assert message.count("--set") == 1


def test_known_keys_follow_the_model():
    """The keys under a path come from the models: closed, free (None) or none at all."""
    assert known_keys(Outer, ("inner",)) == ("rate", "count", "name")
    assert known_keys(Outer, ("weights",)) is None
    assert known_keys(Outer, ("inner", "name")) == ()
