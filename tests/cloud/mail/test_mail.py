"""Mail over real SMTP on loopback: our worker, a real server."""

import asyncio
import re
import smtplib
import socket
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.mail import MailSink, MailWorker, SmtpTarget, compose
from bmsota_cloud.mail.sink import _AnyPortController
from bmsota_cloud.services.outbox import MAIL_CLAIM_S


@pytest.fixture
def sink(tmp_path, monkeypatch):
    # The sink answers; on a busy machine, when it has its turn.
    monkeypatch.setattr("bmsota_cloud.mail.worker._SMTP_TIMEOUT_S", 600.0)
    monkeypatch.setattr("bmsota_cloud.mail.worker._MAIL_TIMEOUT_S", 600.0)
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
        async with asyncio.timeout(120):
            await running

    asyncio.run(play())
    assert len(sink.mails) == 1


def test_the_same_mail_is_the_same_message(world, task):
    (mail,) = world.cloud.outbox.take_due(world.now)
    sender = "Cloud <cloud@example.org>"
    assert compose(mail, sender=sender).as_bytes() == compose(mail, sender=sender).as_bytes()
    assert compose(mail, sender=sender)["Message-ID"].endswith("@example.org>")


def send_by_smtp(port, subject):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "cloud@example.org", "alan@example.org", subject
    message.set_content("text")
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as server:
        server.send_message(message)


def subjects(folder):
    return [
        re.search(r"Subject: (\w+)", path.read_text())[1] for path in sorted(folder.iterdir()) if path.suffix == ".eml"
    ]


def test_no_mail_is_written_over_another_not_even_by_a_second_sink_or_after_a_restart(tmp_path):
    folder = tmp_path / "mails"
    first = MailSink(folder=folder)
    first.start()
    send_by_smtp(first.port, "one")
    second = MailSink(folder=folder)
    second.start()
    send_by_smtp(first.port, "two")
    send_by_smtp(second.port, "three")
    first.stop()
    second.stop()
    third = MailSink(folder=folder)
    third.start()
    send_by_smtp(third.port, "four")
    third.stop()
    assert subjects(folder) == ["one", "two", "three", "four"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_sink_that_can_not_write_tells_the_sender_to_come_again(world, task, tmp_path):
    folder = tmp_path / "mails"
    sink = MailSink(folder=folder)
    sink.start()
    try:
        folder.rmdir()
        assert asyncio.run(worker(world, sink.port).send_due()) == 0
        shown = world.detail(task).mails[0]
        assert (shown.given_up, shown.error) == (False, "452 cannot write the mail to the folder; try again later")
        folder.mkdir()
        world.clock.now += timedelta(seconds=30)
        assert asyncio.run(worker(world, sink.port).send_due()) == 1
    finally:
        sink.stop()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_two_processes_on_the_same_outbox_send_each_mail_once(new_world, tmp_path):
    one, two = (
        new_world(f"seed {n}", data_dir=tmp_path / "1", gateway_id=f"process {n}", people=n == 1) for n in (1, 2)
    )
    one.upload()
    for number in range(1, 13):
        one.register(number)
        one.create(number)
    sink = MailSink()
    sink.start()

    async def play():
        return await asyncio.gather(*(worker(world, sink.port).send_due() for world in (one, two)))

    try:
        assert sum(asyncio.run(play())) == 12
        assert sink.wait_for(12, timeout_s=10)
    finally:
        sink.stop()
    ids = [mail.message["Message-ID"] for mail in sink.mails]
    assert len(ids) == len(set(ids)) == 12


def test_a_mail_that_another_process_has_by_now_is_not_sent(new_world, tmp_path, monkeypatch):
    """A batch that took longer than its claim."""
    one, two = (
        new_world(f"seed {n}", data_dir=tmp_path / "1", gateway_id=f"process {n}", people=n == 1) for n in (1, 2)
    )
    one.register(1)
    one.upload()
    one.create(1)
    (mail,) = one.cloud.outbox.take_due(one.now)
    assert two.cloud.outbox.take_due(two.now) == ()
    two.wait(seconds=MAIL_CLAIM_S)
    assert [found.id for found in two.cloud.outbox.take_due(two.now)] == [mail.id]
    assert not one.cloud.outbox.keep(mail, one.now)
    sink = MailSink()
    sink.start()
    monkeypatch.setattr(one.cloud.outbox, "take_due", lambda now: (mail,))
    try:
        assert asyncio.run(worker(one, sink.port).send_due()) == 0
        assert asyncio.run(worker(two, sink.port).send_due()) == 1
    finally:
        sink.stop()
    assert len(sink.mails) == 1


def test_what_was_sent_and_could_not_be_noted_is_noted_and_not_sent_again(world, task, sink, monkeypatch):
    outbox, sending = world.cloud.outbox, worker(world, sink.port)
    delivered, calls = outbox.delivered, []

    def full_at_first(mail, now):
        calls.append(mail.id)
        if len(calls) == 1:
            raise StorageUnavailableError("the disk is full", code="storage-full")
        delivered(mail, now)

    monkeypatch.setattr(outbox, "delivered", full_at_first)
    with pytest.raises(StorageUnavailableError):
        asyncio.run(sending.send_due())
    world.wait(hours=1)
    assert asyncio.run(sending.send_due()) == 0
    assert len(calls) == 2
    assert len(sink.mails) == 1
    assert world.detail(task).mails[0].sent_at is not None


def test_a_mail_that_can_not_be_sent_at_all_stops_no_other(world, task, sink):
    """Such an address is refused today; a row of another version may have one."""
    world.register(2)
    other = world.create(2)
    with world.cloud.store.transaction() as work:
        first, second = work.outbox.of_task(task.id)[0], work.outbox.of_task(other.id)[0]
        work.outbox.save(replace(first, recipient="a\0@example.org"))
    assert first.id < second.id
    assert asyncio.run(worker(world, sink.port).send_due()) == 1
    shown = [world.detail(one).mails[0] for one in (task, other)]
    assert [(mail.given_up, mail.tries, mail.sent_at is None) for mail in shown] == [(True, 1, True), (False, 1, False)]
    assert "control character" in shown[0].error
