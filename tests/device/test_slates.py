# SPDX-License-Identifier: Apache-2.0
"""Slates and pages of a whole runtime, against a second runtime that observes each pick."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.device.conftest import CONFIGS, write_tiny_bundle

from pocketrec.errors import ConfigError, StoreError
from pocketrec_device import Ranking, Runtime

EVERYTHING = tuple("abcdefghijkl")
HISTORY = tuple("abcabcab")


@pytest.fixture(scope="module", params=CONFIGS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a tiny bundle of every kind of backbone; tests only read it."""
    folder = tmp_path_factory.mktemp("slates")
    bundle = write_tiny_bundle(folder / "bundle", config=CONFIGS[request.param])
    path = folder / "store"
    with Runtime.create(path, model="demo", backend="numpy") as runtime:
        runtime.bootstrap(bundle.path)
    return path


@pytest.fixture(params=["numpy", "onnxruntime"])
def opened(request: pytest.FixtureRequest, installed: Path) -> Iterator[Callable[..., Runtime]]:
    """Opens the store; every runtime has seen the history unless told otherwise."""
    runtimes: list[Runtime] = []

    def open_one(history: Sequence[str] = HISTORY, **settings: Any) -> Runtime:
        settings = {"backend": request.param, "compute": "fp32", "swap": "adapter"} | settings
        runtimes.append(Runtime.open(installed, **settings))
        runtimes[-1].observe_many(history)
        return runtimes[-1]

    yield open_one
    for each in runtimes:
        each.close()


def by_observing(
    runtime: Runtime,
    candidates: Sequence[str],
    k: int,
    *,
    server_scores: Sequence[float] | None = None,
    **arguments: Any,
) -> Ranking:
    """Build a slate the long way: rank, observe the best, leave it out, and again."""
    left = list(dict.fromkeys(candidates))
    server = dict(zip(reversed(candidates), reversed(server_scores or ()), strict=False))
    items: list[str] = []
    scores: list[float] = []
    while left and len(items) < k:
        given = [server[item] for item in left] if server else None
        best = runtime.rerank(left, 1, server_scores=given, **arguments)
        items.append(best.items[0])
        scores.append(best.scores[0])
        runtime.observe(items[-1])
        left.remove(items[-1])
    return Ranking(tuple(items), tuple(scores))


class TestSequential:
    @pytest.mark.parametrize("history", [HISTORY, ("a",), tuple("abcde"), ()])
    @pytest.mark.parametrize("k", [1, 4, 12, 99])
    def test_picks_are_those_of_observing_each(
        self, opened: Callable[..., Runtime], history: Sequence[str], k: int
    ) -> None:
        """Items and scores equal those of a runtime that takes every pick in as an event."""
        found = opened(history).rerank(EVERYTHING, k, mode="sequential")

        assert found == by_observing(opened(history), EVERYTHING, k)

    def test_the_first_pick_is_the_pointwise_best(self, opened: Callable[..., Runtime]) -> None:
        """One pick is the same in both modes."""
        runtime = opened()

        slate = runtime.rerank(EVERYTHING, 3, mode="sequential")
        best = runtime.rerank(EVERYTHING, 1)

        assert (slate.items[:1], slate.scores[:1]) == (best.items, best.scores)
        assert runtime.rerank(EVERYTHING, 1, mode="sequential") == best

    def test_the_session_is_left_alone(self, opened: Callable[..., Runtime]) -> None:
        """Only the copy has seen the picks: the user has not."""
        runtime, other = opened(), opened()
        before = runtime.rerank(EVERYTHING, 12)

        first = runtime.rerank(EVERYTHING, 12, mode="sequential")

        assert runtime.rerank(EVERYTHING, 12) == before
        assert runtime.rerank(EVERYTHING, 12, mode="sequential") == first
        for each in (runtime, other):
            each.observe("f")
        assert runtime.rerank(EVERYTHING, 12) == other.rerank(EVERYTHING, 12)

    def test_unknown_candidates_come_last_in_order(self, opened: Callable[..., Runtime]) -> None:
        """They are listed once each, behind all others, and do not become events."""
        runtime = opened()

        found = runtime.rerank(["?", "b", "!", "c", "."], 5, mode="sequential")

        known = runtime.rerank(["b", "c"], 2, mode="sequential")
        assert found.items == (*known.items, "?", "!", ".")
        assert found.scores[:2] == known.scores
        assert found.scores[2:] == 3 * (float("-inf"),)

    def test_only_unknown_candidates_keep_their_order(self, opened: Callable[..., Runtime]) -> None:
        """There is nothing to pick by."""
        assert opened().rerank(["?", "!", "."], 3, mode="sequential").items == ("?", "!", ".")

    def test_repeated_candidates_count_once(self, opened: Callable[..., Runtime]) -> None:
        """A slate never shows an item twice."""
        runtime = opened()

        found = runtime.rerank([*EVERYTHING, "c", "c", "a"], 99, mode="sequential")

        assert found == runtime.rerank(EVERYTHING, 12, mode="sequential")

    @pytest.mark.parametrize("history", [HISTORY, ()])
    @pytest.mark.parametrize("weight", [0.0, 0.7, -2.0])
    def test_server_scores_are_blended_at_every_pick(
        self, opened: Callable[..., Runtime], history: Sequence[str], weight: float
    ) -> None:
        """The weight counts for each pick; without a history the server makes the first."""
        blend = {"server_scores": [float(n % 5) for n in range(12)], "server_weight": weight}

        found = opened(history).rerank(EVERYTHING, 6, mode="sequential", **blend)

        assert found == by_observing(opened(history), EVERYTHING, 6, **blend)

    def test_seen_items_can_be_left_out(self, opened: Callable[..., Runtime]) -> None:
        """What was seen before is no candidate; picks are gone anyway."""
        runtime = opened()

        found = runtime.rerank(EVERYTHING, 12, mode="sequential", exclude_seen=True)

        assert sorted(found.items) == sorted(set(EVERYTHING) - set("abc"))

    def test_no_candidates_give_an_empty_slate(self, opened: Callable[..., Runtime]) -> None:
        """Nothing to pick is no mistake."""
        assert opened().rerank([], 3, mode="sequential") == Ranking((), ())

    def test_a_mode_there_is_not_is_refused(self, opened: Callable[..., Runtime]) -> None:
        """The message lists what there is."""
        with pytest.raises(ConfigError, match=r"mode: expected one of .*pointwise.*sequential"):
            opened().rerank(EVERYTHING, 3, mode="greedy")


