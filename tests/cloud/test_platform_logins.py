"""The file of other platforms: what fits, and what is wrong in words that never name a password."""

import pytest
from bmsota_cloud.platform_logins import load_platform_logins

from bmsota.errors import ConfigurationError

SECRET = "correcthorse"
GOOD = f'[platforms.UPPERPLATFORM0001]\nuser = "upper"\npassword = "{SECRET}"\n'


def load(folder, text):
    path = folder / "platforms.toml"
    path.write_text(text)
    return load_platform_logins(path)


def test_a_platform_with_its_projects_and_vehicles(tmp_path):
    peers = load(tmp_path, GOOD + 'projects = ["Harbour"]\nvins = ["TESTVEHICLE000001"]\n')
    (peer,) = peers.values()
    assert list(peers) == [peer.code] == ["UPPERPLATFORM0001"]
    assert peer.is_proved_by("upper", SECRET)
    assert not peer.is_proved_by("upper", SECRET + "x")
    assert not peer.is_proved_by("Upper", SECRET)
    assert peer.may_send_for("ANYTHING", "Harbour")
    assert peer.may_send_for("TESTVEHICLE000001", "Hills")
    assert not peer.may_send_for("TESTVEHICLE000002", "Hills")
    assert SECRET not in repr(peer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD, "name the projects or the vins"),
        (GOOD.replace("UPPERPLATFORM0001", "TOOLONGAPLATFORM01") + 'vins = ["X"]', "expected a code of 1 to 17"),
        (GOOD.replace(SECRET, "short") + 'vins = ["X"]', "platforms.UPPERPLATFORM0001.password"),
        (GOOD.replace("upper", "x" * 13) + 'vins = ["X"]', "platforms.UPPERPLATFORM0001.user"),
        (GOOD + "colour = 1", "platforms.UPPERPLATFORM0001.colour"),
        (GOOD + f'"{SECRET}', "not TOML"),
    ],
)
def test_what_does_not_fit_is_said_without_the_password(tmp_path, text, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(tmp_path, text)
    assert SECRET not in str(caught.value)
    assert "short" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot read .*none"):
        load_platform_logins(tmp_path / "none")
