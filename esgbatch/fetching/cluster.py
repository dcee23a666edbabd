"""The engine whose attempts run on the workers of a Dask cluster.

The dispatcher stays what it is: the one limiter, the one place for retries, holds, outages
and stops. Each attempt has a permit of its, and this engine only carries permits to workers
and answers back. A permit is worth something for a tenth of a second, so that no worker
that freezes, or network that stalls, lets a burst of old ones loose on the API.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from esgbatch import __version__
from esgbatch.config.model import Dask, is_private_address
from esgbatch.errors import ClusterLost, ConfigError
from esgbatch.fetching.agent import GATHER_SECONDS, Agent, OpenProvider, Permit, boot_clock
from esgbatch.fetching.engines import Mailbox
from esgbatch.http.auth import Authenticator, Credential, LoginRefused, LoginUnavailable
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ports import Listener

POLL_SECONDS = 0.5
# A worker that is silent for so long gets nothing more to do, and then what it had is done by others.
SILENT_SECONDS = 2.0
LOST_SECONDS = 10.0
LOOK_SECONDS = 0.5
RETRY_SECONDS = 1.0
CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
LOST = Answer(Verdict.LOST, detail="its worker is gone")


class ClockBound:
    """How far another host's clock is ahead of ours, at least.

    A time stamp that arrives was sent earlier, so `theirs - ours` at its arrival is never
    more than the difference, and the largest of the last seconds falls short of it by the
    fastest transfer only. No clock need be right; they drift apart by less than a
    millisecond in that time.
    """

    PERIOD = 5.0

    def __init__(self) -> None:
        self._began = -math.inf
        self._now = self._before = -math.inf

    def add(self, theirs: float, ours: float) -> None:
        self._turn(ours)
        self._now = max(self._now, theirs - ours)

    def value(self, ours: float) -> float:
        """Seconds; minus infinity where nothing was heard of late."""
        self._turn(ours)
        return max(self._now, self._before)

    def _turn(self, ours: float) -> None:
        if ours < self._began + self.PERIOD:
            return
        self._before = self._now if ours < self._began + 2 * self.PERIOD else -math.inf
        self._began, self._now = ours, -math.inf


@dataclass(slots=True)
class _Errand:
    """An account on its way; `issued` is when its permit was given, on our clock."""

    work: Work
    issued: float
    credential: Credential | None = None


@dataclass(slots=True, eq=False)
class _Link:
    """A worker: what it has in hand, and what waits to be sent to it."""

    address: str
    actor: Any
    clock: ClockBound = field(default_factory=ClockBound)
    in_hand: dict[int, _Errand] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    heard: float = -math.inf

    def works(self, now: float) -> bool:
        return now - self.heard < SILENT_SECONDS


class DaskEngine:
    """Implements `ports.Engine`: a thread with an event loop, and in it a link to every worker.

    Workers may come and go. What a lost one had in hand is handed back as `LOST`, and what
    it says later is not heard. Where no worker is at work for `config.wait` seconds, from
    the start or later, `collect` raises `ClusterLost`.
    """

    def __init__(
        self,
        config: Dask,
        authenticator: Authenticator,
        open_provider: OpenProvider,
        threads: int,
        listener: Listener,
    ) -> None:
        """
        Raises:
            ConfigError: dask.distributed is not installed, or a certificate cannot be used.
        """
        self._connect = connector(config)
        self._config = config
        self._authenticator = authenticator
        self._agent = (__version__, open_provider, threads)
        self._listener = listener
        self._mailbox = Mailbox()
        self._events: deque[tuple[str, dict[str, object]]] = deque()
        self._inbox: deque[_Errand] = deque()
        self._numbers = itertools.count()
        self._links: list[_Link] = []
        self._homes: dict[int, _Link] = {}
        self._stranded: list[Work] = []
        self._asides: set[asyncio.Task[None]] = set()
        self._trouble = f"the scheduler {config.scheduler} did not answer"
        self._in_flight = 0
        self._closing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="cluster", daemon=True)
        self._thread.start()

    # --- ports.Engine, in the dispatcher's thread ------------------------------------------------

    def submit(self, work: Work) -> None:
        self._in_flight += 1
        self._inbox.append(_Errand(work, boot_clock()))
        self._soon(self._route)

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        answers = self._mailbox.collect(timeout)
        self._in_flight -= len(answers)
        while self._events:
            name, fields = self._events.popleft()
            self._listener.event(name, **fields)
        return answers

    def wake(self) -> None:
        self._mailbox.put(None)

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        answers: list[tuple[Work, Answer]] = []
        if not self._thread.is_alive():
            return answers
        until = time.monotonic() + grace
        if self._in_flight:
            self._soon(self._stop_agents)
        with suppress(ClusterLost):
            while self._in_flight > 0 and (left := until - time.monotonic()) > 0:
                answers += self.collect(left)
        self._soon(self._closing.set)
        self._thread.join(2 * CLOSE_SECONDS)
        return answers

    def _soon(self, function: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended: the mailbox says why
            self._loop.call_soon_threadsafe(function)

    # --- the cluster, in the loop's thread -------------------------------------------------------

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as bug:  # noqa: BLE001 - it must reach the dispatcher's thread, not die here
            self._mailbox.put(bug)
        finally:
            self._loop.close()

    async def _main(self) -> None:
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._keep_connected())]
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait([*tasks, closing], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, closing):
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task  # where it ended by itself, that was a bug

    async def _keep_connected(self) -> None:
        while True:
            client = None
            try:
                client = await self._connect()
                await self._follow(client)
            except (OSError, RuntimeError) as error:  # TimeoutError is an OSError
                self._trouble = f"the scheduler {self._config.scheduler} cannot be reached: {reason(error)}"
            finally:
                await _close(client)
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        """Give up where no worker is at work for too long; let what waited for one go when there is one."""
        last = time.monotonic()
        while True:
            now = time.monotonic()
            if self._at_work(now):
                last = now
                stranded, self._stranded = self._stranded, []
                for work in stranded:
                    self._mailbox.put([(work, LOST)])
            elif now - last > self._config.wait:
                words = f"No worker has rated anything for {self._config.wait:g} s: {self._trouble}."
                self._mailbox.put(ClusterLost(words))
                last = now
            await asyncio.sleep(LOOK_SECONDS / 2)

    async def _follow(self, client: Any) -> None:
        """Keep a link to each worker that the scheduler knows, as long as the scheduler is there."""
        serving: dict[str, asyncio.Task[None]] = {}
        try:
            while client.status == "running":
                try:
                    known = await asyncio.wait_for(client.nthreads(), CONNECT_SECONDS)
                except TimeoutError:
                    # The workers do without it.
                    self._trouble = f"the scheduler {self._config.scheduler} does not answer"
                    continue
                if not known:
                    self._trouble = f"no worker has joined the scheduler {self._config.scheduler}"
                serving = {address: task for address, task in serving.items() if not task.done()}
                for address in known.keys() - serving.keys():
                    serving[address] = asyncio.create_task(self._serve(client, address))
                await asyncio.sleep(LOOK_SECONDS)
            self._trouble = f"the connection to the scheduler {self._config.scheduler} was lost"
            self._event("cluster_trouble", error=self._trouble)
        finally:
            for task in serving.values():
                task.cancel()
            await asyncio.gather(*serving.values(), return_exceptions=True)

    async def _serve(self, client: Any, address: str) -> None:
        """One worker, until it is lost."""
        if not is_private_address(address):
            self._trouble = f"the worker {address} is reached without TLS, and is refused"
            await asyncio.sleep(RETRY_SECONDS)
            return
        future = client.submit(
            Agent, *self._agent, workers=[address], allow_other_workers=False, actor=True, pure=False
        )
        link = None
        try:
            link = _Link(address, await asyncio.wait_for(future, LOST_SECONDS))
            self._links.append(link)
            self._event("cluster_worker_joined", worker=address)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(link))
                tasks.create_task(self._send(link))
        except Exception as error:  # noqa: BLE001 - whatever a worker dies of, it is lost, and others go on
            self._trouble = f"the worker {address} is of no use: {reason(error)}"
            if link is None:
                self._event("cluster_trouble", error=self._trouble)
        finally:
            if link is not None:
                self._links.remove(link)
                self._event("cluster_worker_lost", worker=address, attempts=len(link.in_hand))
                for errand in link.in_hand.values():
                    self._mailbox.put([(errand.work, LOST)])
            future.release()
        await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, link: _Link) -> None:
        while True:
            theirs, answers = await asyncio.wait_for(link.actor.answers(POLL_SECONDS), LOST_SECONDS)
            link.heard = time.monotonic()
            link.clock.add(theirs, boot_clock())
            for number, answer in answers:
                self._answered(link, number, answer)

    async def _send(self, link: _Link) -> None:
        while True:
            await link.wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            link.wake.clear()
            numbers, link.waiting = link.waiting, []
            try:
                credential = await asyncio.to_thread(self._authenticator.credential)
            except (LoginUnavailable, LoginRefused) as error:
                refused = isinstance(error, LoginRefused)
                verdict = Verdict.LOGIN_REFUSED if refused else Verdict.TRANSIENT
                detail = str(error) if refused else f"login: {error}"
                for number in numbers:
                    self._mailbox.put([(link.in_hand.pop(number).work, Answer(verdict, detail=detail))])
                continue
            ahead = link.clock.value(boot_clock())
            permits = []
            for number in numbers:
                errand = link.in_hand[number]
                errand.credential = credential
                expires = errand.issued + self._config.permit_seconds + ahead
                permits.append(Permit(number, errand.work, expires))
            await asyncio.wait_for(link.actor.take(credential, permits), LOST_SECONDS)

    def _route(self) -> None:
        now = time.monotonic()
        while self._inbox:
            errand = self._inbox.popleft()
            link = self._homes.pop(errand.work.position, None)
            if link not in self._links:
                link = min(self._at_work(now), key=lambda each: len(each.in_hand), default=None)
            if link is None:
                self._stranded.append(errand.work)
                continue
            number = next(self._numbers)
            link.in_hand[number] = errand
            link.waiting.append(number)
            link.wake.set()

    def _answered(self, link: _Link, number: int, answer: Answer | str) -> None:
        errand = link.in_hand.pop(number)
        if isinstance(answer, str):
            self._mailbox.put(RuntimeError(f"on the worker {link.address}:\n{answer}"))
            return
        if answer.verdict in (Verdict.LOST, Verdict.REDIRECTED):
            # That worker keeps the connection, or the new address.
            self._homes[errand.work.position] = link
        if answer.verdict is Verdict.UNAUTHORIZED:
            aside = asyncio.create_task(self._refused(errand, answer))
            self._asides.add(aside)
            aside.add_done_callback(self._asides.discard)
        else:
            self._mailbox.put([(errand.work, answer)])

    async def _refused(self, errand: _Errand, answer: Answer) -> None:
        """First the credential is given up, then the dispatcher hears of it and tries again."""
        await asyncio.to_thread(self._authenticator.refused, errand.credential)
        self._mailbox.put([(errand.work, answer)])

    def _stop_agents(self) -> None:
        async def stop(link: _Link) -> None:
            with suppress(Exception):
                await link.actor.stop()

        self._asides.update(asyncio.create_task(stop(link)) for link in self._links)

    def _at_work(self, now: float) -> list[_Link]:
        return [link for link in self._links if link.works(now)]

    def _event(self, name: str, **fields: object) -> None:
        self._events.append((name, fields))
        self._mailbox.put(None)


def connector(config: Dask) -> Any:
    """A function that connects to the scheduler and returns Dask's asynchronous client.

    Raises:
        ConfigError: dask.distributed is not installed, or a certificate cannot be used.
    """
    try:
        from distributed import Client, Security
    except ImportError:
        raise ConfigError(
            'ratings.engine = "dask" needs dask.distributed, which is not installed.',
            advice="install the extra `dask` here, on the scheduler's host and the workers' (docs/scaling.md)",
        ) from None
    # What it has to say comes through the events; its own lines may hold anything.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    security = None
    if config.tls_ca_file:
        security = Security(
            tls_ca_file=config.tls_ca_file,
            tls_client_cert=config.tls_client_cert,
            tls_client_key=config.tls_client_key,
            require_encryption=True,
        )
        try:
            security.get_connection_args("client")
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"A certificate file under [ratings.dask] cannot be used: {error.strerror or error}."
            ) from None

    async def connect() -> Any:
        client = Client(
            config.scheduler,
            security=security,
            asynchronous=True,
            direct_to_workers=True,
            timeout=CONNECT_SECONDS,
            name="esgbatch",
        )
        try:
            return await client
        except BaseException:
            await _close(client)
            raise

    return connect


async def _close(client: Any) -> None:
    if client is not None:
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(client.close(), CLOSE_SECONDS)


def reason(error: BaseException) -> str:
    """Why Dask gave up, in one line without its objects' own descriptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = re.sub(r"^in <.*?>: ", "", str(error).strip()).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
