"""What is told of a job's log over HTTP: what happened, not where; bounded, and not trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightrank.release.store import LocalStore
from nightrank.service import job_log
from nightrank.service.holder import ReleaseHolder

LOG = """\
2026-11-21 18:05:03,291\tINFO job_manager.py:581 -- Runtime env is setting up.
Running entrypoint for job nightrank-train-1: /venv/bin/python -m nightrank train --config /srv/job.yaml
18:05:11 train: started (run 5cef1eebbc915e68)
\x1b[36m18:05:12 a line in colour\x1b[0m
Traceback (most recent call last):
  File "/venv/lib/nightrank/x.py", line 3, in fit
    raise ValueError(secret)
    ^^^^^^^^^^^^^^^^

ValueError: cannot read /srv/data/events.parquet at 10.0.0.7:6379 with Bearer abc.def
  + Exception Group Traceback (most recent call last):
  |   File "/venv/x.py", line 1, in <module>
  | ExceptionGroup: two
  +------------------------------------
RuntimeError: version 1.2.3 of s3://bucket/key
    @     0x7f0 (unknown)
nightrank: ray::_judge() (pid=2750, ip=127.0.0.1)
  File "/tmp/ray/x.py", line 71, in _judge
    values = on_test(job)
             ^^^^^^^^^^^^
nightrank.errors.DataError: nothing is left
  File "/tmp/ray/y.py", line 7
    half a line(
18:05:14   an indented line of a table
18:05:15 train: done in 3.48 s
18:05:15 sweep: done before
18:05:16 score: done in 12 s
train: done in 9.99 s, or so somebody says
"""


def test_a_log_is_told_without_places_traces_and_tokens(tmp_path: Path) -> None:
    """What an admin reads over HTTP is what happened, not where."""
    told = ReleaseHolder(LocalStore(tmp_path)).told
    assert job_log.tail(LOG, told=lambda text: job_log.without_addresses(told(text))) == [
        "2026-11-21 18:05:03,291\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "18:05:11 train: started (run 5cef1eebbc915e68)",
        "18:05:12 a line in colour",
        "ValueError: cannot read ... at ... with Bearer ...",
        "RuntimeError: version 1.2.3 of ...",
        "nightrank.errors.DataError: nothing is left",
        "18:05:14   an indented line of a table",
        "18:05:15 train: done in 3.48 s",
        "18:05:15 sweep: done before",
        "18:05:16 score: done in 12 s",
        "train: done in 9.99 s, or so somebody says",
    ]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("at [::1]:6379, [2001:db8::1] or 10.0.0.7", "at ..., ... or ..."),
        ("[18:05:12] version 1.2.3 of 1.2.3.4.5", "[18:05:12] version 1.2.3 of 1.2.3.4.5"),
        ("X-Ray-Authorization: bearer abc, token=abc", "X-Ray-Authorization: bearer ... token= ..."),
    ],
)
def test_addresses_and_tokens_are_left_out(text: str, left: str) -> None:
    """Times and versions look alike and stay."""
    assert job_log.without_addresses(text) == left


def test_seconds_are_of_stages_that_this_job_did() -> None:
    """A stage that was done before costs this job nothing, and is not counted as if it did."""
    assert job_log.stage_seconds(LOG) == {"train": 3.48, "score": 12.0}


def test_a_log_is_bounded() -> None:
    """A job that says too much does not fill an answer."""
    lines = job_log.tail("x" * 10**6 + "\n" + "\n".join(map(str, range(500))), told=str)
    assert lines == [str(number) for number in range(400, 500)]
    assert len(job_log.tail("x" * 10**6, told=str)[0]) == job_log.MAX_LINE_CHARS


def test_of_a_long_log_the_end_is_read_and_no_stage_is_missed() -> None:
    """Stages are found wherever they stand; a trace that the end begins within is no line of what happened."""
    frames = "    values = secret(job)\n" * (job_log.END_CHARS // 10)
    long = f'{LOG}Traceback (most recent call last):\n{frames}ValueError: bad\n{{"run": "x"}}\n'
    assert job_log.stage_seconds(long) == {"train": 3.48, "score": 12.0}
    assert job_log.summary(long, told=str) == {"run": "x"}
    assert job_log.tail(long, told=str) == ["ValueError: bad", '{"run": "x"}']


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("publish: done in 1 s", {"publish": 1.0}),
        ("18:05:15 publish: done in 1.5 s\r\n", {"publish": 1.5}),
        ("x\r18:05:15 publish: done in 1 s\rx", {"publish": 1.0}),
        ("train: done in 1 s\ntrain: done in 2 s", {"train": 2.0}),
        ("a train: done in 1 s", {}),
        ("xtrain: done in 1 s\n : done in 1 s\ntrain: done in a s\ntrain: done in 1 s.", {}),
    ],
)
def test_a_stage_is_done_where_a_line_says_that_and_no_more(text: str, seconds: dict[str, float]) -> None:
    """However the line begins and ends; of a stage done twice the last counts."""
    assert job_log.stage_seconds(text) == seconds


@pytest.mark.parametrize("last", ["", "{", "[1]", "1", "[" * 10**5])
def test_only_an_object_at_the_end_is_a_summary(last: str) -> None:
    """What a job prints is not trusted to be JSON."""
    assert job_log.summary(f'{{"run": "x"}}\n{last}\n' if last else "", told=str) is None
    assert job_log.summary('x\n{"a": ["/x", {"b": 1}]}\n\n', told=lambda text: text.replace("/x", "...")) == {
        "a": ["...", {"b": 1}]
    }
