"""`report.html`: a run on one page, in one file. Made from the document of `run.json` alone; no script, nothing from the network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from bmsota_sim.run.ledger import FAULTS
from bmsota_sim.run.outputs.charts import Line, line_chart, number_text, rates
from bmsota_sim.run.quantities import duration_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["report_html"]

WORST_MAX = 10
FAILING_MAX = 10
EVENTS_MAX = 100

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1c2430;--soft:#5c6673;--line:#d9dee5;--card:#f6f7f9;
--good:#137a3e;--bad:#b3261e;--open:#8a5a00;--c0:#1f6fb5;--c1:#c2570c;--c2:#6b4fbb;--c3:#0b7f79}
@media(prefers-color-scheme:dark){:root{--page:#14181d;--text:#e6e9ed;--soft:#9aa4b1;--line:#333b45;--card:#1c2229;
--good:#57c785;--bad:#ff8a80;--open:#e0b050;--c0:#6db3f2;--c1:#f0964f;--c2:#b09cf0;--c3:#4fc7bf}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--page);color:var(--text);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}
.verdict{font-weight:600;font-size:1.1rem;margin:.3rem 0}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.soft,.none{color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.5rem;margin:0}
dl div{background:var(--card);border-radius:6px;padding:.5rem .7rem}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.1rem;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr));gap:1rem}
figure{margin:0;background:var(--card);border-radius:6px;padding:.7rem;min-width:0}
figcaption{font-weight:600;margin-bottom:.3rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--line);stroke-width:1}.limit{stroke:var(--bad);stroke-dasharray:5 4}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.3rem 0 0;font-size:.85rem}
.legend i{display:inline-block;width:.9rem;height:.25rem;margin-right:.35rem;vertical-align:middle}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.word{white-space:nowrap;font-weight:600}.scroll td{white-space:nowrap}.scroll td ul{white-space:normal;min-width:15rem}ul{margin:.3rem 0 0;padding-left:1.1rem}
code,pre{font:13px/1.4 ui-monospace,"DejaVu Sans Mono",Consolas,monospace}
pre{background:var(--card);padding:.6rem;border-radius:6px;white-space:pre-wrap;margin:.3rem 0}
@media(max-width:40rem){.cases thead{display:none}.cases tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}
.cases td{display:block;border:0;padding:0}.cases td[data-of]::before{content:attr(data-of) ": ";color:var(--soft)}}
"""

_WORDS = {True: ("passed", "good"), False: ("FAILED", "bad"), None: ("not judged", "open")}


