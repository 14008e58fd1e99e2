"""The live feed: bounded, thread-safe, told to the right listeners."""

from threading import Thread

from bmsota_cloud.services.live import LIVE_QUEUE_MAX, LiveFeed

from bmsota.gbt32960 import UpgradeStateCode as Code


def test_only_the_topic_is_heard_and_only_while_subscribed():
    feed = LiveFeed()
    one = feed.subscribe("task:1")
    feed.publish("task:1", {"n": 1})
    feed.publish("task:2", {"n": 2})
    assert (one.take(), one.take()) == ({"n": 1}, None)
    assert feed.is_heard("task:1")
    one.close()
    one.close()
    feed.publish("task:1", {"n": 3})
    assert one.take() is None
    assert not feed.is_heard("task:1")


def test_a_slow_listener_loses_the_oldest_and_can_see_it():
    feed = LiveFeed()
    slow = feed.subscribe("t")
    for number in range(LIVE_QUEUE_MAX + 3):
        feed.publish("t", {"n": number})
    assert slow.dropped == 3
    assert slow.take() == {"n": 3}


def test_a_listener_is_woken_for_every_message_in_the_publishers_thread():
    feed, woken = LiveFeed(), []
    feed.subscribe("t", wake=lambda: woken.append(1))
    threads = [Thread(target=lambda: [feed.publish("t", {}) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(woken) == 800


def test_task_pages_hear_of_every_step(world):
    task = world.approved(1)
    feed = world.services.live.subscribe(f"task:{task.id}")
    world.tell(world.vin(1), Code.DOWNLOADING, progress_pct=40)
    assert feed.take() == {
        "kind": "upgrade",
        "vin": world.vin(1),
        "status": "Downloading",
        "stage": "downloading",
        "reason": "",
        "progress_pct": 40,
        "source": "unsigned",
        "at": world.now.isoformat(),
    }
    world.services.upgrades.receive_report(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    assert feed.take()["status"] == "Upgrade succeeded"
    assert feed.take() == {"kind": "task"}
