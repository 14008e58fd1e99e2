"""What one looks at: samples, charts, the HTML page, Parquet, Prometheus, the screen."""

from __future__ import annotations

import asyncio
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from bmsota_sim.kernel import SECOND
from bmsota_sim.run.expectations import COUNTERS
from bmsota_sim.run.ledger import FAULTS
from bmsota_sim.run.outputs.charts import Line, line_chart, rates
from bmsota_sim.run.outputs.folder import REPORT_FILES, write_report
from bmsota_sim.run.outputs.html import report_html
from bmsota_sim.run.outputs.prometheus import metrics_server, metrics_text, split_host_port
from bmsota_sim.run.outputs.run_json import run_document
from bmsota_sim.run.outputs.screen import ProgressScreen
from bmsota_sim.run.outputs.series import SAMPLES_MAX, Series
from bmsota_sim.run.outputs.watch import RunWatch
from bmsota_sim.trials import FleetTrial
from rich.console import Console

from bmsota.errors import ConfigurationError

SCENARIO = """
name: "small & <b>cheap</b>"
duration: 40s
groups: { cars: { profile: E7, count: 12 } }
life: { report: 2s, measure: 10s }
timeline:
  - { at: 20s, do: storm }
expect:
  - { what: sent, above: 1000000 }
  - { what: logged_in, at_least: 100% }
"""


class Trial(FleetTrial):
    """A run of which the tests know what its links did wrong."""

    def __init__(self):
        super().__init__(SCENARIO)
        self.watch = RunWatch(Console(file=io.StringIO()), 40 * SECOND, is_virtual=True)
        for second in range(40):
            self.run(1)
            self.watch.update(self.its_run, 0.0)
            if second == 10:
                for number, unit in enumerate(self.links.values()):
                    for _ in range(number):
                        unit.add("garbage", self.its_run.now_ns(), b"\x00<script>", "no start mark")
        assert not self.result.ok
        self.watch.end(self.its_run)

    @property
    def its_run(self):
        return self._virtual()

    def document(self, **given):
        given = {
            "scenario": SCENARIO,
            "scenario_name": self.scenario.name,
            "seed": 1,
            "version": "0",
            "options": [],
            "replay": "bmsota-sim run 'a b'",
            **given,
        }
        return run_document(self.its_run, self.result, given=given, generator={}, exit_code=3, series=self.watch.series)


@pytest.fixture(scope="module")
def trial():
    return Trial()


# -- samples -------------------------------------------------------------------------------------------------------------


def test_samples_are_bounded_whatever_the_length(trial):
    """After many times as many looks there are still no more than the limit, evenly spread, and the last is the last."""
    ledger, series = trial.its_run.ledger, Series(1)
    looks = 20 * SAMPLES_MAX
    for index in range(looks):
        series.late(float(index))
        if index * SECOND >= series.next_ns:
            series.add(index * SECOND, ledger)
    at_s = series.document()["at_s"]
    assert SAMPLES_MAX // 4 <= len(at_s) < SAMPLES_MAX
    steps = {late - early for early, late in pairwise(at_s[1:])}
    assert max(steps) <= 2 * min(steps)
    assert at_s[-1] > looks - 2 * max(steps)
    late_s = series.document()["late_s"]
    assert max(late_s) == late_s[-1]  # The peak of the samples that went is kept.
    assert late_s[-1] >= at_s[-1]


@pytest.mark.parametrize("look", [2, 3, 500, 501])
def test_thinning_keeps_the_greatest_lateness(look, trial):
    series = Series(1)
    for index in range(3 * SAMPLES_MAX):
        series.late(5.0 if index == look else 0.001)
        series.add(index * SECOND, trial.its_run.ledger)
    assert max(series.document()["late_s"]) == 5.0
    assert series.document()["at_s"][-1] == 3 * SAMPLES_MAX - 1