class _Meddling(list[str]):
    """Candidates during whose ranking something happens."""

    def __init__(self, items: Sequence[str], happens: Callable[[], object]) -> None:
        super().__init__(items)
        self.happens = happens

    def __iter__(self) -> Iterator[str]:
        self.happens()
        return super().__iter__()


class TestMany:
    LISTS = (tuple("abcdef"), tuple("fedcba"), ("?", "l", "k"), ())

    @pytest.mark.parametrize("mode", ["pointwise", "sequential"])
    def test_each_list_is_ranked_as_if_alone(
        self, opened: Callable[..., Runtime], mode: str
    ) -> None:
        """A page of lists gives what asking for each gives."""
        runtime = opened()

        page = runtime.rerank_many(self.LISTS, 3, mode=mode)

        assert page == tuple(runtime.rerank(items, 3, mode=mode) for items in self.LISTS)

    @pytest.mark.parametrize("mode", ["pointwise", "sequential"])
    @pytest.mark.parametrize("event", ["l", None])
    def test_all_are_of_one_moment(
        self, opened: Callable[..., Runtime], mode: str, event: str | None
    ) -> None:
        """An event, or a reset, between two lists of a page changes none of them."""
        runtime = opened()
        expected = runtime.rerank(EVERYTHING, 6, mode=mode, exclude_seen=True)

        def happens() -> None:
            if event is None:
                runtime.reset()
            else:
                runtime.observe(event)

        page = runtime.rerank_many(
            [_Meddling(EVERYTHING, happens), EVERYTHING], 6, mode=mode, exclude_seen=True
        )

        assert page == (expected, expected)
        assert runtime.rerank(EVERYTHING, 6, mode=mode, exclude_seen=True) != expected

    @pytest.mark.parametrize("mode", ["pointwise", "sequential"])
    def test_a_preset_in_between_changes_none(
        self, opened: Callable[..., Runtime], mode: str
    ) -> None:
        """Nor does a swap of what computes."""
        runtime = opened()
        expected = runtime.rerank(EVERYTHING, 6, mode=mode)

        page = runtime.rerank_many(
            [_Meddling(EVERYTHING, lambda: runtime.use_preset("battery_saver")), EVERYTHING],
            6,
            mode=mode,
        )

        assert page == (expected, expected)
        assert runtime.rerank(EVERYTHING, 6, mode=mode) != expected

    def test_server_scores_come_per_list(self, opened: Callable[..., Runtime]) -> None:
        """Each list has its own, and there must be as many as lists."""
        runtime = opened(())

        lists = [("a", "b"), ("c", "d")]

        page = runtime.rerank_many(lists, 2, server_scores=[[1, 2], [2, 1]])

        assert [ranking.items for ranking in page] == [("b", "a"), ("c", "d")]
        with pytest.raises(ConfigError, match="expected scores for 2 lists, got 1"):
            runtime.rerank_many(lists, 2, server_scores=[[1, 2]])

    def test_no_lists_make_an_empty_page(self, opened: Callable[..., Runtime]) -> None:
        """Nothing to rank is no mistake."""
        assert opened().rerank_many([], 3) == ()

    @pytest.mark.parametrize("mode", ["pointwise", "sequential"])
    def test_a_wrong_list_is_refused(self, opened: Callable[..., Runtime], mode: str) -> None:
        """One string among the lists would be ranked letter by letter."""
        with pytest.raises(ConfigError, match="sequence of item ids"):
            opened().rerank_many([EVERYTHING, "abc"], 3, mode=mode)

    @pytest.mark.parametrize("mode", ["pointwise", "sequential"])
    def test_needs_something_installed(self, tmp_path: Path, mode: str) -> None:
        """An empty store ranks in no mode."""
        with (
            Runtime.create(tmp_path / "empty", model="demo") as runtime,
            pytest.raises(StoreError, match="sync"),
        ):
            runtime.rerank(EVERYTHING, 1, mode=mode)
