# SPDX-License-Identifier: Apache-2.0
"""What ``benchmarks.planning`` times, each in a process of its own.

usage: python -m benchmarks.planning_worker JOB
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planning_samples import make_users
from benchmarks.processes import cpu_seconds
from pocketrec.errors import BackendError
from pocketrec.files import write_atomically

__all__ = ["main"]

_BATCH = 1024
_MAX_CHANNELS = 8


def main(words: list[str]) -> None:
    """Do one job, and write its answer.

    Args:
        words: The job, as JSON.
    """
    job = json.loads(words[0])
    tasks = {"plan": _plan, "load": _load, "fine_tune": _fine_tune}
    answer = tasks[job["task"]](job)
    write_atomically(Path(job["answer"]), json.dumps(answer).encode())


def _plan(job: dict[str, Any]) -> dict[str, Any]:
    """Plan for batches of users from memory."""
    from pocketrec_quantization.personal import PersonalPlanner

    planner = PersonalPlanner.from_bytes(Path(job["planner"]).read_bytes())
    users = make_users(_BATCH, planner.config.embedding_dim, seed=job["seed"])
    planner.plan(users, job["budget_bytes"])
    n_users, started = 0, time.perf_counter()
    while time.perf_counter() < started + job["seconds"]:
        planner.plan(users, job["budget_bytes"])
        n_users += len(users)
    return {"users_per_s": n_users / (time.perf_counter() - started)}


def _fine_tune(job: dict[str, Any]) -> dict[str, Any]:
    """Train the coded matrices on one user's history after the other: one step each."""
    import torch

    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
    from pocketrec_cloud.losses import sampled_softmax_loss

    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    shape = SASRecConfig(
        n_items=job["n_items"],
        embedding_dim=job["d"],
        n_blocks=job["blocks"],
        n_heads=2,
        window=job["window"],
        ffn_multiplier=1,
        dropout=0.0,
    )
    model = SASRec(shape).train()
    for parameter in model.parameters():
        parameter.requires_grad = False
    names = {f"{layer}.weight" for layer in job["layers"]}
    coded = [parameter for name, parameter in model.named_parameters() if name in names]
    for parameter in coded:
        parameter.requires_grad = True
    items = model.item_embedding.weight
    histories = torch.randint(1, job["n_items"] + 1, (64, job["window"] + 1))

    def tune(history: torch.Tensor) -> None:
        optimizer = torch.optim.Adam(coded, lr=1e-3)  # nothing is left of another user's moments
        hidden = model(history[None, :-1])[0]
        loss = sampled_softmax_loss(hidden, history[1:], items, n_negatives=128)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    for history in histories[:5]:
        tune(history)
    n_users, started = 0, time.perf_counter()
    while time.perf_counter() < started + job["seconds"]:
        tune(histories[n_users % len(histories)])
        n_users += 1
    return {
        "users_per_s": n_users / (time.perf_counter() - started),
        "n_weights": sum(parameter.numel() for parameter in coded),
    }


def _load(job: dict[str, Any]) -> dict[str, Any]:
    """Ask for plans from many clients at once, each for another subject every time."""
    return asyncio.run(_ask(job))


async def _ask(job: dict[str, Any]) -> dict[str, Any]:
    import grpc

    from pocketrec_proto.v1 import device_service_pb2 as pb
    from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(job["target"], options=options)
        for _ in range(min(job["clients"], _MAX_CHANNELS))
    ]
    stubs = [DeviceServiceStub(channel) for channel in channels]
    metadata = (("authorization", f"Bearer {await _register(stubs[0])}"),)
    rng = np.random.default_rng(job["seed"])
    latencies: list[float] = []
    busy = _Busy(job["server_pid"])
    sizes: dict[str, int] = {}
    warm = time.perf_counter() + job["seconds"] / 5
    stop = warm + job["seconds"]

    async def client(number: int) -> None:
        n_asked = 0
        while (before := time.perf_counter()) < stop:
            request = pb.GetPlanRequest(
                subject=f"{job['name']}-{number}-{n_asked}",
                model_digest=bytes.fromhex(job["model_digest"]),
                bundle_digest=bytes.fromhex(job["bundle_digest"]),
                planner="personal",
                user_embedding=pb.UserEmbedding(
                    codes=rng.integers(-127, 128, job["d"]).astype(np.int8).tobytes(), scale=0.02
                ),
            )
            response = await stubs[number % len(stubs)].GetPlan(request, metadata=metadata)
            if before >= warm:
                busy.start()
                latencies.append(time.perf_counter() - before)
            sizes.update(up=request.ByteSize(), down=response.ByteSize())
            n_asked += 1

    await asyncio.gather(*(client(number) for number in range(job["clients"])))
    shares = busy.shares()
    for channel in channels:
        await channel.close()
    p50, p99 = (float(value) * 1e3 for value in np.percentile(latencies, (50, 99)))
    return {
        "clients": job["clients"],
        "rpc_per_s": len(latencies) / job["seconds"],
        "p50_ms": p50,
        "p99_ms": p99,
        "n": len(latencies),
        **shares,
        "up_bytes": sizes["up"],
        "down_bytes": sizes["down"],
    }


async def _register(stub: Any) -> str:
    """Return the token of a new device; ``stub`` is one of ``DeviceService``."""
    from pocketrec.registration import registration_message
    from pocketrec.signing import SigningKey
    from pocketrec_proto.v1 import device_service_pb2 as pb

    key = SigningKey.generate()
    public_key = key.public.raw
    given = await stub.GetChallenge(pb.GetChallengeRequest(public_key=public_key))
    request = pb.RegisterRequest(
        public_key=public_key,
        challenge=given.challenge,
        signature=key.sign(registration_message(public_key, given.challenge)),
    )
    return str((await stub.Register(request)).token)


class _Busy:
    """How much of a core each side of the socket takes, from the first call of ``start`` on.

    Args:
        server_pid: The process on the other side.
    """

    def __init__(self, server_pid: int) -> None:
        self._pids = {"server_cores": server_pid, "clients_cores": os.getpid()}
        self._started: tuple[float, dict[str, float]] | None = None

    def start(self) -> None:
        """Begin, unless that was done before."""
        if self._started is None:
            self._started = time.perf_counter(), self._seconds()

    def shares(self) -> dict[str, float]:
        """Return CPU seconds per second of each side."""
        if self._started is None:
            raise BackendError("no call ended in time; measure for longer")
        since, before = self._started
        passed, now = time.perf_counter() - since, self._seconds()
        return {name: (now[name] - before[name]) / passed for name in now}

    def _seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
