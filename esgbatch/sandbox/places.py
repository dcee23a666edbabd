"""Where a running sandbox is: what a client has to be told, as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class LoginPlace:
    """`token_url` is empty where the ESG API asks for no token."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str


@dataclass(frozen=True, slots=True)
class SftpPlace:
    """`directory` is the drop folder as a client sees it, `folder` the same one on this disk."""

    host: str
    port: int
    username: str
    private_key: str
    known_hosts: str
    directory: str
    folder: str


@dataclass(frozen=True, slots=True)
class MailPlace:
    """`security` is starttls, with a login and the CA's file, or none, with neither; mails land in `folder`."""

    host: str
    port: int
    security: str
    username: str
    password: str
    ca_bundle: str
    folder: str


@dataclass(frozen=True, slots=True)
class PagerPlace:
    """`events` is the file with what was received, one JSON object a line."""

    url: str
    routing_key: str
    events: str


@dataclass(frozen=True, slots=True)
class Places:
    """`accounts_urls` has one address for each paging style, `ratings_url` holds `{account_id}`.

    With `--tls`, `ca_bundle` is the file of the CA of account system, login and ESG API.
    """

    pid: int
    root: str
    accounts_urls: dict[str, str]
    ratings_url: str
    ratings_post_url: str
    login: LoginPlace
    sftp: SftpPlace
    mail: MailPlace
    pager: PagerPlace
    control_url: str
    ca_bundle: str = ""

    @property
    def accounts_url(self) -> str:
        """The one that pages by cursor."""
        return self.accounts_urls["cursor"]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Places:
        fields = json.loads(line)
        parts = {"login": LoginPlace, "sftp": SftpPlace, "mail": MailPlace, "pager": PagerPlace}
        return cls(**fields | {name: kind(**fields[name]) for name, kind in parts.items()})
