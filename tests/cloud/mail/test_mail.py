"""Mail over real SMTP on loopback: our worker, a real server."""

import asyncio
import re
import socket
from datetime import timedelta

import pytest
from bmsota_cloud.mail import MailSink, MailWorker, SmtpTarget, compose
from bmsota_cloud.mail.sink import _AnyPortController


@pytest.fixture
def sink(tmp_path):
    made = MailSink(folder=tmp_path / "mails")
    made.start()
    yield made
    made.stop()


def worker(world, port):
    target = SmtpTarget(host="127.0.0.1", port=port, start_tls=False)
    return MailWorker(world.cloud.outbox, target, sender="Cloud <cloud@example.org>", clock=world.clock)


@pytest.fixture
def task(world):
    world.register(1)
    world.upload()
    return world.create(1, reason="Zellausgleich für Grüße")


def test_the_auditors_code_arrives_and_starts_the_task(world, task, sink, tmp_path):
    assert asyncio.run(worker(world, sink.port).send_due()) == 1
    assert sink.wait_for(1, timeout_s=10)
    (mail,) = sink.mails
    assert (mail.recipients, mail.message["Subject"]) == (
        ("alan@example.org",),
        "OTA-1: approval code for 2.1.0 (Harbour)",
    )
    assert "Zellausgleich für Grüße" in mail.text
    code = re.search(r"Approval code: (\d{6})", mail.text)[1]
    world.services.ota_tasks.approve(task.id, code=code, by=world.people["alan"], now=world.now)
    assert world.detail(task).mails[0].sent_at == world.now
    assert [path.name for path in (tmp_path / "mails").iterdir()] == ["0001.eml"]
    assert asyncio.run(worker(world, sink.port).send_due()) == 0


def test_a_server_that_is_down_is_tried_again(world, task, sink):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert asyncio.run(worker(world, port).send_due()) == 0
    shown = world.detail(task).mails[0]
    assert (shown.tries, shown.given_up, shown.sent_at) == (1, False, None)
    assert shown.error
    assert asyncio.run(worker(world, sink.port).send_due()) == 0
    world.clock.now += timedelta(seconds=30)
    assert asyncio.run(worker(world, sink.port).send_due()) == 1


class Refuses:
    def __init__(self, words):
        self.words = words

    async def handle_RCPT(self, server, session, envelope, address, options):
        return self.words


@pytest.mark.parametrize(("words", "given_up"), [("550 no such user", True), ("451 try later", False)])
def test_a_refused_recipient_is_given_up_only_when_it_is_for_ever(world, task, words, given_up, caplog):
    controller = _AnyPortController(Refuses(words), hostname="127.0.0.1", port=0)
    controller.start()
    try:
        assert asyncio.run(worker(world, controller.port).send_due()) == 0
    finally:
        controller.stop()
    shown = world.detail(task).mails[0]
    assert (shown.given_up, shown.error) == (given_up, words)
    assert "Approval code" not in caplog.text


def test_the_worker_goes_on_after_an_error_of_the_store(world, task, sink, monkeypatch):
    """A database that is away for a moment must not end the sending."""
    outbox, calls = world.cloud.outbox, []
    take_due = outbox.take_due

    def fails_once(now):
        calls.append(now)
        if len(calls) == 1:
            raise RuntimeError("locked")
        return take_due(now)

    monkeypatch.setattr(outbox, "take_due", fails_once)
    monkeypatch.setattr("bmsota_cloud.mail.worker._LOOK_EVERY_S", 0.01)

    async def play():
        sending = worker(world, sink.port)
        running = asyncio.create_task(sending.run())
        await asyncio.to_thread(sink.wait_for, 1, timeout_s=10)
        sending.stop()
        async with asyncio.timeout(10):
            await running

    asyncio.run(play())
    assert len(sink.mails) == 1


def test_the_same_mail_is_the_same_message(world, task):
    (mail,) = world.cloud.outbox.take_due(world.now)
    sender = "Cloud <cloud@example.org>"
    assert compose(mail, sender=sender).as_bytes() == compose(mail, sender=sender).as_bytes()
    assert compose(mail, sender=sender)["Message-ID"].endswith("@example.org>")
