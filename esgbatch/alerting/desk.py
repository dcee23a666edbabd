"""Writes conditions into the outbox at once, and sends what is owed beside the job.

A mail server or pager that is down, slow or frozen costs the job nothing while it runs and a
few seconds at its end; what was not taken stays in the outbox for the next command.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from esgbatch.alerting.channels import Channel
from esgbatch.alerting.conditions import Change, Condition
from esgbatch.alerting.outbox import Entry, Outbox, entry_of
from esgbatch.errors import BatchError, ChannelError
from esgbatch.ports import Clock, Listener

LIMIT = 8.0  # seconds for one message
RETRY = 60.0
FRESH = 15.0


class Desk:
    """Without channels it does nothing. `begin` comes first, `stop` and `join` last.

    `log` hears of what is opened, resolved, sent and not sent.
    """

    def __init__(
        self,
        outbox: Outbox,
        channels: Sequence[Channel],
        environment: str,
        host: str,
        clock: Clock,
        log: Listener,
    ) -> None:
        self._outbox = outbox
        self._environment = environment
        self._host = host
        self._clock = clock
        self._log = log
        self._senders = [
            _Sender(channel, [each.name for each in channels], outbox, clock, log) for channel in channels
        ]
        self._broken = False

    def begin(self) -> None:
        """Send what earlier processes could not."""
        try:
            if self._senders and not self._outbox.is_empty():
                self._wake()
        except OSError:
            pass  # told when there is something to be kept

    def change(self, change: Change) -> None:
        """Note it, and have it told."""
        if not self._senders:
            return
        now = self._clock.time()
        try:
            news = self._note(change, now)
        except OSError as error:
            news = self._note_nowhere(change, now, error)
        if news:
            self._wake()

    def stop(self) -> None:
        """Have everything tried once more; `join` waits for it."""
        for sender in self._senders:
            sender.stop()

    def join(self, until: float) -> None:
        """Wait until all is sent, but no longer than to an instant of the monotonic clock."""
        for sender in self._senders:
            sender.join(max(0.0, until - time.monotonic()))

    def _note(self, change: Change, now: float) -> bool:
        if isinstance(change, Condition):
            opened = self._outbox.open(change, now)
            if opened:
                self._tell_log(change)
            return opened
        ended = self._outbox.clear(change, now)
        for entry in ended:
            self._log.event("alert_resolved", alert=entry.key, condition=str(entry.name), why=entry.why)
        return bool(ended)

    def _note_nowhere(self, change: Change, now: float, error: OSError) -> bool:
        """The state folder takes nothing: people are told all the same, while this process lives."""
        if not self._broken:
            self._broken = True
            self._log.event("alert_outbox_failed", error=error.strerror or type(error).__name__)
        if not isinstance(change, Condition):
            return False
        self._tell_log(change)
        for sender in self._senders:
            sender.loose.append(entry_of(change, self._environment, self._host, now))
        return True

    def _tell_log(self, condition: Condition) -> None:
        self._log.event(
            "alert_opened",
            alert=entry_of(condition, self._environment, self._host, 0.0).key,
            condition=str(condition.name),
            severity=str(condition.severity),
            summary=condition.summary,
        )

    def _wake(self) -> None:
        for sender in self._senders:
            sender.wake()


class _Sender:
    """One channel, in a thread that is started when there is something to send, and left behind if it hangs."""

    def __init__(self, channel: Channel, names: list[str], outbox: Outbox, clock: Clock, log: Listener) -> None:
        self._channel = channel
        self._names = names
        self._outbox = outbox
        self._clock = clock
        self._log = log
        self._bell = threading.Event()
        self._stopping = self._news = False
        self._thread: threading.Thread | None = None
        self._trouble = ""
        self.loose: list[Entry] = []

    def wake(self) -> None:
        self._news = True
        self._bell.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"alerts-{self._channel.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._bell.set()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        owing, tried = True, -FRESH
        while True:
            self._bell.wait(RETRY if owing else None)
            self._bell.clear()
            stopping, news, self._news = self._stopping, self._news, False
            if stopping and not news and time.monotonic() - tried < FRESH:
                return  # what is owed still was refused a moment ago
            owing = not self._flush()
            tried = time.monotonic()
            if stopping:
                return

    def _flush(self) -> bool:
        """Whether nothing is owed any more."""
        try:
            with self._outbox.sending(self._channel.name, LIMIT):
                for entry in self._outbox.owed(self._channel.name):
                    if not self._send(entry):
                        return False
                    self._outbox.took(entry, self._channel.name, self._names, self._clock.time())
        except OSError as error:
            if not self.loose:
                self._tell_trouble(error.strerror or type(error).__name__, "")
                return False
        while self.loose:
            if not self._send(self.loose[0]):
                return False
            self.loose.pop(0)
        return True

    def _send(self, entry: Entry) -> bool:
        try:
            self._channel.tell(entry, LIMIT)
        except ChannelError as error:
            self._tell_trouble(str(error), entry.key)
            if not error.sent:
                return False
        except BatchError as error:
            self._tell_trouble(str(error), entry.key)
            return False
        except Exception as error:  # noqa: BLE001 - the job goes on whatever a channel does
            self._tell_trouble(f"a bug, {type(error).__name__}", entry.key)
            return False
        self._trouble = ""
        self._log.event("alert_sent", alert=entry.key, channel=self._channel.name, over=entry.ended is not None)
        return True

    def _tell_trouble(self, why: str, key: str) -> None:
        if why != self._trouble:
            self._trouble = why
            self._log.event("alert_not_sent", alert=key, channel=self._channel.name, error=why)
