# SPDX-License-Identifier: Apache-2.0
"""Faults made on purpose, over a real socket."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from tests.cloud.delivery.operations.scripted_service import CHUNK, ScriptedService, call

from pocketrec_cloud.delivery.operations.chaos import ChaosInterceptor
from pocketrec_cloud.delivery.operations.faults import ChaosSettings
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

TIMESTAMP = pb.GetMetadataRequest(filename="timestamp.json")


def distance(first: bytes, second: bytes) -> int:
    """Return how many bits differ."""
    assert len(first) == len(second)
    return sum((a ^ b).bit_count() for a, b in zip(first, second, strict=True))


async def until_cut(stream: Any) -> list[bytes]:
    """Return the chunks that come before a stream ends, well or not."""
    chunks: list[bytes] = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for chunk in stream:
            chunks.append(chunk.content)  # noqa: PERF401  what came before the cut counts
    return chunks


class TestDelay:
    def test_each_call_waits(self) -> None:
        """The wait lies within the range, and is drawn anew for each call."""
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            for _ in range(5):
                await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest())

        settings = ChaosSettings(delay_s=(0.1, 0.3))
        call([ChaosInterceptor(settings, lambda fault: None, sleep=sleep)], use)

        assert len(set(waits)) == 5
        assert all(0.1 <= wait <= 0.3 for wait in waits)


class TestDrop:
    def test_calls_break_off_before_and_after_the_work(self) -> None:
        """Some lost calls were never worked on, others were."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> int:
            for _ in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest())
                assert failure.value.code() is StatusCode.UNAVAILABLE
            return service.n_plans

        faults: list[str] = []
        n_plans = call([ChaosInterceptor(ChaosSettings(drop=1.0), faults.append)], use)

        assert 0 < n_plans < 20
        assert faults == ["drop"] * 20

    def test_streams_are_cut(self) -> None:
        """What came before the cut is whole."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> list[bytes]:
            stream = DeviceServiceStub(channel).FetchChunk(pb.FetchChunkRequest())
            chunks = await until_cut(stream)
            assert await stream.code() is StatusCode.UNAVAILABLE
            return chunks

        chunks = call([ChaosInterceptor(ChaosSettings(drop=1.0, seed=1), print)], use)

        assert chunks == [CHUNK] * len(chunks)
        assert len(chunks) < 5


class TestCorrupt:
    def test_one_bit_of_what_devices_verify(self) -> None:
        """Metadata, plans, assignments and chunks have one bit flipped, tokens none."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            stub = DeviceServiceStub(channel)
            metadata = await stub.GetMetadata(TIMESTAMP)
            plan = await stub.GetPlan(pb.GetPlanRequest())
            targets = await stub.GetTargets(pb.GetTargetsRequest())
            pushed: Any = await stub.WatchPlans(pb.WatchPlansRequest()).read()
            registered = await stub.Register(pb.RegisterRequest())
            chunks = [each async for each in stub.FetchChunk(pb.FetchChunkRequest())]
            assert distance(metadata.content, b"timestamp 1") == 1
            assert distance(plan.plan, b"plan 1") == 1
            assert distance(targets.assignment, b"assignment") == 1
            assert distance(pushed.plan, b"plan 1") == 1
            assert registered.token == "token"
            assert [distance(chunk.content, CHUNK) for chunk in chunks] == [1] * 5

        call([ChaosInterceptor(ChaosSettings(corrupt=1.0), print)], use)


class TestStale:
    def test_first_answers_come_again(self) -> None:
        """The oldest timestamp, and each subject's oldest plan, are served for ever."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> list[bytes]:
            stub = DeviceServiceStub(channel)
            await stub.GetMetadata(TIMESTAMP)
            await stub.GetPlan(pb.GetPlanRequest(subject="ann"))
            service.timestamp, service.plan = b"timestamp 2", b"plan 2"
            return [
                (await stub.GetMetadata(TIMESTAMP)).content,
                (await stub.GetMetadata(pb.GetMetadataRequest(filename="2.root.json"))).content,
                (await stub.GetPlan(pb.GetPlanRequest(subject="ann"))).plan,
                (await stub.GetPlan(pb.GetPlanRequest(subject="bob"))).plan,
            ]

        faults: list[str] = []
        answers = call([ChaosInterceptor(ChaosSettings(stale=1.0), faults.append)], use)

        assert answers == [b"timestamp 1", b"timestamp 2", b"plan 1", b"plan 2"]
        assert faults == ["stale"] * 2


class TestSeed:
    def test_same_seed_same_faults(self) -> None:
        """The same calls in the same order meet the same faults."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> list[StatusCode]:
            return [
                await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest()).code()
                for _ in range(30)
            ]

        codes = [
            call([ChaosInterceptor(ChaosSettings(drop=0.5, seed=seed), lambda fault: None)], use)
            for seed in (1, 1, 2)
        ]

        assert codes[0] == codes[1]
        assert codes[0] != codes[2]


class TestLoudness:
    def test_log_says_it(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nobody runs it by mistake for long."""
        with caplog.at_level(logging.WARNING):
            ChaosInterceptor(ChaosSettings(drop=0.5), print)

        assert "CHAOS IS ON (drop=0.5,seed=0)" in caplog.text
