"""Notify: what is said, to whom, how often; and what happens where it cannot be delivered."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Priority, every
from eventbus.handlers import Notify
from eventbus.handlers.notify import DeliveryError
from eventbus.loops import Run
from eventbus.signals import run_finished
from eventbus.testing import FakeClock

from .postbox import (
    POSTBOX,
    Mails,
    Postbox,
    closed_port,
    mail_url,
    open_postbox,
    silent_server,
    smtp_server,
    subject,
    text,
)
from .reporting import CountedMetrics, start

pytest.importorskip("apprise")
pytest.importorskip("aiosmtpd")

LONG_S = 60.0  # a test that waits for so long has failed


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture
def postbox() -> Postbox:
    return open_postbox()


@pytest.fixture
def mails() -> Mails:
    return Mails()


@pytest.fixture
def port(mails: Mails) -> Iterator[int]:
    with smtp_server(mails) as port:
        yield port


def close(loop: Any, outcome: str = "completed") -> None:
    loop.emit("run_closed", outcome=outcome)


def finish(bus: EventBus, **fields: Any) -> None:
    loop = start(bus)
    loop.emit("run_finished", **{"reason": "completed", **fields})
    close(loop)


def diverge() -> None:
    raise ValueError("the loss is NaN")


def failure() -> BaseException:
    try:
        diverge()
    except ValueError as error:
        return error
    raise AssertionError


def line_of_the_failure() -> int:
    return diverge.__code__.co_firstlineno + 1


# -- what is said


def test_a_finished_run_is_told_with_reason_place_and_metrics(
    bus: EventBus, postbox: Postbox
) -> None:
    bus.attach(Notify(POSTBOX))
    metrics = {"loss": 0.123456, "val_loss": torch.tensor(0.5)}
    finish(bus, reason="val_loss reached 0.5", epoch=3, step=120, metrics=metrics)
    (message,) = postbox.received
    assert message.title == "train: finished"
    assert message.body == "val_loss reached 0.5\nepoch 3, step 120\nloss 0.1235, val_loss 0.5"
    assert message.kind == "success"


def test_a_failed_run_is_told_with_the_exception_and_its_line(
    bus: EventBus, postbox: Postbox
) -> None:
    bus.attach(Notify(POSTBOX))
    loop = start(bus)
    loop.emit("run_failed", exception=failure(), epoch=2, step=7)
    close(loop, "failed")
    (message,) = postbox.received
    assert message.title == "train: failed: ValueError: the loss is NaN"
    place = f"at {Path(__file__)}:{line_of_the_failure()}, in diverge"
    assert message.body.split("\n") == ["ValueError: the loss is NaN", place, "epoch 2, step 7"]
    assert message.kind == "failure"


@pytest.mark.parametrize("on", [("run_finished", "run_failed"), "run_failed", "run_finished"])
def test_a_run_that_fails_as_it_ends_is_told_to_have_failed(
    bus: EventBus, postbox: Postbox, on: Any
) -> None:
    bus.attach(Notify(POSTBOX, on))
    bus.on("run_finished", priority=Priority.PERSIST)(diverge)
    with pytest.raises(ValueError, match="NaN"), Run(bus) as run:
        for _epoch in run.epochs(1):
            pass
    *finished, message = postbox.received
    assert [each.kind for each in finished] == ["success"] * ("run_finished" in on)
    assert (message.title, message.kind) == ("train: failed", "failure")
    assert "its log says why" in message.body


@pytest.mark.parametrize("on", ["epoch_finished", ("run_finished", "run_closed")])
def test_how_a_run_ended_is_told_as_it_was_asked_for(
    bus: EventBus, postbox: Postbox, on: Any
) -> None:
    bus.attach(Notify(POSTBOX, on))
    close(start(bus), "failed")
    assert [each.title for each in postbox.received] == ["train: run_closed"] * ("run_closed" in on)


def test_a_failure_is_told_once_in_each_run(bus: EventBus, postbox: Postbox) -> None:
    bus.attach(Notify(POSTBOX))
    for _run in range(2):
        loop = start(bus)
        loop.emit("run_failed", exception=failure())
        close(loop, "failed")
    close(start(bus), "failed")
    titles = [each.title for each in postbox.received]
    assert titles == [*["train: failed: ValueError: the loss is NaN"] * 2, "train: failed"]


@pytest.mark.parametrize("by_attach", [True, False])
def test_a_failure_that_a_filter_leaves_out_is_not_told_as_the_run_is_closed(
    bus: EventBus, postbox: Postbox, by_attach: bool
) -> None:
    def by_itself(exception: BaseException) -> bool:
        return not isinstance(exception, KeyboardInterrupt)

    if by_attach:
        bus.attach(Notify(POSTBOX, "run_failed"), when=by_itself)
    else:
        bus.attach(Notify(POSTBOX, "run_failed", when=by_itself))
    loop = start(bus)
    loop.emit("run_failed", exception=KeyboardInterrupt())
    close(loop, "failed")
    assert postbox.received == []


def test_a_failure_that_nothing_told_has_the_title_that_was_given(
    bus: EventBus, postbox: Postbox
) -> None:
    bus.attach(Notify(POSTBOX, title="[prod] {run}", body="{reason}"))
    close(start(bus), "failed")
    (message,) = postbox.received
    assert message.title == "[prod] train"
    assert "its log says why" in message.body  # `run_closed` has no reason


def test_the_line_told_is_not_that_of_a_library(bus: EventBus, postbox: Postbox) -> None:
    bus.attach(Notify(POSTBOX, body="{place}"))
    try:
        torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(5).long())
    except ValueError as error:
        bus.emit("run_failed", exception=error)
    bus.emit("run_closed", outcome="failed")
    assert __file__ in postbox.received[0].body


def test_an_exception_without_traceback_or_text_is_told(bus: EventBus, postbox: Postbox) -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    bus.attach(Notify(POSTBOX))
    bus.emit("run_failed", exception=KeyboardInterrupt())
    bus.emit("run_failed", exception=BrokenError())
    bus.emit("run_closed", outcome="failed")
    assert [each.body for each in postbox.received] == [
        "KeyboardInterrupt",
        "BrokenError: <its __str__ raises>",
    ]


def test_early_stopping_is_told_with_who_stopped(bus: EventBus, postbox: Postbox) -> None:
    bus.attach(Notify(POSTBOX, on="stop_requested"))
    loop = start(bus)
    loop.emit("stop_requested", reason="no better", handler="EarlyStopping", epoch=4, step=40)
    close(loop)
    (message,) = postbox.received
    assert (message.title, message.kind) == ("train: stopping", "warning")
    assert message.body == "no better\nby EarlyStopping\nepoch 4, step 40"


def test_a_failing_handler_is_told_with_its_signal(postbox: Postbox) -> None:
    bus = EventBus()
    bus.attach(Notify(POSTBOX, on="handler_failed"))
    bus.on("epoch_finished", on_error="isolate", name="Plot")(diverge)
    loop = start(bus)
    loop.emit("epoch_finished", epoch=1, step=10)
    close(loop)
    (message,) = postbox.received
    assert message.title == "train: Plot failed"
    assert "the loss is NaN" in message.body
    assert "on epoch_finished" in message.body


def test_any_signal_is_told_by_its_facts(postbox: Postbox) -> None:
    bus = EventBus()
    bus.attach(Notify(POSTBOX, on=["sample_drawn", run_finished]))
    loop = start(bus)
    loop.emit("sample_drawn", step=3, words=12, batch=torch.zeros(2), note=None)
    close(loop)
    (message,) = postbox.received
    assert (message.title, message.body) == ("train: sample_drawn", "step 3\nwords: 12")
    assert message.kind == "info"


def test_only_what_is_due_is_told(bus: EventBus, postbox: Postbox) -> None:
    bus.attach(Notify(POSTBOX, on={"epoch_finished": every(2)}, title="{epoch}"))
    loop = start(bus)
    metrics = CountedMetrics(loss=0.5)
    loop.emit("epoch_finished", epoch=1, step=10, metrics=metrics)
    assert metrics.reads == 0
    for epoch in (2, 3, 4):
        loop.emit("epoch_finished", epoch=epoch, step=10 * epoch)
    close(loop)
    assert [message.title for message in postbox.received] == ["2", "4"]


def test_templates_name_fields_context_and_extras(bus: EventBus, postbox: Postbox) -> None:
    title = "{run_id} {metrics[val_loss]:.3f}"
    body = "{event} {sender} {reason!r}\n{where} {epoch:03d}\n{facts}"
    bus.attach(Notify(POSTBOX, on="run_finished", title=title, body=body))
    finish(bus, epoch=3, step=12, metrics={"val_loss": 1 / 3})
    (message,) = postbox.received
    assert message.title == "one 0.333"
    assert message.body.split("\n") == [
        "run_finished train 'completed'",
        "epoch 3, step 12 003",
        "reason: completed",
        "metrics: val_loss 0.3333",
    ]


def test_what_an_emission_has_not_is_a_dash_and_a_line_of_nothing_else_is_left_out(
    bus: EventBus, postbox: Postbox
) -> None:
    body = "{reason} at epoch {epoch}\nloss {metrics[loss]:.2f}\nstep {step}\nthe end"
    bus.attach(Notify(POSTBOX, body=body))
    finish(bus, metrics={"accuracy": 1.0})
    assert postbox.received[0].body == "completed at epoch –\nthe end"


def test_a_format_that_does_not_fit_does_not_lose_the_message(
    bus: EventBus, postbox: Postbox
) -> None:
    bus.attach(Notify(POSTBOX, body="{reason:.3f}"))
    finish(bus)
    assert postbox.received[0].body == "completed"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{reason", "not a template"),
        ("{}", "names its fields"),
        ("{0}", "names its fields"),
        ("{reasn}", "did you mean 'reason'"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Notify(POSTBOX, on="run_finished", body=template)


def test_fields_of_a_signal_of_ones_own_are_not_checked(postbox: Postbox) -> None:
    bus = EventBus()
    bus.attach(Notify(POSTBOX, on="sample_drawn", body="{words}"))
    loop = start(bus)
    loop.emit("sample_drawn", words="to be")
    close(loop)
    assert postbox.received[0].body == "to be"


@pytest.mark.parametrize(
    "arguments",
    [{"urls": []}, {"limit": 0}, {"per_s": 0.0}, {"timeout_s": -1.0}, {"on": []}],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    open_postbox()
    with pytest.raises(ValueError, match="got"):
        Notify(**{"urls": POSTBOX, **arguments})


def test_other_ranks_send_nothing(
    bus: EventBus, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    bus.attach(Notify(POSTBOX))
    finish(bus)
    assert postbox.received == []


# -- how often


def test_many_messages_of_a_signal_are_held_back_and_the_next_one_says_how_many(
    bus: EventBus, postbox: Postbox
) -> None:
    clock = FakeClock()
    notify = Notify(
        POSTBOX, on=["epoch_finished", "run_finished"], limit=2, per_s=60, monotonic=clock
    )
    bus.attach(notify)
    loop = start(bus)
    for epoch in range(1, 7):
        loop.emit("epoch_finished", epoch=epoch, step=epoch)
        clock.advance(10)
    loop.emit("epoch_finished", epoch=7, step=7)
    loop.emit("run_finished", reason="completed")
    close(loop)
    bodies = [message.body.split("\n") for message in postbox.received]
    assert [body[0] for body in bodies] == [
        "epoch 1, step 1",
        "epoch 2, step 2",
        "epoch 7, step 7",
        "completed",
    ]
    assert bodies[2][-1] == "(4 earlier messages like this were held back)"
    assert notify.held_back == {"epoch_finished": 4}


# -- mail


def test_a_mail_arrives_by_smtp(bus: EventBus, mails: Mails, port: int) -> None:
    bus.attach(Notify(mail_url(port, "&format=text")))
    finish(bus, epoch=1, step=2)
    (mail,) = mails.received
    assert subject(mail) == "train: finished"
    assert text(mail).splitlines() == ["completed", "epoch 1, step 2"]
    assert "run@example.org" in str(mail["From"])
    assert mails.recipients == [["me@example.org"]]


@pytest.mark.parametrize("gap", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\n \n"])
def test_a_line_break_in_the_subject_begins_no_header(
    bus: EventBus, mails: Mails, port: int, gap: str
) -> None:
    bus.attach(Notify(mail_url(port, "&format=text"), title="{reason}"))
    finish(bus, reason=f"bad{gap}Bcc: thief@example.org{gap}{gap}Sent by nobody")
    (mail,) = mails.received
    assert subject(mail) == "bad Bcc: thief@example.org Sent by nobody"
    assert mail["Bcc"] is None
    assert mails.recipients == [["me@example.org"]]


def test_letters_of_all_kinds_survive_and_control_characters_do_not(
    bus: EventBus, mails: Mails, port: int
) -> None:
    bus.attach(Notify(mail_url(port, "&format=text"), title="{reason}", body="{reason}"))
    finish(bus, reason="Köln 東京\x00\ud800\n.\nend")
    (mail,) = mails.received
    assert subject(mail) == "Köln 東京 \\ud800 . end"
    assert text(mail).splitlines() == ["Köln 東京 \\ud800", ".", "end"]


# -- what cannot be delivered


def deliver(urls: Any, caplog: pytest.LogCaptureFixture, **options: Any) -> list[BaseException]:
    """Finish a run; return what the bus tells of failing handlers."""
    caplog.set_level(logging.DEBUG)
    bus = EventBus()
    failed: list[BaseException] = []
    bus.on("handler_failed")(lambda exception: failed.append(exception))
    bus.attach(Notify(urls, **{"timeout_s": LONG_S, **options}))
    finish(bus)
    return failed


@pytest.mark.parametrize("answer", ["450 try later", "421 too busy", "550 no such user"])
def test_a_refused_recipient_is_told_and_the_run_ends_well(
    mails: Mails, port: int, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    mails.answer_to_recipient = answer
    (error,) = deliver(mail_url(port), caplog)
    assert isinstance(error, DeliveryError)
    assert "URL 1 (mailto)" in str(error)
    code, words = answer.split(" ", maxsplit=1)
    assert code in str(error)
    assert words in str(error)
    assert mails.received == []


@pytest.mark.parametrize("answer", ["452 disk full", "554 spam"])
def test_a_refused_mail_is_told_and_the_run_ends_well(
    mails: Mails, port: int, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    mails.answer_to_data = answer
    (error,) = deliver(mail_url(port), caplog)
    assert "URL 1 (mailto)" in str(error)
    assert mails.received == []


def test_a_refused_connection_is_told_and_other_services_are_served(
    postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    (error,) = deliver([mail_url(closed_port()), POSTBOX], caplog)
    assert "URL 1 (mailto)" in str(error)
    assert "refused" in str(error)
    assert len(postbox.received) == 1


def test_a_server_that_hangs_delays_neither_the_run_nor_other_services(
    postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    with silent_server() as port:
        (error,) = deliver([mail_url(port), POSTBOX], caplog, timeout_s=0.2)
        assert str(error) == "not delivered: URL 1 (mailto): 1 not sent in time"
    assert len(postbox.received) == 1


def test_a_run_after_one_that_could_not_be_told_is_told(
    mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    with smtp_server(mails) as port:
        bus.attach(Notify(mail_url(port, "&format=text"), timeout_s=LONG_S))
        mails.answer_to_data = "452 disk full"
        finish(bus)
        mails.answer_to_data = "250 OK"
        finish(bus, reason="at last")
    assert [text(mail).strip() for mail in mails.received] == ["at last"]


# -- secrets

SECRETS = ["user-name", "pass%40word", "pass@word", "s3cret-token"]


def told_of(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that is logged, raised and printed about a service."""
    failed = deliver(url, caplog)
    notify = Notify(url)
    bus = EventBus()
    bus.attach(notify)
    ours = [record for record in caplog.records if record.name != "mail.log"]  # the server's
    everything = [repr(notify), str(notify), str(bus), *map(repr, failed)]
    everything += [repr(record.__dict__) + record.getMessage() for record in ours]
    return "\n".join(everything)


