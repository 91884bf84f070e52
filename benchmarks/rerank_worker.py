# SPDX-License-Identifier: Apache-2.0
"""One task of ``rerank`` in a process of its own.

The job comes as JSON in the only argument; the answer goes to the file it names, because
native libraries print to stdout whenever they like. Only what the task needs is imported,
so that peak memory is that of the method alone.

What is in the clock, for peers as for pocketrec: a new event's id is looked up and taken
in, 100 candidate ids are looked up, scores are computed, and the ids of the best ten come
out. Events and candidate lists change from call to call.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rerank_models import FACTS, MODEL_NAME, Cases, build
from benchmarks.sampling import sample
from benchmarks.shapes import Shape

__all__ = ["best", "main", "run_task", "stored_bits"]

N_LISTS = 64
N_EVENTS = 1009  # prime, so that events and lists meet in ever new pairs


def run_task(job: dict[str, Any]) -> dict[str, Any]:
    """Do what a job asks.

    Args:
        job: ``task``, one of ``build``, ``convert``, ``peer``, ``pocketrec``, ``breakdown``
            and ``machine``; ``shape``, the fields of a ``Shape``; ``model``, the folder that
            ``build`` writes; what else a task reads.

    Returns:
        What the task found.
    """
    if job["task"] == "machine":
        from benchmarks.rerank_machine import measure_machine

        return measure_machine(job["min_seconds"])
    return _TASKS[job["task"]](job, Shape(**job["shape"]), Path(job["model"]))


def _build(job: dict[str, Any], shape: Shape, model: Path) -> dict[str, Any]:
    build(shape, model, seed=job["seed"])
    return {}


def _convert(job: dict[str, Any], shape: Shape, model: Path) -> dict[str, Any]:
    from benchmarks.rerank_models import read_network
    from pocketrec_cloud.peers import PEERS

    out = Path(job["out"])
    unfinished = out.with_name(f"unfinished-{out.name}")
    PEERS[job["method"]].convert(read_network(shape, model), unfinished)
    unfinished.replace(out)
    return {}


def _measure_peer(job: dict[str, Any], shape: Shape, model: Path) -> dict[str, Any]:
    from pocketrec_cloud.peers import PEERS

    session = PEERS[job["method"]].load(
        Path(job["out"]), window=shape.window, n_candidates=shape.n_candidates
    )
    asked = _Questions(shape, model, job["seed"])
    index_of = {item: index for index, item in enumerate(asked.item_ids, start=1)}
    history, candidates = session.history, session.candidates
    history[:] = [index_of[item] for item in asked.history]

    def call() -> list[str]:
        history[:-1] = history[1:]
        history[-1] = index_of[next(asked.events)]
        ids = next(asked.lists)
        candidates[:] = itemgetter(*ids)(index_of)
        return best(session.run(), ids, shape.k)

    def answer(own: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.float32]:
        history[:], candidates[:] = own, among
        return session.run().copy()

    return {**sample(call, job), **_compare(answer, model, shape.k)}


def _measure_pocketrec(job: dict[str, Any], shape: Shape, model: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as store:
        runtime = _runtime(model, store)
        asked = _Questions(shape, model, job["seed"])
        runtime.observe_many(asked.history)

        def step() -> object:
            runtime.observe(next(asked.events))
            return runtime.rerank(next(asked.lists), shape.k)

        def cold() -> object:
            runtime.reset()
            runtime.observe_many(asked.history)
            return runtime.rerank(next(asked.lists), shape.k)

        def answer(own: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.float32]:
            *before, last = (asked.item_ids[index - 1] for index in own)
            runtime.reset()
            if is_step:
                runtime.observe_many(before)
                runtime.observe(last)
            else:
                runtime.observe_many([*before, last])
            ids = [asked.item_ids[index - 1] for index in among]
            ranking = runtime.rerank(ids, len(ids))
            return np.array(itemgetter(*ids)(dict(zip(*_columns(ranking), strict=True))))

        is_step = job["method"] == "pocketrec-step"
        timed = sample(step if is_step else cold, job)
        layers = runtime.report()
        return {
            **timed,
            **_compare(answer, model, shape.k),
            "computed": sorted({f"{layer.computed} ({layer.kernel})" for layer in layers}),
            "stored_bits": stored_bits(layers),
        }


def _measure_breakdown(job: dict[str, Any], shape: Shape, model: Path) -> dict[str, Any]:
    """Time the public pieces of a step, and what no method could do without."""
    from benchmarks.rerank_machine import ort_call

    with tempfile.TemporaryDirectory() as store:
        runtime = _runtime(model, store)
        asked = _Questions(shape, model, job["seed"])
        runtime.observe_many(asked.history)
        index_of = {item: index for index, item in enumerate(asked.item_ids, start=1)}
        indices = np.ones(shape.n_candidates, np.int64)
        rng = np.random.default_rng(job["seed"])
        scores: NDArray[np.float32] = rng.random(shape.n_candidates, np.float32)
        ids = next(asked.lists)

        def look_up() -> None:
            indices[:] = itemgetter(*next(asked.lists))(index_of)

        def observe_rerank() -> object:
            runtime.observe(next(asked.events))
            return runtime.rerank(next(asked.lists), shape.k)

        calls: dict[str, Callable[[], object]] = {
            "observe_rerank_us": observe_rerank,
            "observe_us": lambda: runtime.observe(next(asked.events)),
            "rerank_us": lambda: runtime.rerank(next(asked.lists), shape.k),
            "look_up_us": look_up,
            "best_us": lambda: best(scores, ids, shape.k),
            "empty_ort_call_us": ort_call("Identity", scores, scores.copy()),
        }
        return {name: sample(call, job)["p50_us"] for name, call in calls.items()}


_TASKS: dict[str, Callable[[dict[str, Any], Shape, Path], dict[str, Any]]] = {
    "build": _build,
    "convert": _convert,
    "peer": _measure_peer,
    "pocketrec": _measure_pocketrec,
    "breakdown": _measure_breakdown,
}


class _Questions:
    """A user's full window, endless events after it, and candidate lists in turns."""

    def __init__(self, shape: Shape, model: Path, seed: int) -> None:
        facts = json.loads((model / FACTS).read_text())
        self.item_ids: list[str] = facts["item_ids"]
        rng = np.random.default_rng(seed)

        def draw(n: int, *, replace: bool) -> list[str]:
            return [self.item_ids[i] for i in rng.choice(shape.n_items, n, replace=replace)]

        self.history = draw(shape.window, replace=True)
        self.events = itertools.cycle(draw(N_EVENTS, replace=True))
        lists = [draw(shape.n_candidates, replace=False) for _ in range(N_LISTS)]
        self.lists = itertools.cycle(lists)


