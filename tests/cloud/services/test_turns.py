"""Turns of the interpreter: short while there is long work, as usual afterwards."""

import sys
from threading import Event, Thread

import pytest
from bmsota_cloud.services import ota_tasks
from bmsota_cloud.services.turns import TURN_S, short_turns

USUAL_S = sys.getswitchinterval()


def is_short():
    return sys.getswitchinterval() == pytest.approx(TURN_S, rel=0.05)


def test_turns_are_short_until_the_last_of_several_works_is_done():
    """Whoever ends first, and whether it ends well or not."""
    begun, may_end = Event(), Event()

    def work():
        with short_turns():
            begun.set()
            assert may_end.wait(60)

    other = Thread(target=work)
    other.start()
    assert begun.wait(60)
    with short_turns():
        assert is_short()
    with pytest.raises(KeyError), short_turns():
        {}["missing"]
    assert is_short()
    may_end.set()
    other.join()
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


def test_an_interval_that_is_shorter_already_stays():
    sys.setswitchinterval(TURN_S / 5)
    try:
        with short_turns():
            assert sys.getswitchinterval() == pytest.approx(TURN_S / 5, rel=0.05)
        assert sys.getswitchinterval() == pytest.approx(TURN_S / 5, rel=0.05)
    finally:
        sys.setswitchinterval(USUAL_S)


def test_who_looks_at_many_vehicles_leaves_others_their_turns(world, monkeypatch):
    """A preview, a creation, an edit, a new code, an approval and the page of a task: all look at every vehicle."""
    seen, real = [], ota_tasks.survey

    def survey(*arguments, **options):
        seen.append(is_short())
        return real(*arguments, **options)

    monkeypatch.setattr(ota_tasks, "survey", survey)
    monkeypatch.setattr("bmsota_cloud.services.task_acts.survey", survey)
    for number in (1, 2):
        world.register(number)
    world.upload()
    carol, service = world.people["carol"], world.services.ota_tasks
    asked = {"project": "Harbour", "software_version": "2.1.0", "vins": [world.vin(1)], "by": carol, "now": world.now}
    service.preview(**asked)
    task = world.create(1)
    service.edit(task.id, vins=[world.vin(2)], by=carol, now=world.now)
    service.edit(task.id, reason="another", by=carol, now=world.now)
    service.send_new_code(task.id, by=carol, now=world.now)
    world.detail(task)
    world.approve(task)
    assert len(seen) == 8
    assert all(seen)
    assert not is_short()
