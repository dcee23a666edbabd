"""Starts the firm's neighbours on free loopback ports, and ends them."""

from __future__ import annotations

import os
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from esgbatch.sandbox.certificates import server_tls
from esgbatch.sandbox.control import Control, Counts
from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.esg import EsgApi
from esgbatch.sandbox.faults import Board, Faults
from esgbatch.sandbox.listing import PATHS, AccountSystem
from esgbatch.sandbox.login import CLIENT_ID, SCOPE, Login
from esgbatch.sandbox.mail import MailSink
from esgbatch.sandbox.pager import Pager
from esgbatch.sandbox.places import LoginPlace, MailPlace, PagerPlace, Places, SftpPlace
from esgbatch.sandbox.sftp import DIRECTORY, USERNAME, Drop
from esgbatch.sandbox.web import Service


@dataclass(frozen=True, slots=True)
class Options:
    """What the sandbox is to be. The defaults are a small firm with a few rows of every awkward kind."""

    root: Path
    accounts: int = 1000
    seed: int = 1
    inactive: int = 4
    duplicates: int = 3
    refused: int = 2
    odd_ids: int = 17
    ignore_status: bool = False
    auth: bool = True
    tls: bool = False
    token_lifetime: float = 3600.0
    mail_security: Literal["starttls", "none"] = "starttls"
    faults: Faults = field(default_factory=Faults)

    def firm(self) -> Firm:
        """The books that the sandbox will show."""
        return Firm(
            self.accounts,
            self.seed,
            inactive=self.inactive,
            duplicates=self.duplicates,
            refused=self.refused,
            odd_ids=self.odd_ids,
        )


class Sandbox:
    """An asynchronous context: inside it everything listens, and `places` says where."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._root = root = options.root.resolve()
        self._mail_folder, self._events, keys = root / "mail", root / "pager.jsonl", root / "keys"
        web_keys = keys / "web"
        for folder in (root, self._mail_folder, keys, web_keys):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        dice, board, firm = Dice(options.seed), Board(options.faults), options.firm()
        self._routing_key = dice.text(b"routing key", 0)
        self._login = login = Login(dice, board, options.token_lifetime)
        self._drop = Drop(root / "drop", keys)
        starttls = options.mail_security == "starttls"
        self._mail = MailSink(self._mail_folder, keys, dice, board, starttls=starttls)
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        esg = EsgApi(firm, dice, board, login if options.auth else None, yesterday)
        pager = Pager(self._events, dice, board)
        system = AccountSystem(firm, board, ignore_status=options.ignore_status)
        tls: ssl.SSLContext | None = None
        self._web_ca = ""
        if options.tls:
            ca_path, tls = server_tls(web_keys)
            self._web_ca = str(ca_path)
        self._accounts_web, self._esg_web = Service(system.handle, tls), Service(esg.handle, tls)
        self._login_web, self._pager_web = Service(login.handle, tls), Service(pager.handle)
        counters: dict[str, Counts] = {
            "accounts": self._accounts_web.counts,
            "esg": lambda: self._esg_web.counts() | esg.counts(),
            "login": lambda: self._login_web.counts() | {"issued": login.issued},
            "sftp": self._drop.counts,
            "mail": self._mail.counts,
            "pager": lambda: self._pager_web.counts() | {"events": pager.events},
        }
        actions = {"revoke_tokens": login.revoke, "forget_arrivals": esg.forget_arrivals}
        self._control_web = Service(Control(board, actions, counters).handle)

    async def __aenter__(self) -> Places:
        services = (self._accounts_web, self._esg_web, self._login_web, self._pager_web, self._control_web)
        async with AsyncExitStack() as stack:
            for service in services:
                server = await service.start()
                stack.callback(server.close)
            mail = await self._mail.start()
            stack.callback(mail.close)
            drop = await self._drop.start()
            stack.callback(drop.close)
            self._stack = stack.pop_all()
        return self._places(mail.sockets[0].getsockname()[1], drop.get_port())

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _places(self, mail_port: int, drop_port: int) -> Places:
        login, mail, drop, esg = self._login, self._mail, self._drop, self._esg_web.url
        token_url = f"{self._login_web.url}/oauth/token" if self._options.auth else ""
        return Places(
            pid=os.getpid(),
            root=str(self._root),
            accounts_urls={style: self._accounts_web.url + path for style, path in PATHS.items()},
            ratings_url=f"{esg}/v1/accounts/{{account_id}}/esg",
            ratings_post_url=f"{esg}/v1/esg",
            login=LoginPlace(token_url, CLIENT_ID, login.client_secret, SCOPE),
            sftp=SftpPlace(
                "127.0.0.1",
                drop_port,
                USERNAME,
                str(drop.private_key),
                str(drop.known_hosts),
                DIRECTORY,
                str(drop.folder),
            ),
            mail=MailPlace(
                "127.0.0.1",
                mail_port,
                self._options.mail_security,
                mail.username,
                mail.password,
                str(mail.ca or ""),
                str(self._mail_folder),
            ),
            pager=PagerPlace(self._pager_web.url, self._routing_key, str(self._events)),
            control_url=self._control_web.url,
            ca_bundle=self._web_ca,
        )
