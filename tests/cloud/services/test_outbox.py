"""Mails wait until somebody has taken them."""

from datetime import timedelta

from bmsota_cloud.services.outbox import MAIL_TRIES_MAX


def newest(world, task):
    with world.cloud.store.reading() as work:
        return work.outbox.of_task(task.id)[0]


def make_task(world):
    world.register(1)
    world.upload()
    return world.create(1)


def test_a_mail_is_delivered_once_and_then_wiped(world):
    task = make_task(world)
    taken = []
    assert world.cloud.outbox.drain(world.now, taken.append) == 1
    assert world.cloud.outbox.drain(world.now, taken.append) == 0
    assert "Approval code" in taken[0].body
    assert (newest(world, task).sent_at, newest(world, task).body) == (world.now, "")


def test_a_mail_that_fails_is_tried_again_after_growing_waits_and_given_up_in_the_end(world):
    task = make_task(world)

    def fails(mail):
        raise ConnectionRefusedError("nobody there")

    waits = []
    for _ in range(MAIL_TRIES_MAX):
        assert world.cloud.outbox.drain(world.now, fails) == 0
        mail = newest(world, task)
        waits.append((mail.next_try_at - world.now).total_seconds())
        assert mail.error == "nobody there"
        assert world.cloud.outbox.take_due(mail.next_try_at - timedelta(seconds=1)) == ()
        world.clock.now = mail.next_try_at
    assert waits[:4] == [30, 60, 120, 240]
    assert waits == sorted(waits)
    assert max(waits) == 6 * 3600
    assert (newest(world, task).given_up, newest(world, task).body) == (True, "")
    assert world.cloud.outbox.take_due(world.now + timedelta(days=9)) == ()


def test_the_task_shows_what_became_of_its_mail_and_not_what_was_in_it(world):
    task = make_task(world)
    (mail,) = world.cloud.outbox.take_due(world.now)
    world.cloud.outbox.failed(mail, world.now, "550 no such user", is_permanent=True)
    (shown,) = world.detail(task).mails
    assert (shown.recipient, shown.tries, shown.given_up, shown.error) == (
        "alan@example.org",
        1,
        True,
        "550 no such user",
    )
    assert not hasattr(shown, "body")
