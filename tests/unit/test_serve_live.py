"""The shell around the batcher, with sessions that a test holds in its hand."""

import asyncio
import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from serve_doubles import load_double, write_double

from raceline.core.clock import SystemClock
from raceline.core.errors import DeadlineError, NotReadyError, QueueFullError, ShapeError
from raceline.serve import Settings
from raceline.serve.batching import Batcher, Eager, Limits
from raceline.serve.live import LiveModel


@contextlib.asynccontextmanager
async def live(root, model, *, workers=1, max_batch=8, max_queue=64, **plan):
    folder = write_double(root, model, model, **plan)
    loaded = load_double(folder, Settings(workers=workers, max_batch=max_batch), SystemClock())
    batcher = Batcher(Eager(), Limits(max_batch, max_queue), loaded.costs, workers)
    served = LiveModel(model, loaded, batcher, SystemClock())
    try:
        yield served
    finally:
        loaded.session.open_.set()
        await served.close()
        assert loaded.session.closed


def rows(count, length=4, seed=0):
    return {"x": np.random.default_rng(seed).random((count, length), dtype=np.float32)}


async def entered(session):
    """Until a batch is inside the engine."""
    assert await asyncio.to_thread(session.entered.acquire, timeout=20)


async def queued(served, items):
    """Until that many items wait."""
    async with asyncio.timeout(20):
        while served.waiting_items != items:
            await asyncio.sleep(0.001)


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=12),
    workers=st.integers(1, 2),
)
def test_batched_answers_are_those_of_single_requests(tmp_path_factory, shapes, workers):
    """Whatever mix of sizes waits together, everyone gets their own rows back."""
    root = tmp_path_factory.mktemp("live")

    async def script():
        async with live(root, "ragged", workers=workers, max_batch=4) as served:
            served.loaded.session.open_.clear()
            asked = [rows(count, length, seed) for seed, (count, length) in enumerate(shapes)]
            tasks = [asyncio.create_task(served.infer(inputs)) for inputs in asked]
            await entered(served.loaded.session)
            served.loaded.session.open_.set()
            for inputs, outputs in zip(asked, await asyncio.gather(*tasks), strict=True):
                np.testing.assert_array_equal(outputs["y"], np.cumsum(inputs["x"], axis=1))
            assert sum(served.loaded.session.sizes) == sum(count for count, _ in shapes)

    asyncio.run(script())


def test_waiting_requests_share_a_batch(tmp_path):
    async def script():
        async with live(tmp_path, "scale") as served:
            session = served.loaded.session
            session.open_.clear()
            first = asyncio.create_task(served.infer(rows(1)))
            await entered(session)
            others = [asyncio.create_task(served.infer(rows(2))) for _ in range(3)]
            await queued(served, 6)
            session.open_.set()
            await asyncio.gather(first, *others)
            assert session.sizes == [1, 6]
            assert served.statistics.executions == 2
            assert served.statistics.items == 7
            assert sorted(served.statistics.batches) == [1, 6]

    asyncio.run(script())


def test_an_answer_survives_the_next_batch(tmp_path):
    """An engine that hands back its input buffer must not have earlier answers overwritten."""

    async def script():
        async with live(tmp_path, "echo_float32") as served:
            first = await served.infer({"x": np.full((2, 3), 1, np.float32)})
            await served.infer({"x": np.full((2, 3), 2, np.float32)})
            assert (first["y"] == 1).all()

    asyncio.run(script())


def test_a_cancelled_request_makes_room_and_its_batch_goes_on(tmp_path):
    async def script():
        async with live(tmp_path, "scale", max_queue=1, max_batch=1) as served:
            session = served.loaded.session
            session.open_.clear()
            running = asyncio.create_task(served.infer(rows(1)))
            await entered(session)
            waiting = asyncio.create_task(served.infer(rows(1)))
            await queued(served, 1)
            with pytest.raises(QueueFullError, match="1 of 1 items"):
                await served.infer(rows(1))
            for task in (waiting, running):
                task.cancel()
            await asyncio.gather(waiting, running, return_exceptions=True)
            assert served.waiting_items == 0
            after = asyncio.create_task(served.infer(rows(1)))
            await queued(served, 1)
            session.open_.set()
            assert (await after)["y"].shape == (1, 4)
            assert session.sizes == [1, 1]  # the cancelled one that waited never ran

    asyncio.run(script())


def test_a_deadline_passes_while_waiting(tmp_path):
    async def script():
        async with live(tmp_path, "scale") as served:
            served.loaded.session.open_.clear()
            running = asyncio.create_task(served.infer(rows(1)))
            await entered(served.loaded.session)
            with pytest.raises(DeadlineError, match="in time"):
                await served.infer(rows(1), SystemClock().now_s() + 0.02)
            served.loaded.session.open_.set()
            await running

    asyncio.run(script())


def test_drain_waits_for_what_was_admitted(tmp_path):
    async def script():
        async with live(tmp_path, "scale", max_batch=1) as served:
            session = served.loaded.session
            session.open_.clear()
            tasks = [asyncio.create_task(served.infer(rows(1))) for _ in range(3)]
            await entered(session)
            await queued(served, 2)
            draining = asyncio.create_task(served.drain())
            await asyncio.sleep(0)
            with pytest.raises(NotReadyError, match="draining"):
                await served.infer(rows(1))
            assert not draining.done()
            session.open_.set()
            await draining
            assert len(await asyncio.gather(*tasks)) == 3

    asyncio.run(script())


def test_closing_without_drain_fails_what_waits(tmp_path):
    async def script():
        async with live(tmp_path, "scale") as served:
            served.loaded.session.open_.clear()
            running = asyncio.create_task(served.infer(rows(1)))
            await entered(served.loaded.session)
            waiting = asyncio.create_task(served.infer(rows(1)))
            await queued(served, 1)
            closing = asyncio.create_task(served.close())
            with pytest.raises(NotReadyError, match="stopped"):
                await waiting
            served.loaded.session.open_.set()
            await asyncio.gather(running, closing)

    asyncio.run(script())


def test_an_engine_that_returns_too_few_rows_is_caught(tmp_path):
    async def script():
        async with live(tmp_path, "scale") as served:
            served.loaded.session.function = lambda inputs: {"y": inputs["x"][:1]}
            with pytest.raises(Exception, match=r"shape \[1, 4\] for a batch of 2 items"):
                await served.infer(rows(2))

    asyncio.run(script())


def test_inputs_that_do_not_fit_never_reach_the_batcher(tmp_path):
    async def script():
        async with live(tmp_path, "scale") as served:
            with pytest.raises(ShapeError, match="'x'"):
                await served.infer(rows(2, length=5))
            assert served.statistics.fail.count == 1
            assert served.loaded.session.sizes == []

    asyncio.run(script())
