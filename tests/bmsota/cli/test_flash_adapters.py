"""`bmsota adapters`, and how a bus is chosen: python-can's options, files and environment, unchanged."""

from __future__ import annotations

import json

import can
import pytest
from flash_rig import Node, PtyPack, VirtualPack, bmsota

from bmsota.adapters.canprobe import LISTEN_ONLY, Heard, listen_only_arguments, usb_adapters

QUICK = ["--listen", "0.05", "--timeout", "2"]


@pytest.fixture
def quiet_home(tmp_path, monkeypatch):
    """No configuration of python-can but what the test writes."""
    for name in ("CAN_INTERFACE", "CAN_CHANNEL", "CAN_BITRATE", "CAN_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


class TestChoice:
    """The same bus, chosen in each way python-can has."""

    @pytest.mark.slow
    def test_by_options(self):
        with VirtualPack(Node(1)) as pack:
            assert bmsota("nodes", "-i", "virtual", "-c", pack.channel, "-b", "500000", *QUICK).code == 0
            assert bmsota("nodes", "--interface=virtual", f"--channel={pack.channel}", *QUICK).code == 0

    @pytest.mark.slow
    def test_by_options_on_either_side_of_the_others(self):
        with VirtualPack(Node(1)) as pack:
            for words in (
                ["-i", "virtual", "-c", pack.channel, "1", "--yes"],
                ["1", "-i", "virtual", "--yes", "-c", pack.channel],
                ["--yes", "1", "-ivirtual", "-c", pack.channel],
            ):
                done = bmsota("reset", *words, *QUICK)
                assert done.code == 0, done.text

    @pytest.mark.slow
    def test_by_environment(self, quiet_home):
        with VirtualPack(Node(1)) as pack:
            done = bmsota(
                "nodes", *QUICK, env={"CAN_INTERFACE": "virtual", "CAN_CHANNEL": pack.channel, "CAN_BITRATE": "500000"}
            )
        assert done.code == 0
        assert f"bus: virtual {pack.channel} at 500000 bit/s" in done.err

    @pytest.mark.slow
    def test_by_a_file_and_one_of_its_sections(self, quiet_home):
        with VirtualPack(Node(1)) as pack:
            text = f"[default]\ninterface = virtual\nchannel = nobody\n[bench]\nchannel = {pack.channel}\nbitrate = 250000\n"
            (quiet_home / "can.conf").write_text(text, encoding="utf-8")
            assert bmsota("nodes", *QUICK).code == 1
            done = bmsota("nodes", "--can-context", "bench", *QUICK)
        assert done.code == 0
        assert f"bus: virtual {pack.channel} at 250000 bit/s" in done.err

    @pytest.mark.parametrize(
        ("rate", "told"), [("fast", "expected a bit rate in bit/s, got 'fast' (-b, can.conf or CAN_BITRATE)")]
    )
    def test_a_bit_rate_that_is_none_is_said(self, quiet_home, rate, told):
        done = bmsota("nodes", *QUICK, env={"CAN_INTERFACE": "virtual", "CAN_CHANNEL": "x", "CAN_BITRATE": rate})
        assert done.code == 2
        assert f"invalid option: {told}" in done.err

    @pytest.mark.parametrize(
        "text",
        ["interface = virtual\n", "[default]\nnonsense\n", "[default]\ninterface = virtual\ninterface = virtual\n"],
    )
    def test_a_damaged_file_is_said(self, quiet_home, text):
        (quiet_home / "can.conf").write_text(text, encoding="utf-8")
        done = bmsota("nodes", *QUICK)
        assert done.code == 2
        assert "can.conf" in done.err

    def test_a_section_that_is_not_there_is_said(self, quiet_home):
        """python-can would take the default section: another bus than the one that was meant."""
        (quiet_home / "can.conf").write_text("[default]\ninterface = virtual\nchannel = x\n", encoding="utf-8")
        done = bmsota("nodes", "--can-context", "bnech", *QUICK)
        assert done.code == 2
        assert "--can-context: no section [bnech] in can.conf, and no CAN_INTERFACE_bnech" in done.err

    def test_a_section_may_be_in_the_environment(self, quiet_home):
        with VirtualPack(Node(1)) as pack:
            env = {"CAN_INTERFACE_bench": "virtual", "CAN_CHANNEL_bench": pack.channel}
            assert bmsota("nodes", "--can-context", "bench", *QUICK, env=env).code == 0

    def test_the_reason_why_a_port_cannot_be_opened_is_said_once(self, tmp_path):
        done = bmsota("nodes", "-i", "bmsota_slcan", "-c", tmp_path / "ttyACM7", "-b", "500000")
        assert done.code == 4
        assert f"cannot open {tmp_path / 'ttyACM7'}: No such file or directory" in done.err

    def test_python_cans_own_slcan_is_what_is_used_when_it_is_named(self):
        with PtyPack(Node(1)) as pack:
            words = ["-i", "slcan", *pack.arguments[2:], "--bus-kwargs", "sleep_after_open=0"]
            done = bmsota("nodes", *QUICK, *words)
        assert done.code == 0, done.text
        assert "use -i bmsota_slcan instead" in done.err

    def test_arguments_of_the_back_end(self):
        with PtyPack(Node(1), answers=False) as pack:
            done = bmsota("nodes", *pack.arguments, *QUICK, "--bus-kwargs", "check_answers=False")
        assert done.code == 0, done.text

    def test_a_timing_instead_of_a_bit_rate(self):
        timing = ["--timing", "f_clock=8_000_000", "tseg1=13", "tseg2=2", "sjw=1", "brp=1", "nof_samples=1"]
        with PtyPack(Node(1)) as pack:
            done = bmsota("nodes", *QUICK, *pack.arguments[:-2], *timing)
            assert pack.adapter.bitrate_bps is None  # The registers were sent, not a rate.
        assert done.code == 0, done.text
        assert "at 500000 bit/s" in done.err
        assert "BitTiming" not in done.out  # What python-can prints of it is no result.

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["-b", "fast"], "argument -b/--bitrate: invalid int value: 'fast'"),
            (["--bus-kwargs", "nonsense"], "Unable to parse bus keyword argument 'nonsense'"),
            (["--timing", "f_clock=1"], "Invalid --timing argument. Incomplete parameters."),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_2(self, words, said):
        done = bmsota("nodes", "-i", "virtual", "-c", "x", *words)
        assert done.code == 2
        (line,) = [line for line in done.err.splitlines() if line.startswith("bmsota: ")]
        assert line.startswith("bmsota: invalid option: ")
        assert said in line

    def test_an_option_nobody_knows(self):
        done = bmsota("nodes", "-i", "virtual", "-c", "x", "--nonsense")
        assert done.code == 2
        assert "No such option" in done.err