def test_a_refused_login_tells_no_credentials(
    mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    from aiosmtpd.smtp import AuthResult

    def refuse(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        answer = f"535 5.7.8 {data.login.decode()}:{data.password.decode()} is wrong"
        return AuthResult(success=False, handled=False, message=answer)

    options = {"authenticator": refuse, "auth_required": True, "auth_require_tls": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Requiring AUTH", UserWarning)  # aiosmtpd's advice
        with smtp_server(mails, **options) as port:
            url = mail_url(port).replace("127", "user-name:pass%40word@127", 1)
            told = told_of(url, caplog)
    assert "URL 1 (mailto)" in told
    assert [secret for secret in SECRETS if secret in told] == []


def test_a_refused_webhook_tells_no_token(caplog: pytest.LogCaptureFixture) -> None:
    url = f"json://user-name:pass%40word@127.0.0.1:{closed_port()}/s3cret-token"
    told = told_of(url, caplog)
    assert "URL 1 (json)" in told
    assert [secret for secret in SECRETS if secret in told] == []


@pytest.mark.parametrize(
    "url",
    [
        "slack://s3cret-token/s3cret-token/s3cret-token",
        "mailto://user-name:pass%40word@",
        "nosuchservice://user-name:pass%40word@s3cret-token",
        "s3cret-token",
        "s3cret-token://x",
        "",
    ],
)
def test_a_url_that_is_refused_is_not_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ValueError, match="URL 2") as caught:
        Notify([POSTBOX, url] if open_postbox() else [])
    error: BaseException | None = caught.value
    told = [caplog.text]
    while error is not None:
        told.append(repr(error))
        error = error.__cause__ or error.__context__
    assert [secret for secret in SECRETS if secret in "\n".join(told)] == []


def test_what_others_log_by_apprise_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    open_postbox()
    Notify(POSTBOX)
    logging.getLogger("apprise").warning("of somebody else")
    assert "of somebody else" in caplog.text
    assert logging.getLogger("apprise").filters == []


def test_without_the_library_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['apprise'] = None\n"
    code += "from eventbus.handlers import Notify; Notify('mailto://a:b@c.org')"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = child.stderr.splitlines()[-1]
    assert last == "ImportError: Notify needs apprise: pip install 'training-eventbus[notify]'"
