# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from grpc import StatusCode

from pocketrec import errors
from pocketrec_cloud.delivery.boundary.error_catalogue import CATALOGUE, REFUSALS, describe_error

SECRET = "/srv/keys/online/director.pem"


def test_every_error_has_an_entry() -> None:
    """A new error cannot be added without deciding what a caller sees of it."""
    tree = {getattr(errors, name) for name in errors.__all__}

    assert set(CATALOGUE) == tree


def test_documentation_lists_every_status() -> None:
    """docs/protocol.md says of each error what the catalogue does."""
    page = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text("utf-8")
    for error, spec in CATALOGUE.items():
        if spec.status is not StatusCode.INTERNAL:
            reads = spec.public_message or "its message"
            assert f"| `{error.__name__}` | `{spec.status.name}` | {reads} |" in page
    for status in (*REFUSALS.values(), *(spec.status for spec in CATALOGUE.values())):
        assert f"\n| `{status.name}` | " in page


def test_refusal_goes_out_as_it_is() -> None:
    """What was written for the caller reaches the caller, with its code."""
    error = errors.RejectedError("no such model", code="NOT_FOUND")

    assert describe_error(error) == (StatusCode.NOT_FOUND, "no such model")


def test_refusal_with_an_unknown_code_is_our_fault() -> None:
    """A code outside the list does not leak its message."""
    error = errors.RejectedError(SECRET, code="OK")

    assert describe_error(error) == (StatusCode.INTERNAL, "the server failed; its log says why")


def test_infeasible_budget_tells_the_caller_the_sizes() -> None:
    """A device can only correct a budget it is told about."""
    error = errors.InfeasibleBudgetError("at least 10 bytes", requested_bytes=5, minimum_bytes=10)

    assert describe_error(error) == (StatusCode.INVALID_ARGUMENT, "at least 10 bytes")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.StoreError(SECRET), StatusCode.UNAVAILABLE),
        (errors.IntegrityError(SECRET), StatusCode.DATA_LOSS),
        (errors.ConfigError(SECRET), StatusCode.INTERNAL),
        (OSError(errno.ENOSPC, SECRET), StatusCode.UNAVAILABLE),
        (FileNotFoundError(errno.ENOENT, SECRET), StatusCode.INTERNAL),
        (OSError(SECRET), StatusCode.INTERNAL),
        (KeyError(SECRET), StatusCode.INTERNAL),
    ],
)
def test_internal_text_stays_inside(error: Exception, status: StatusCode) -> None:
    """Paths and keys in a message are for the log, not for the caller."""
    code, message = describe_error(error)

    assert code == status
    assert SECRET not in message


def test_subclass_without_an_entry_takes_its_parents() -> None:
    """The most specific entry on the way up the tree counts."""

    class DiskFullError(errors.StoreError):
        pass

    assert describe_error(DiskFullError("full"))[0] == StatusCode.UNAVAILABLE