class TestList:
    def test_a_port_that_no_list_has_is_probed(self):
        with PtyPack(version="V1013") as pack:
            done = bmsota("adapters", "--port", pack.cable.path, "--probe")
            assert not pack.frames
            assert not pack.adapter.is_open
        assert done.code == 0
        (line,) = [line for line in done.out.splitlines() if pack.cable.path in line]
        assert line.startswith(f"-i bmsota_slcan -c {pack.cable.path}  ")
        assert "answers: V1013" in line

    def test_one_that_does_not_answer(self, tmp_path):
        done = bmsota("adapters", "--port", tmp_path / "nothing", "--probe", "--json")
        assert done.code == 0
        (row,) = [row for row in json.loads(done.out) if row["channel"] == str(tmp_path / "nothing")]
        assert row["version"] is None
        assert "No such file" in row["problem"]
        assert row["arguments"] == f"-i bmsota_slcan -c {tmp_path / 'nothing'}"

    def test_gs_usb_adapters_are_found_by_their_usb_ids(self, tmp_path):
        """The kernel's view of two candleLights, one with its driver, and of a mouse."""
        for name, ids, network in (
            ("1-1", "1d50:606f", "can3"),
            ("1-2", "1209:2323", None),
            ("1-3", "046d:c077", None),
        ):
            device = tmp_path / name
            (device / f"{name}:1.0" / "net" / network if network else device).mkdir(parents=True)
            vendor, product = ids.split(":")
            (device / "idVendor").write_text(f"{vendor}\n", encoding="ascii")
            (device / "idProduct").write_text(f"{product}\n", encoding="ascii")
        (tmp_path / "usb1").mkdir()
        first, second = usb_adapters(tmp_path)
        assert (first.interface, first.channel) == ("socketcan", "can3")
        assert first.note == "first: ip link set can3 up type can bitrate 500000"
        assert (second.interface, second.channel) == ("socketcan", "can0")
        assert second.note == "no network interface: load the module gs_usb"
        assert usb_adapters(tmp_path / "nowhere") == []