def best(scores: NDArray[np.float32], ids: Sequence[str], k: int) -> list[str]:
    """Return the ids of the k highest scores, best first.

    Sorting a hundred scores takes less time than partitioning them, and half of
    ``torch.topk``.

    Args:
        scores: (M,) float32.
        ids: M ids.
        k: How many.
    """
    return [ids[i] for i in scores.argsort()[: -k - 1 : -1].tolist()]


def stored_bits(layers: Sequence[Any]) -> float:
    """Return the bits per weight that a runtime keeps, on average.

    Args:
        layers: What ``Runtime.report`` returns: matrices of one size, with channels by width
            (``stored``) or one width for all of them (``stored_bits``).
    """
    kept: Counter[int] = Counter()
    for layer in layers:
        kept.update(getattr(layer, "stored", None) or {layer.stored_bits: 1})
    return sum(bits * n for bits, n in kept.items()) / kept.total()


def _compare(
    answer: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    model: Path,
    k: int,
) -> dict[str, float]:
    """Return how far the answers are from the reference's."""
    cases = Cases.load(model)
    errors, overlaps = [], []
    for own, among, expected in zip(cases.histories, cases.candidates, cases.scores, strict=True):
        scores = answer(own, among)
        errors.append(float(np.abs(scores - expected).max()))
        both = np.intersect1d(scores.argsort()[-k:], expected.argsort()[-k:])
        overlaps.append(both.size / k)
    return {
        "max_abs_error": max(errors),
        "top10_overlap": float(np.mean(overlaps)),
        "max_abs_score": float(np.abs(cases.scores).max()),
    }


def _runtime(model: Path, store: str) -> Any:
    """Return a runtime over the bundle; untyped, for only its public calls are used."""
    from pocketrec_device import Runtime

    facts = json.loads((model / FACTS).read_text())
    runtime = Runtime.create(store, model=MODEL_NAME, backend="onnxruntime", threads=1)
    runtime.bootstrap(model / facts["bundle"])
    return runtime


def _columns(ranking: Any) -> tuple[Sequence[str], Sequence[float]]:
    return ranking.items, ranking.scores


def main() -> None:
    """Do the job in the argument; whatever goes wrong becomes its answer."""
    job = json.loads(sys.argv[1])
    try:
        answer = run_task(job)
    except Exception as exc:  # noqa: BLE001  # any of a dozen libraries may have raised it
        lines = str(exc).strip().splitlines() or ["no message"]
        answer = {"error": {"task": job["task"], "type": type(exc).__name__, "message": lines[0]}}
    Path(job["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
