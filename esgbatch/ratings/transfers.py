"""Many of libcurl's transfers at once, driven by one thread through epoll.

libcurl's multi interface (its "multi_socket" way) says which sockets to watch and when it wants to
be called again, so that a turn costs what happens in it, however many transfers wait.
"""

from __future__ import annotations

import os
import select
import time
from typing import Generic, TypeVar

import pycurl

T = TypeVar("T")

# What to wait for, by libcurl's CURL_POLL_NONE, _IN, _OUT and _INOUT.
_WANTED = (0, select.EPOLLIN, select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT)


class Transfers(Generic[T]):
    """Runs transfers in the thread that calls `turn`, and names each by what it was started with.

    Connections are this object's, not the handles', and the first idle one is used again; so are
    TLS sessions and the CAs that were read from a file.

    Args:
        most: connections that are kept open.
    """

    def __init__(self, most: int) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, most)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._call_again_in)
        self._under_way: dict[pycurl.Curl, T] = {}
        self._call_at: float | None = None
        self._wanted: dict[int, int] = {}
        self._epoll = select.epoll()
        self._bell = _Bell()
        self._epoll.register(self._bell.descriptor, select.EPOLLIN)

    def start(self, handle: pycurl.Curl, name: T) -> None:
        """Begin, in the next turn, what the handle is set to."""
        self._under_way[handle] = name
        self._multi.add_handle(handle)

    def turn(self, timeout: float) -> list[tuple[T, int, str]]:
        """Wait at most so many seconds for something to happen, and see to it.

        Returns those that have ended, with libcurl's error, 0 for none, and its words.
        """
        if self._call_at is not None:
            timeout = min(timeout, max(0.0, self._call_at - time.monotonic()))
        for descriptor, events in self._epoll.poll(timeout):
            if descriptor == self._bell.descriptor:
                self._bell.hush()
            elif descriptor in self._wanted:
                self._multi.socket_action(descriptor, _happened(events))
                if descriptor in self._wanted:
                    self._arm(descriptor)
        if self._call_at is not None and self._call_at <= time.monotonic():
            self._call_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return self._ended()

    def ring(self) -> None:
        """Let a turn end that waits, or the next one; from any thread, and after `close` too."""
        self._bell.ring()

    def close(self) -> None:
        """Break every connection; what is under way gets no end."""
        for handle in self._under_way:
            self._multi.remove_handle(handle)
        self._under_way.clear()
        self._multi.close()
        self._epoll.close()

    def _ended(self) -> list[tuple[T, int, str]]:
        ended: list[tuple[T, int, str]] = []
        queued = 1
        while queued:
            queued, good, bad = self._multi.info_read()
            ended += [(self._take_off(handle), pycurl.E_OK, "") for handle in good]
            ended += [(self._take_off(handle), code, words) for handle, code, words in bad]
        return ended

    def _take_off(self, handle: pycurl.Curl) -> T:
        self._multi.remove_handle(handle)
        return self._under_way.pop(handle)

    def _watch(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        """CURLMOPT_SOCKETFUNCTION."""
        if what == pycurl.POLL_REMOVE:
            self._wanted.pop(descriptor, None)
        else:
            self._wanted[descriptor] = _WANTED[what]
            self._arm(descriptor)

    def _arm(self, descriptor: int) -> None:
        """Be told of the next event, once: so a socket that is not wanted any more needs no call.

        The kernel forgets a socket that is closed, and its number may come again.
        """
        events = self._wanted[descriptor] | select.EPOLLONESHOT
        try:
            self._epoll.modify(descriptor, events)
        except FileNotFoundError:
            self._epoll.register(descriptor, events)

    def _call_again_in(self, milliseconds: int) -> None:
        """CURLMOPT_TIMERFUNCTION; -1 takes the timer away."""
        self._call_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _happened(events: int) -> int:
    """Epoll's events in libcurl's terms."""
    happened = 0
    if events & select.EPOLLIN:
        happened |= pycurl.CSELECT_IN
    if events & select.EPOLLOUT:
        happened |= pycurl.CSELECT_OUT
    if events & (select.EPOLLERR | select.EPOLLHUP):
        happened |= pycurl.CSELECT_ERR
    return happened


class _Bell:
    """An eventfd. It is closed with the last who may ring it, since its number is somebody else's then."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def hush(self) -> None:
        os.eventfd_read(self.descriptor)

    def __del__(self) -> None:
        os.close(self.descriptor)
