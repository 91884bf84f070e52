# SPDX-License-Identifier: Apache-2.0
"""Plans for every user of a file, in shards that a broken run need not make again.

::

    OUT/
      job.json                what is planned: written first
      shards/00000.parquet    the plans, see ``plan_shards``; written whole or not at all
      manifest.json           every shard with its digest: written last

A run that finds ``job.json`` of other inputs is refused; one that finds its own goes on with
the shards that are absent. The plans are unsigned, for caches and pushes; the server's
director signs whatever is sent to a device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import ConfigError, DataError
from pocketrec.files import make_folders, write_atomically
from pocketrec_cloud.planning.engines import Engine
from pocketrec_cloud.planning.plan_shards import ShardHeader, shard_to_bytes
from pocketrec_cloud.planning.user_embeddings import UserEmbeddingFile
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.personal import PersonalPlanner

__all__ = ["DEFAULT_SHARD_USERS", "FleetJob", "plan_fleet", "plan_shard"]

DEFAULT_SHARD_USERS = 16_384
"""Plans of one shard: about a second's work."""

_SCHEMA = "pocketrec.plan-set/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetJob:
    """What is planned, for whom, and where to.

    Attributes:
        planner: The planner file.
        embeddings: The file of user embeddings.
        out: The folder of the result.
        budget_bytes: What each plan stays within, scales included.
        shard_users: Plans of one shard; the last one may have fewer.

    Raises:
        ConfigError: A number is out of bounds.
    """

    planner: Path
    embeddings: Path
    out: Path
    budget_bytes: int
    shard_users: int = DEFAULT_SHARD_USERS

    def __post_init__(self) -> None:
        check_integer(self.budget_bytes, field="budget_bytes")
        check_integer(self.shard_users, field="shard_users", minimum=1)

    def shard(self, number: int) -> Path:
        """Return where a shard lies.

        Args:
            number: From 0.
        """
        return self.out / "shards" / f"{number:05d}.parquet"


def plan_fleet(
    job: FleetJob, engine: Engine, *, advance: Callable[[int, int], None]
) -> dict[str, Any]:
    """Plan for every user, and return the manifest.

    Args:
        job: What is planned.
        engine: Works on shards.
        advance: Gets how many users are done, and of how many.

    Raises:
        ConfigError: The folder holds plans of other inputs, or embeddings do not fit.
        InfeasibleBudgetError: No plan is that small.
        ArtifactError: The planner file is malformed.
        DataError: The embeddings' file is.
        OSError: A file cannot be read or written.
    """
    users = UserEmbeddingFile.open(job.embeddings)
    planner = PersonalPlanner.from_bytes(job.planner.read_bytes())
    planner.plan([None], job.budget_bytes)  # refuses the budget before anything is written
    inputs = _inputs(job, users, planner)
    make_folders(job.out / "shards")
    _claim(job.out / "job.json", inputs)
    numbers = range(-(-users.n_users // job.shard_users))
    missing = [number for number in numbers if not job.shard(number).exists()]
    n_done = users.n_users - sum(_size(job, users, number) for number in missing)
    advance(n_done, users.n_users)
    for number in engine.run(plan_shard, (job, users), missing):
        n_done += _size(job, users, number)
        advance(n_done, users.n_users)
    shards = [
        {
            "path": str(job.shard(number).relative_to(job.out)),
            "n_users": _size(job, users, number),
            "sha256": _sha256(job.shard(number)),
        }
        for number in numbers
    ]
    manifest = {**inputs, "shards": shards}
    write_atomically(job.out / "manifest.json", json.dumps(manifest, indent=2).encode())
    return {**manifest, "n_planned": sum(_size(job, users, number) for number in missing)}


def plan_shard(work: tuple[FleetJob, UserEmbeddingFile], number: int) -> int:
    """Make one shard, and return its number.

    Args:
        work: What is planned, and its users' file, checked.
        number: Of the shard, from 0.

    Raises:
        ConfigError: An embedding does not fit the planner.
        ArtifactError: The planner file is malformed.
        DataError: The embeddings' file is.
        OSError: A file cannot be read or written.
    """
    job, users = work
    planner = PersonalPlanner.from_bytes(job.planner.read_bytes())
    start = number * job.shard_users
    subjects, embeddings = users.read(start, start + _size(job, users, number))
    header = ShardHeader(
        model_digest=planner.model_digest,
        layers=planner.layers,
        levels=planner.levels,
        planner=planner.name,
        budget_bytes=job.budget_bytes,
    )
    try:
        codes = planner.plan(embeddings, job.budget_bytes)
    except ConfigError as error:
        raise DataError(
            f"users {start + 1} to {start + len(subjects)}: {error}", path=str(job.embeddings)
        ) from error
    write_atomically(job.shard(number), shard_to_bytes(header, subjects, codes))
    return number


def _inputs(job: FleetJob, users: UserEmbeddingFile, planner: PersonalPlanner) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "model_digest": planner.model_digest.hex(),
        "planner": planner.name,
        "planner_sha256": _sha256(job.planner),
        "embeddings_sha256": _sha256(job.embeddings),
        "budget_bytes": job.budget_bytes,
        "n_users": users.n_users,
        "shard_users": job.shard_users,
        "layers": [asdict(layer) for layer in planner.layers],
        "numpy": np.__version__,  # rounding is a matter of its products of matrices
    }


def _claim(path: Path, inputs: dict[str, Any]) -> None:
    """Take a folder for these inputs, or refuse it where it has others."""
    if not path.exists():
        write_atomically(path, json.dumps(inputs, indent=2).encode())
        return
    try:
        found = json.loads(path.read_bytes())
        changed = [name for name in inputs if found.get(name) != inputs[name]]
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: expected the JSON of a job: {error}") from error
    if changed:
        raise ConfigError(
            f"{path.parent} holds plans of other inputs ({', '.join(changed)} differ); name "
            "another folder, or empty this one"
        )


def _size(job: FleetJob, users: UserEmbeddingFile, number: int) -> int:
    return min(job.shard_users, users.n_users - number * job.shard_users)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