def test_samples_say_how_the_run_went(trial):
    series = trial.document()["series"]
    columns = [
        series[key] for key in ("at_s", "connected", "logged_in", "late_s", "cpu_s", "reply_p50_s", "reply_p99_s")
    ]
    assert {len(column) for column in [*columns, *series["counters"].values()]} == {len(series["at_s"])}
    assert max(series["connected"]) == 12
    assert series["counters"]["sent"][-1] == trial.counters["sent"]
    assert any(value is not None for value in series["reply_p50_s"])


def test_a_chart_of_nothing_says_so_and_gaps_interrupt_the_line():
    assert "nothing was measured" in line_chart("x", [0.0, 1.0], [Line("a", [None, None])])
    assert "nothing was measured" in line_chart("x", [], [Line("a", [])])
    path = re.search(r'd="([^"]*)"', line_chart("x", [0.0, 1.0, 2.0, 3.0], [Line("a", [1.0, None, 2.0, 3.0])]))[1]
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert rates([0.0, 2.0, 2.0], [1, 5, 5]) == [None, 2.0, None]


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.03, 1.0, 7.5, 19.99, 1e12])
def test_a_chart_shows_every_value_inside_its_frame(value):
    chart = line_chart("x", [0.0, 1e6], [Line("a", [0.0, value])], limit=value / 2)
    root = ET.fromstring(chart[chart.index("<svg") : chart.index("</svg>") + 6])
    _, _, width, height = map(float, root.get("viewBox").split())
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", root.find("path").get("d").replace("h.1", ""))]
    assert all(0 <= number <= width for number in numbers[::2])
    assert all(0 <= number <= height for number in numbers[1::2])


# -- the page ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "br"} and not (self.open and "svg" in self.open and tag in {"line", "path"}):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_else_and_shows_everything(trial):
    html = report_html(trial.document())
    page = Page(html)
    assert not page.open
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if "src" in attributes or "href" in attributes]
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in html
    assert "url(" not in html
    assert "prefers-color-scheme:dark" in html
    text = " ".join(page.text)
    for case in trial.result.cases:
        assert case.name in text
    assert "small & <b>cheap</b>" in text  # Escaped: it is text, not a tag.
    assert "<b>cheap" not in html
    assert "bmsota-sim run 'a b'" in text
    worst = re.findall(r"cars/(\d+)<br>", html)
    assert worst == [str(number) for number in range(12, 2, -1)]
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings[0] == "The simulator itself"


def test_the_page_of_a_run_in_real_time_has_lateness_and_cpu_above_everything(trial):
    document = trial.document()
    document["generator"] = {
        "late_s": {"p50": 0.001, "p99": 2.5, "max": 3.0},
        "cpu_share": 0.5,
        "boots_per_s": None,
        "limit_s": 1.0,
        "event_loop": "uvloop 0.23.0",
    }
    document["no_verdict"] = "the simulator was late"
    html = report_html(document)
    assert html.index("Lateness") < html.index("CPU of the simulator") < html.index("What must hold")
    assert "no verdict: the simulator was late" in html
    assert "uvloop 0.23.0" in html
    assert 'class="limit"' in html


# -- files ---------------------------------------------------------------------------------------------------------------


