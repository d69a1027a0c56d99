"""Where the tests of notifications have messages sent: apprise's own extension point, and SMTP."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from importlib.util import find_spec
from typing import Any

POSTBOX = "postbox://"
ELSEWHERE = "json://127.0.0.1:1"


@dataclass(frozen=True)
class Received:
    """What a service was given."""

    title: str
    body: str
    kind: str


@dataclass
class Postbox:
    """What arrived at `postbox://` so far."""

    received: list[Received] = field(default_factory=list)


def open_postbox() -> Postbox:
    """Have apprise know `postbox://`, which keeps what it is given; an older one is replaced."""
    from apprise.decorators.base import CustomNotifyPlugin
    from apprise.plugins import N_MGR

    postbox = Postbox()

    def keep(body: str, title: str, notify_type: Any, *_: Any, **__: Any) -> None:
        postbox.received.append(Received(title, body, str(notify_type)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports all its plugins
        manager: Any = N_MGR
        manager.remove("postbox")
        register: Any = CustomNotifyPlugin.instantiate_plugin
        register(url="postbox", send_func=keep)
    return postbox


def any_service() -> str:
    """Return the URL of a service that takes all; of none, where apprise is not installed."""
    if find_spec("apprise") is None:
        return ELSEWHERE
    open_postbox()
    return POSTBOX


class Mails:
    """What an SMTP server does: it keeps mails, unless it is told what to answer instead."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.recipients: list[list[str]] = []
        self.answer_to_recipient = "250 OK"
        self.answer_to_data = "250 OK"

    async def handle_RCPT(  # noqa: N802 - named by aiosmtpd
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.answer_to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer_to_recipient

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.answer_to_data.startswith("250"):
            self.received.append(message_from_bytes(envelope.content))
            self.recipients.append(list(envelope.rcpt_tos))
        return self.answer_to_data


@contextmanager
def smtp_server(mails: Mails, **options: Any) -> Iterator[int]:
    """Serve SMTP on 127.0.0.1; the port is free and given."""
    from aiosmtpd.controller import Controller

    class Server(Controller):
        def _trigger_server(self) -> None:
            serving: Any = self.server
            self.port = serving.sockets[0].getsockname()[1]  # the one that the system chose
            connect: Any = super()._trigger_server
            connect()

    server = Server(mails, hostname="127.0.0.1", port=0, **options)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """Accept connections on 127.0.0.1, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def mail_url(port: int, more: str = "") -> str:
    """Return the URL of a mailbox at a server of the test's own."""
    return f"mailto://127.0.0.1:{port}/?mode=insecure&from=run@example.org&to=me@example.org{more}"


def subject(mail: Message) -> str:
    return str(make_header(decode_header(str(mail["Subject"]))))


def text(mail: Message) -> str:
    parts = [part for part in mail.walk() if not part.is_multipart()]
    payload = parts[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()
