# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pocketrec_cloud.delivery.rollouts.buckets import bucket_of, stage_of

percentages = st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True).map(
    lambda numbers: tuple(number / 100 for number in sorted(numbers))
)
ids = st.text(max_size=20)


class TestBucketOf:
    def test_is_written_down(self) -> None:
        """The bucket is a number that anybody can compute from the two ids."""
        digest = hashlib.sha256(b"r-1\0device-1").digest()

        assert bucket_of("r-1", "device-1") == int.from_bytes(digest[:8], "big") % 10_000 / 100

    @given(ids, ids)
    def test_range(self, rollout_id: str, device_id: str) -> None:
        """Whatever the ids are, the bucket lies in [0, 100) and is the same again."""
        bucket = bucket_of(rollout_id, device_id)

        assert 0 <= bucket < 100
        assert bucket == bucket_of(rollout_id, device_id)

    def test_shares(self) -> None:
        """Of 20,000 devices about 10 % are below 10, in every rollout, and not the same ones."""
        devices = [f"device-{number}" for number in range(20_000)]
        first, second = (
            {device for device in devices if bucket_of(rollout, device) < 10}
            for rollout in ("r-1", "r-2")
        )

        # Three standard deviations of a binomial draw are 127.
        assert abs(len(first) - 2000) < 127
        assert abs(len(second) - 2000) < 127
        assert len(first & second) < 400

    def test_ids_do_not_run_together(self) -> None:
        """Another cut between the two ids is another device in another rollout."""
        assert bucket_of("r-1", "1d") != bucket_of("r-11", "d")


class TestStageOf:
    def test_edges(self) -> None:
        """A stage includes the buckets below its percentage, not the one at it."""
        stages = (1.0, 10.0, 100.0)

        assert [stage_of(bucket, stages) for bucket in (0.0, 0.99, 1.0, 9.99, 10.0, 99.99)] == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]
        assert stage_of(50.0, (1.0, 10.0)) is None

    @given(ids, percentages)
    def test_stages_only_grow(self, device_id: str, stages: tuple[float, ...]) -> None:
        """A device that one stage includes is included by every later one."""
        bucket = bucket_of("r-1", device_id)
        included = [stage_of(bucket, stages[: n + 1]) is not None for n in range(len(stages))]

        assert all(later >= earlier for earlier, later in pairwise(included))