def test_parquet_has_what_run_json_has(trial, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    document = trial.document()
    assert write_report(tmp_path, document, trial.result, name="x") == ""
    assert {path.name for path in tmp_path.iterdir()} == REPORT_FILES - {".lock"} - {
        name for name in REPORT_FILES if name.endswith(".new")
    }
    rows = parquet.read_table(tmp_path / "units.parquet").to_pylist()
    units = json.loads((tmp_path / "run.json").read_text())["units"]
    assert [row["unit"] for row in rows] == list(units)
    for row in rows:
        unit = units[row["unit"]]
        assert (row["vin"], row["hash"], row["logged_in"]) == (unit["vin"], unit["hash"], unit["logged_in"])
        assert f"{row['group']}/{row['number']}" == row["unit"]
        assert {name: row[name] for name in COUNTERS if row[name]} == unit["counters"]
        firsts = {name: row[f"first_{name}_s"] for name in FAULTS if row[f"first_{name}_s"] is not None}
        assert firsts == {name: first["at_s"] for name, first in unit["first"].items() if name in FAULTS}


def test_without_pyarrow_the_rest_is_written_and_the_extra_is_named(trial, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    told = write_report(tmp_path, trial.document(), trial.result, name="x")
    assert "bmsota[parquet]" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "report.html", "run.json", "scenario.yaml"]


# -- Prometheus ----------------------------------------------------------------------------------------------------------


async def _exchange(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    if not request.endswith(b"\r\n\r\n"):
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def test_the_figures_are_what_prometheus_reads(trial):
    parser = pytest.importorskip("prometheus_client.parser")
    families = {
        family.name: family for family in parser.text_string_to_metric_families(metrics_text(trial.its_run, 0.25))
    }
    values = {
        sample.name: sample.value for family in families.values() for sample in family.samples if not sample.labels
    }
    assert values["bmsota_sim_late_seconds"] == 0.25
    assert values["bmsota_sim_units"] == 12
    assert {name: values[f"bmsota_sim_{name}_total"] for name in COUNTERS} == trial.counters
    buckets = [sample for sample in families["bmsota_sim_reply_seconds"].samples if sample.name.endswith("_bucket")]
    assert buckets[-1].labels["le"] == "+Inf"
    assert [bucket.value for bucket in buckets] == sorted(bucket.value for bucket in buckets)
    assert buckets[-1].value == values["bmsota_sim_reply_seconds_count"] > 0


def test_the_figures_are_served(trial):
    async def visit():
        async with metrics_server("127.0.0.1", 0, lambda: metrics_text(trial.its_run, 0.0)) as port:
            good = await _exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            other = await _exchange(port, b"GET / HTTP/1.1\r\n\r\n")
            post = await _exchange(port, b"POST /metrics HTTP/1.1\r\n\r\n")
            noise = await _exchange(port, b"\x16\x03\x01")
            flood = await _exchange(port, b"x" * 100_000)
            with pytest.raises(ConfigurationError, match=f"--prometheus 127.0.0.1:{port}: "):
                async with metrics_server("127.0.0.1", port, lambda: ""):
                    pass
            return good, other, post, noise, flood

    good, other, post, noise, flood = asyncio.run(visit())
    head, _, body = good.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"bmsota_sim_units_logged_in 12.0\n" in body
    assert other.startswith(b"HTTP/1.1 404 ")
    assert post.startswith(b"HTTP/1.1 405 ")
    assert noise == b""
    assert flood == b""


@pytest.mark.parametrize("text", ["", "9100", "host:", "host:port", "host:99999", "host:\u0663"])
def test_a_wrong_address_is_told(text):
    with pytest.raises(ConfigurationError, match="expected HOST:PORT"):
        split_host_port(text)


def test_addresses():
    assert split_host_port("[::1]:9100") == ("::1", 9100)
    assert split_host_port(":9100") == ("", 9100)


# -- the screen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 12), (200, 60), (20, 5), (72, 8), (1, 1)])
def test_the_screen_fits_any_terminal(trial, width, height):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(ProgressScreen(trial.its_run, 0.125, 3.5))
    lines = console.file.getvalue().rstrip("\n").split("\n")
    assert len(lines) <= max(height - 1, 4)
    assert all(len(line) <= width for line in lines)
    assert console.file.getvalue().isascii()
    if height >= 24:
        text = "\n".join(lines)
        assert "0.125 s" in text
        assert "cars/12" in text
        assert "cars/3:" in text  # The tenth.


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(trial, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), force_terminal=True)
    with RunWatch(console, 40 * SECOND, is_virtual=True) as watch:
        watch._next_s = 0.0
        watch.update(trial.its_run, 0.0)
    assert console.file.getvalue().startswith("40 of 40 s: 12 of 12 started")
    assert "\x1b" not in console.file.getvalue()


def test_the_progress_on_a_terminal_leaves_nothing_behind(trial):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, _environ={"TERM": "xterm"})
    with RunWatch(console, 40 * SECOND, is_virtual=True) as watch:
        watch._next_s = 0.0
        watch.update(trial.its_run, 0.0)
    output = console.file.getvalue()
    assert "worst units" in output
    assert output.endswith("\x1b[2K")  # Erased line by line, up to where it began.
