"""`bmsota-sim ctl`: a run is steered while it goes on, and what was steered is replayed."""

from __future__ import annotations

import json
import socket
import stat
import threading

import pytest
from bmsota_sim._commands import app
from bmsota_sim.run.commands_ctl import request_of
from bmsota_sim.run.steering import SteeringSocket, ask_run, load_steered, steer_again
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError

from .rig import Watched


def ctl(*words):
    return CliRunner().invoke(app, ["ctl", *map(str, words)])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a short path: the system allows a socket's some 100 bytes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path.relative_to(tmp_path) / "control.sock"


def asked(steering, watched, values):
    """What the run answers; it does not go on meanwhile."""
    answers = []

    def ask():
        try:
            answers.append(ask_run(steering.path, values))
        except ConfigurationError as error:
            answers.append(f"refused: {error}")

    client = threading.Thread(target=ask)
    client.start()
    while client.is_alive():
        steering.poll(watched.run, lambda: "half way")
        client.join(0.001)
    return answers[0]


@pytest.mark.slow
def test_what_is_steered_happens_counts_as_planned_and_is_replayed_to_the_bit(place, tmp_path):
    watched = Watched(count=3)
    steering = SteeringSocket(place)
    try:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        watched.play(8.0)
        assert asked(steering, watched, {"do": "status"}) == "half way"
        assert asked(steering, watched, request_of(["outage", "3s"])) == "platform_outage of the platform at 8.001 s"
        watched.play(15.0)
        assert "slave_silent of 1 units" in asked(
            steering, watched, request_of(["fault", "f/2", "slave_silent", "slave=1", "for=4"])
        )
        assert "storm of 3 units" in asked(steering, watched, request_of(["storm"]))
        watched.play(25.0)
        assert "restart of 3 units" in asked(steering, watched, request_of(["fault", "all", "restart", "off=1s"]))
        assert asked(steering, watched, {"do": "stop"}) == "the run ends"
        assert steering.is_stopped
    finally:
        steering.close()
    assert not place.exists()
    result = watched.end()
    events = {event.planned.entry.do: event for event in result.events}
    assert [event.outcome for event in events.values()] == ["happened"] * 4
    assert [unit.link._is_out for unit in watched.run.units.values()] == [False] * 3

    (tmp_path / "run.json").write_text(json.dumps({"given": {"steered": steering.steered}}))
    again = Watched(count=3)
    steer_again(again.run, load_steered(tmp_path / "run.json"))
    assert again.end().fold == result.fold
    assert Watched(count=3).end().fold != result.fold


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fault", "f/1", "slave_silent", "slave=9"], "slave_silent: slave: expected 1 to 3 in group 'f'"),
        (["fault", "f/7", "slave_silent", "slave=1"], "expected a number from 1 to 1 in group 'f', got 7"),
        (["fault", "f/1", "slave_silent"], "slave_silent: the key 'slave' is missing"),
        (["fault", "f/1", "slave_silant", "slave=1"], "no verb 'slave_silant'; did you mean 'slave_silent'?"),
        (["fault", "f/1", "offline", "for=5", "fro=3"], "offline: fro: no such key"),
        (["fault", "f/1", "offline", "for=never"], "offline: for: expected a number of seconds or a duration"),
        (["fault", "f/1", "offline", "for=2h"], "it would last until"),
        (["fault", "f/1", "download_cut", "after_bytes=5"], "the scenario has no ota"),
        (["fault", "none", "offline", "for=5"], "no group 'none'"),
        (["outage", "1d"], "it would last until"),
    ],
)
def test_what_cannot_be_is_refused_as_in_a_scenario(words, says, place):
    watched = Watched()
    steering = SteeringSocket(place)
    try:
        assert says in asked(steering, watched, request_of(words))
    finally:
        steering.close()
    assert not watched.run.events


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b"[1]\n", b'{"do": 5}\n', b'{"do": "storm", "who": {}}\n'])
def test_a_client_that_speaks_nonsense_is_told_so(line, place):
    watched = Watched()
    steering = SteeringSocket(place)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(place))
        client.sendall(line)
        steering.poll(watched.run, str)
        assert json.loads(client.makefile().readline())["ok"] is False
    steering.close()


def test_a_stale_socket_is_told_and_replaced_and_a_live_one_is_not(place):
    assert "no run listens at" in ctl("--ctl", place, "status").output
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    result = ctl("--ctl", place, "status")
    assert result.exit_code == 2
    assert "the run that made this socket has ended" in result.output
    steering = SteeringSocket(place)
    with pytest.raises(ConfigurationError, match="another run listens there"):
        SteeringSocket(place)
    steering.close()
    place.write_text("precious")
    with pytest.raises(ConfigurationError, match="a file is there"):
        SteeringSocket(place)
    assert place.read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--run", "out", "outage"], "expected status | stop | storm"),
        (["--run", "out", "fault", "f/1", "offline", "5"], "expected KEY=VALUE"),
        (["--run", "out", "fault", "f/1", "offline", "who=f/2"], "expected KEY=VALUE"),
        (["status"], "give either --run FOLDER or --ctl PATH"),
        (["--run", "out", "status"], "no run listens at out/control.sock"),
    ],
)
def test_wrong_words_are_one_line(words, says):
    result = ctl(*words)
    assert (result.exit_code, says in result.output) == (2, True), result.output
