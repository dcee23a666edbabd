"""A worker's side of the cluster: no request leaves but with a permit that still holds."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest

from esgbatch import __version__
from esgbatch.fetching import agent as agent_module
from esgbatch.fetching.agent import Agent, Permit, boot_clock
from esgbatch.fetching.cluster import ClockBound
from esgbatch.http.auth import Authenticator, Credential
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ports import RatingProvider

RATED = Answer(Verdict.RATED, scores=(Decimal("71.24"),), http_status=200)
HELD_BACK = Answer(Verdict.LOST, detail="held back")
WORK = Work(3, "A-3")
TOKEN = Credential("Authorization", "Bearer canary")


class Api:
    """A provider whose connections become ready when the test says so; `sent` is what really left."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.sent: list[tuple[str, Credential | None]] = []
        self.begun = 0
        self.aborted = False

    def open(self, authenticator: Authenticator, *, before_sending: Callable[[], bool]) -> RatingProvider:
        self._login, self._may_send = authenticator, before_sending
        return self

    def rate(self, account_id: str) -> Answer:
        self.begun += 1
        credential = self._login.credential()
        if account_id == "bug":
            raise ZeroDivisionError
        self.ready.get(timeout=10)
        if not self._may_send():
            return HELD_BACK
        self.sent.append((account_id, credential))
        return RATED

    def abort(self) -> None:
        self.aborted = True


def permit(number: int, seconds: float, work: Work = WORK) -> Permit:
    return Permit(number, work, boot_clock() + seconds)


async def answers(agent: Agent, count: int) -> Sequence[tuple[int, Answer | str]]:
    found: list[tuple[int, Answer | str]] = []
    while len(found) < count:
        before = boot_clock()
        theirs, more = await agent.answers(5.0)
        assert before <= theirs <= boot_clock()
        assert more, "nothing came"
        found += more
    return found


def test_a_permit_that_holds_is_used_at_once():
    async def night() -> None:
        api = Api()
        agent = Agent(__version__, api.open, 4)
        await agent.take(TOKEN, [permit(1, 60.0)])
        api.ready.put(None)
        assert await answers(agent, 1) == [(1, RATED)]
        assert api.sent == [("A-3", TOKEN)]

    asyncio.run(night())


def test_a_request_that_comes_too_late_waits_for_another_permit_on_its_connection():
    async def night() -> None:
        api = Api()
        agent = Agent(__version__, api.open, 4)
        await agent.take(TOKEN, [permit(1, -0.001)])
        api.ready.put(None)
        [(number, lost)] = await answers(agent, 1)
        assert (number, lost.verdict) == (1, Verdict.LOST)
        assert api.sent == []
        await agent.take(TOKEN, [permit(2, 60.0)])
        assert await answers(agent, 1) == [(2, RATED)]
        assert api.begun == 1, "the same attempt, which had its connection ready"

    asyncio.run(night())


def test_a_message_that_comes_twice_is_obeyed_once():
    async def night() -> None:
        api = Api()
        agent = Agent(__version__, api.open, 4)
        chunk = [permit(1, 60.0, Work(1, "A-1")), permit(4, 60.0, Work(4, "A-4"))]
        await agent.take(TOKEN, chunk)
        await agent.take(TOKEN, chunk)
        await agent.take(TOKEN, [permit(5, 60.0, Work(5, "A-5"))])
        for _ in range(5):
            api.ready.put(None)
        assert sorted(number for number, _ in await answers(agent, 3)) == [1, 4, 5]
        assert len(api.sent) == 3

    asyncio.run(night())


def test_nobody_waits_long_for_another_permit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(agent_module, "PARK_SECONDS", 0.01)

    async def night() -> None:
        api = Api()
        agent = Agent(__version__, api.open, 4)
        await agent.take(TOKEN, [permit(1, -1.0)])
        api.ready.put(None)
        await answers(agent, 1)
        while agent._parked:
            await asyncio.sleep(0.005)
        await agent.take(TOKEN, [permit(2, 60.0)])
        api.ready.put(None)
        assert await answers(agent, 1) == [(2, RATED)], "nothing more was said of the first"
        assert (api.begun, len(api.sent)) == (2, 1)

    asyncio.run(night())


def test_a_stop_lets_nothing_leave():
    async def night() -> None:
        api = Api()
        agent = Agent(__version__, api.open, 4)
        await agent.take(TOKEN, [permit(1, -1.0, Work(1, "A-1"))])
        api.ready.put(None)
        await answers(agent, 1)
        await agent.take(TOKEN, [permit(2, 60.0, Work(2, "A-2"))])
        await agent.stop()
        api.ready.put(None)
        assert await answers(agent, 1) == [(2, HELD_BACK)]
        assert api.aborted
        assert api.sent == []

    asyncio.run(night())


def test_a_bug_is_told():
    async def night() -> None:
        agent = Agent(__version__, Api().open, 4)
        await agent.take(None, [permit(1, 60.0, Work(1, "bug"))])
        [(_, text)] = await answers(agent, 1)
        assert isinstance(text, str)
        assert "ZeroDivisionError" in text

    asyncio.run(night())


def test_another_program_is_refused():
    with pytest.raises(RuntimeError, match="it has esgbatch"):
        Agent("0.0.1", Api().open, 1)


def test_a_credential_is_not_in_what_is_printed():
    assert "canary" not in repr((TOKEN, [permit(1, 1.0)]))


@pytest.mark.parametrize("ahead", [-4000.0, 0.0, 1e6])
def test_the_bound_is_never_above_the_difference_and_close_to_it(ahead: float):
    """Transfers take 1 to 300 ms; a worker that was silent is unknown after a while."""
    bound = ClockBound()
    assert bound.value(0.0) == -float("inf")
    now = 0.0
    for number in range(200):
        delay = 0.001 + 0.3 * ((number * 37) % 100) / 100
        now += 0.1
        bound.add(now + ahead, now + delay)
        value = bound.value(now + delay)
        assert value <= ahead + 1e-6
        if number > 100:
            assert value >= ahead - 0.005
    assert bound.value(now + 60.0) == -float("inf")


def test_a_clock_that_jumps_back_is_followed():
    """A worker's host that was started anew, say: a bound from before would make its permits last too long."""
    bound = ClockBound()
    for tenth in range(50):
        bound.add(1000.0 + tenth / 10, tenth / 10)
    for tenth in range(50, 200):
        bound.add(tenth / 10, tenth / 10)
    assert bound.value(20.0) <= 0.0