class TestBitrate:
    def check(self, *arguments, foreign=True, **options):
        with PtyPack(foreign=foreign, **options) as pack:
            done = bmsota("adapters", "--check-bitrate", "--listen", "0.1", *pack.arguments[:4], *arguments)
            assert not pack.frames
            assert not pack.adapter.is_open
        return pack, done

    def test_the_rate_of_a_bus_that_talks(self):
        pack, done = self.check(bus_bitrate_bps=125_000)
        assert done.code == 0, done.text
        lines = done.out.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == ["500000", "250000", "1000000", "125000"]
        assert all("errors and no frame" in line for line in lines[:3])
        assert lines[-1] == f"the bus has 125000 bit/s: -i bmsota_slcan -c {pack.cable.path} -b 125000"

    def test_json(self):
        _, done = self.check("--json", bus_bitrate_bps=250_000)
        content = json.loads(done.out)
        assert content["bitrate_bps"] == 250_000
        assert list(content["heard"]) == ["500000", "250000"]

    @pytest.mark.slow
    def test_a_silent_bus_has_no_rate_to_tell(self):
        _, done = self.check(foreign=False)
        assert done.code == 1
        assert "the bus is silent at every usual bit rate" in done.err

    @pytest.mark.slow
    def test_a_rate_that_no_adapter_has(self):
        _, done = self.check(bus_bitrate_bps=750_000)
        assert done.code == 4
        assert "wrong bit rate: errors and no frame at every usual bit rate" in done.err

    def test_a_bus_whose_rate_is_set_elsewhere(self):
        done = bmsota("adapters", "--check-bitrate", "-i", "virtual", "-c", "x")
        assert done.code == 2
        assert "--check-bitrate: the bit rate of virtual cannot be set, or not listen-only" in done.err


class TestListening:
    def test_the_adapter_is_silent_while_it_listens(self):
        """It is opened by L first, and by O only when that was good."""
        modes = []
        with PtyPack(Node(1), foreign=True, bus_bitrate_bps=500_000) as pack:
            command = pack.adapter._command

            def watch(line):
                if line in (b"L", b"O"):
                    modes.append(line)
                return command(line)

            pack.adapter._command = watch
            done = bmsota("nodes", *pack.arguments, *QUICK)
        assert done.code == 0
        assert modes == [b"L", b"O"]

    def test_at_the_wrong_bit_rate_nothing_is_sent(self):
        with PtyPack(Node(1), foreign=True, bus_bitrate_bps=250_000) as pack:
            done = bmsota("nodes", *pack.arguments, "--listen", "0.3")
            assert pack.adapter.refused == 0  # Nor tried to: the adapter would have said no.
        assert done.code == 4
        assert "bmsota: wrong bit rate: " in done.err

    def test_without_listening_it_is_not_said(self):
        with VirtualPack(Node(1)) as pack:
            done = bmsota("nodes", *pack.arguments, "--no-listen")
        assert done.code == 0
        assert "bus:" not in done.err

    def test_what_cannot_listen_is_not_asked_to(self):
        assert listen_only_arguments("robotell") is None
        assert set(LISTEN_ONLY) <= set(can.VALID_INTERFACES)

    def test_judgement(self):
        def heard(frames, errors, flags):
            return Heard(1.0, frames, errors, flags)

        assert heard(0, 0, None).is_silent
        assert heard(0, 0, False).is_silent
        assert heard(0, 1, None).is_wrong
        assert heard(0, 0, True).is_wrong
        # Frames with errors: the rate is right, the wire is bad.
        assert heard(3, 9, True).is_right
        assert not heard(3, 9, True).is_wrong
