"""Errors of work on the cluster, as the driver tells them; no cluster is needed to know."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from nightrank.cluster.session import translated
from nightrank.errors import ClusterError, DataError

TRACE = 'ray::_fit() (pid=1, ip=127.0.0.1)\n  File "/x/y.py", line 3, in _fit\nsomething: the last line'


def test_our_own_error_of_a_task_comes_back_as_it_was_raised() -> None:
    """A user reads the sentence, not the trace that Ray's error of the same kind has as its text."""
    raised = RayTaskError("_fit", TRACE, DataError("nothing is left")).as_instanceof_cause()
    assert isinstance(raised, DataError)
    with pytest.raises(DataError) as caught, translated("fit"):
        raise raised
    assert (type(caught.value), str(caught.value)) == (DataError, "nothing is left")


def test_any_other_error_of_a_task_is_one_line() -> None:
    """What nobody foresaw names the work and what to do, and keeps the trace for the log."""
    with (
        pytest.raises(ClusterError, match=r"^fit failed on the cluster: ZeroDivisionError: by zero; mend"),
        translated("fit"),
    ):
        raise RayTaskError("_fit", TRACE, ZeroDivisionError("by zero")).as_instanceof_cause()
