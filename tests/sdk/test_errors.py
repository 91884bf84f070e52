# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import pickle

import pytest

from pocketrec import errors

FACTS = {
    "path": "a.csv",
    "line": 7,
    "field": "codes",
    "offset": 3,
    "requested_bytes": 1,
    "minimum_bytes": 2,
    "code": "NOT_FOUND",
    "installed": 2,
    "offered": 1,
    "errno": 28,
}


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_the_way_between_processes(name: str) -> None:
    """With type, text and facts, as workers of a large job need."""
    kind = getattr(errors, name)
    takes = inspect.signature(kind.__init__).parameters
    error = kind("no", **{fact: value for fact, value in FACTS.items() if fact in takes})

    found = pickle.loads(pickle.dumps(error))

    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert getattr(found, "errno", None) == getattr(error, "errno", None)
