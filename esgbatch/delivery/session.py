"""Opening an SFTP session that cannot hang: pinned host key, one private key, a limit on every wait."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from esgbatch.config.model import Delivery
from esgbatch.config.secrets import require_private
from esgbatch.delivery.client import SftpClient
from esgbatch.delivery.hostkeys import PinnedKeys
from esgbatch.errors import ConfigError, DeliveryError

# What may be another time; everything else that is raised here never passes by itself.
PASSING = (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError)

KEY_TYPES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
CIPHERS = (
    "aes128-gcm@openssh.com",  # fastest in paramiko: one pass, in C
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
REPLIES = 10  # how many slow answers in a row a session is given where nobody says how long it may last
JOIN_TIMEOUT = 1.0

Addresses = list[tuple[int, int, int, str, Any]]  # as getaddrinfo gives them

# Without a handler Python prints a library's errors, tracebacks included, to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@contextmanager
def open_session(config: Delivery, limit: float | None = None) -> Iterator[SftpClient]:
    """An SFTP session with the configured server, closed at the end whatever happens.

    Connecting takes `config.timeout` seconds at most for each of the host's addresses; so do, each,
    the name's resolution, the handshake, the login, the subsystem's start, and every single answer
    in the session. After `limit` seconds (default: ten timeouts) the session ends, even when
    each answer came in time.

    Raises:
        ConfigError: the private key, its passphrase or known_hosts cannot be used.
        HostKeyMismatch: the server's key is not one of those in known_hosts.
        DeliveryError: the server refuses the login, or shares no algorithm with us.
        OSError, EOFError, paramiko.SSHException, paramiko.SFTPError: anything that may pass.
    """
    key = load_private_key(config)
    pinned = PinnedKeys.load(config)
    transport = paramiko.Transport(_connect(config))
    try:
        with _limit(transport, config.timeout, "the SSH handshake"):
            _shake_hands(transport, config, pinned)
        with _limit(transport, config.timeout, "the login"):
            _log_in(transport, config, key)
        client = _start_sftp(transport, config)
        with _limit(transport, limit or REPLIES * config.timeout, "the whole transfer"):
            yield client
    finally:
        _close(transport)


def load_private_key(config: Delivery) -> paramiko.PKey:
    """The client's key, from its private file; no agent, no other key is ever tried.

    Raises:
        ConfigError: the file is missing, open to others, no usable key, or the passphrase is wrong.
    """
    path = config.private_key
    require_private(path)
    passphrase = config.passphrase.reveal() if config.passphrase is not None else None
    for key_type in KEY_TYPES:
        try:
            return key_type.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise ConfigError(
                f"The private key {path} has a passphrase, and delivery.passphrase is not set."
            ) from None
        except (paramiko.SSHException, ValueError):
            continue  # not of this type
        except OSError as error:
            raise ConfigError(f"The private key {path} cannot be read: {error.strerror}.") from None
    wrong = ", or delivery.passphrase is not its passphrase" if passphrase is not None else ""
    raise ConfigError(f"The file {path} is no private key of type ed25519, ecdsa or rsa{wrong}.")


# --- the steps ---------------------------------------------------------------------------------


def _connect(config: Delivery) -> socket.socket:
    failure: OSError = OSError(f"the name {config.host} has no address")
    for family, kind, protocol, _, address in _resolve(config):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(config.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small requests wait for replies
            # A peer that takes no more bytes is given up by the kernel: paramiko would try for ever.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(config.timeout * 1000))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _resolve(config: Delivery) -> Addresses:
    """getaddrinfo with a limit: it has none of its own, and no signal interrupts it."""
    answers: queue.SimpleQueue[Addresses | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="resolve").start()
    try:
        answer = answers.get(timeout=config.timeout)
    except queue.Empty:
        raise TimeoutError(f"the name {config.host} was not resolved within {config.timeout:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _shake_hands(transport: paramiko.Transport, config: Delivery, pinned: PinnedKeys) -> None:
    transport.banner_timeout = transport.handshake_timeout = config.timeout
    transport.clear_to_send_timeout = config.timeout
    options = transport.get_security_options()
    options.ciphers = CIPHERS
    options.key_types = pinned.preferred(options.key_types)
    try:
        transport.start_client()
    except IncompatiblePeer as error:
        raise DeliveryError(
            f"The SFTP server {config.host} shares no algorithm with us: {error}.",
            advice="ask the server's owner to bring its SSH software up to date, "
            "then `esgbatch deliver --date {date}`",
        ) from error
    pinned.check(transport.get_remote_server_key())


def _log_in(transport: paramiko.Transport, config: Delivery, key: paramiko.PKey) -> None:
    answered = threading.Event()
    transport.auth_publickey(config.username, key, answered)
    if not answered.wait(config.timeout):
        # Said here, since the limit outside, which is as long, may come a moment later.
        raise TimeoutError(f"the login took longer than {config.timeout:g} s")
    if transport.is_authenticated():
        return
    failure = transport.get_exception()
    if isinstance(failure, paramiko.AuthenticationException) or transport.is_active():
        raise DeliveryError(
            f"The SFTP server {config.host} refuses the login of {config.username} with the key "
            f"{config.private_key} ({key.fingerprint}){f': {failure}' if failure else ''}.",
            advice="have this key's public half installed for this user, then `esgbatch deliver --date {date}`",
        ) from failure
    raise failure or paramiko.SSHException("the connection ended during the login")


def _start_sftp(transport: paramiko.Transport, config: Delivery) -> SftpClient:
    with _limit(transport, config.timeout, "the SFTP subsystem"):
        channel = transport.open_session(timeout=config.timeout)
        channel.settimeout(config.timeout)
    with _limit(transport, config.timeout, "the SFTP subsystem", channel):
        channel.invoke_subsystem("sftp")
        return SftpClient(channel, config.timeout)


# --- limits ------------------------------------------------------------------------------------


@contextmanager
def _limit(
    transport: paramiko.Transport, seconds: float, what: str, channel: paramiko.Channel | None = None
) -> Iterator[None]:
    """Close the connection from outside when the block takes longer than `seconds`.

    paramiko's own limits leave waits open (its issues 462, 515 and 1380); on a closed
    transport all of them end, except `invoke_subsystem` on a channel that died a moment
    before, which waits for an event that was set too early.

    Raises:
        TimeoutError: the time was up.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        transport.close()
        if channel is not None:
            channel.event.set()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except PASSING as error:
        if expired.is_set():
            raise TimeoutError(f"{what} took longer than {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _close(transport: paramiko.Transport) -> None:
    """Hang up without a word, for the peer may be frozen; leave no thread behind."""
    with contextlib.suppress(OSError):
        transport.sock.shutdown(socket.SHUT_RDWR)
    transport.close()
    if transport.is_alive():
        transport.join(JOIN_TIMEOUT)