def report_html(document: dict[str, Any]) -> str:
    """A page from the document of `run.json`."""
    name, seed = document["given"]["scenario_name"], document["given"]["seed"]
    body = [
        f"<h1>{escape(name)}, seed {seed}</h1>",
        _verdict(document),
        "<h2>The simulator itself</h2>",
        _generator(document),
        "<h2>What must hold</h2>",
        _cases(document["verdicts"]),
        "<h2>Over time</h2>",
        _charts(document["series"]),
        "<h2>The ten worst units</h2>",
        _worst(document["units"]),
        *_events(document["events"]),
        "<h2>Counters</h2>",
        _facts((key.replace("_", " "), f"{count:,}") for key, count in document["counters"].items()),
        "<h2>To run it again</h2>",
        f"<pre>{escape(document['given']['replay'])}</pre>",
        f'<p class="soft">bmsota {escape(document["given"]["version"])}, trace <code>{escape(document["hash"])}</code></p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)}, seed {seed}: {escape(_summary(document)[0])}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _summary(document: dict[str, Any]) -> tuple[str, str]:
    code, verdicts = document["exit_code"], document["verdicts"]
    good = sum(case["passed"] is True for case in verdicts)
    count = f"{good} of {len(verdicts)} passed"
    if document["no_verdict"]:
        return f"no verdict: {document['no_verdict']}", "open"
    if code > 128:
        return f"stopped after {duration_text(document['ran_s'])}: {count}", "open"
    return (f"as expected: {count}", "good") if code == 0 else (f"not as expected: {count}", "bad")


def _verdict(document: dict[str, Any]) -> str:
    text, style = _summary(document)
    return (
        f'<p class="verdict {style}">{escape(text)} <span class="soft">(exit code {document["exit_code"]})</span></p>'
    )


def _facts(pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> str:
    return (
        "<dl>" + "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in pairs) + "</dl>"
    )


def _losses(shards: Sequence[dict[str, Any]]) -> str:
    texts = [loss["text"] for shard in shards for loss in shard["lost"]]
    return "" if not texts else f'<div class="open">{_list(texts, EVENTS_MAX)}</div>'


def _generator(document: dict[str, Any]) -> str:
    generator = document["generator"]
    ramp = document["ramp_s"]
    facts = [
        ("ran", duration_text(document["ran_s"])),
        ("units started", f"{document['started']:,} of {len(document['units']):,}"),
        ("ramp-up", "not finished" if ramp is None else f"{ramp:.1f} s"),
    ]
    if document["shards"]:
        facts.append(("shards", f"{len(document['shards']):,}"))
    if not generator:
        return _facts([("clock", "virtual: never late"), *facts]) + _losses(document["shards"])
    late = generator["late_s"]
    series = document["series"]
    busy = rates(series["at_s"], series["cpu_s"])
    return (
        _facts(
            [
                *((f"late, {key}", f"{late[key]:.3f} s") for key in ("p50", "p99", "max")),
                ("CPU", f"{generator['cpu_share']:.0%} of a core"),
                ("Event loop", generator["event_loop"]),
                *facts,
            ]
        )
        + _losses(document["shards"])
        + '<div class="charts" style="margin-top:.6rem">'
        + line_chart("Lateness", series["at_s"], [Line("late", series["late_s"])], unit="s", limit=generator["limit_s"])
        + line_chart(
            "CPU of the simulator",
            series["at_s"],
            [Line("cores", busy)],
            unit="cores",
            limit=float(len(document["shards"]) or 1),
        )
        + "</div>"
    )


def _charts(series: dict[str, Any]) -> str:
    at_s, counters = series["at_s"], series["counters"]
    none = [0] * len(at_s)
    faults = sorted((key for key in FAULTS if key in counters), key=lambda key: -counters[key][-1])[:4]
    charts = [
        line_chart(
            "Connections", at_s, [Line("connected", series["connected"]), Line("logged in", series["logged_in"])]
        ),
        line_chart(
            "Reports",
            at_s,
            [
                Line(key, rates(at_s, counters.get(key, none)))
                for key in ("sent", "acknowledged", "backfilled")
                if key == "sent" or key in counters
            ],
            unit="per second",
        ),
        line_chart(
            "Reply times", at_s, [Line(f"p{share}", series[f"reply_p{share}_s"]) for share in (50, 90, 99)], unit="s"
        ),
    ]
    if faults:
        charts.append(
            line_chart("Faults, in sum", at_s, [Line(key.replace("_", " "), counters[key]) for key in faults])
        )
    return '<div class="charts">' + "".join(charts) + "</div>"


def _list(texts: Sequence[str], count_max: int) -> str:
    if not texts:
        return ""
    more = f"<li>{len(texts) - count_max:,} more</li>" if len(texts) > count_max else ""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts[:count_max]) + more + "</ul>"


def _cases(cases: Sequence[dict[str, Any]]) -> str:
    # What failed comes first; else in the order of the scenario.
    ordered = sorted(cases, key=lambda case: {False: 0, None: 1, True: 2}[case["passed"]])
    rows = []
    for case in ordered:
        word, style = _WORDS[case["passed"]]
        failing = _list(case["failing"], FAILING_MAX)
        rows.append(
            f'<tr><td class="word {style}">{word}</td><td>{escape(case["name"])}{failing}</td>'
            f'<td data-of="expected">{escape(case["expected"])}</td><td data-of="got">{escape(case["got"])}</td></tr>'
        )
    head = "<thead><tr><th></th><th>what</th><th>expected</th><th>got</th></tr></thead>"
    return f'<table class="cases">{head}<tbody>{"".join(rows)}</tbody></table>'


def _worst(units: dict[str, Any]) -> str:
    counted = [
        (sum(count for key, count in unit["counters"].items() if key in FAULTS), name, unit)
        for name, unit in units.items()
    ]
    worst = sorted((row for row in counted if row[0]), key=lambda row: -row[0])[:WORST_MAX]
    if not worst:
        return '<p class="none">no fault was seen on any link</p>'
    rows = []
    for count, name, unit in worst:
        firsts = sorted(
            ((first["at_s"], key, first) for key, first in unit["first"].items() if key in FAULTS),
            key=lambda row: row[:2],
        )
        told = "".join(
            f"<li>{escape(key.replace('_', ' '))} {unit['counters'][key]:,}, first at {number_text(at_s)} s"
            f"{': ' + escape(first['detail']) if first['detail'] else ''}"
            f"{' <code>' + first['bytes'] + '</code>' if first['bytes'] else ''}</li>"
            for at_s, key, first in firsts
        )
        state = "logged in" if unit["logged_in"] else "not logged in"
        rows.append(
            f'<tr><td class="n">{count:,}</td><td>{escape(name)}<br><span class="soft">{escape(unit["vin"])}, {state}</span></td>'
            f"<td><ul>{told}</ul></td></tr>"
        )
    head = '<thead><tr><th class="n">faults</th><th>unit</th><th>of what kind, and the first of each</th></tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _events(events: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not events:
        return
    count = {word: sum(event["outcome"] == word for event in events) for word in ("failed", "not reached", "happened")}
    yield "<h2>Planned events</h2>"
    yield f"<p>{', '.join(f'{number:,} {word}' for word, number in count.items() if number)}</p>"
    order = ("failed", "not reached", "happened")
    texts = [event["text"] for word in order for event in events if event["outcome"] == word]
    yield _list(texts, EVENTS_MAX)
