"""The download against a server that misbehaves, without a socket and in literal time.

`Server` answers as the device API does and lets a test break single answers; `run` is a complete driver. The faults N1 to N20
are those of docs/trust.md, "Faults of the network"; two real update clients, measured with the same faults, get 9 of the
first 16 right.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import LocalProtocolError
from bmsota.image import ImageRole, ImageVersion
from bmsota.ota import (
    AttemptFailed,
    BlockRefused,
    BlockVerified,
    Download,
    DownloadCompleted,
    DownloadFailed,
    DownloadOptions,
    DownloadState,
    HttpRequest,
    ReleaseImage,
    RestartedFromZero,
    Resumed,
    device_api,
)

S = 1_000_000_000
START = 1_790_000_000 * S
BLOCK = 1024
SIZE = 20 * BLOCK + 300
FILE = hashlib.shake_256(b"the image").digest(SIZE)
OTHER_FILE = hashlib.shake_256(b"another image").digest(SIZE)


def entry_for(data, world):
    return ReleaseImage(
        role=ImageRole.MASTER,
        hardware_class=world.MASTER_CLASS,
        version=ImageVersion(2),
        security_counter=1,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
        block_size_bytes=BLOCK,
        block_sha256=tuple(hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)),
    )


@pytest.fixture(scope="session")
def entry(world):
    return entry_for(FILE, world)


@dataclass
class Answer:
    """One answer: what is sent, in which pieces, how fast, and how it ends."""

    status: int
    headers: dict
    body: bytes
    piece: int = 1500
    piece_ns: int = 1_000_000
    head_ns: int = 50_000_000
    cut: int | None = None
    error: str = "connection reset"

    def but(self, **changes):
        for name, value in changes.items():
            setattr(self, name, value)
        return self


@dataclass
class Server:
    """Answers honestly from *data* unless *fault(n, request, honest answer)* says otherwise; n counts from 0."""

    data: bytes = FILE
    fault: object = None
    requests: list[HttpRequest] = field(default_factory=list)

    def answer(self, request):
        honest = device_api.image_response(request, sha256=hashlib.sha256(self.data).digest(), data=self.data)
        answer = Answer(honest.status, dict(honest.headers), honest.body)
        if self.fault is not None:
            answer = self.fault(len(self.requests), request, answer) or answer
        self.requests.append(request)
        return answer


def run(download, server, *, limit=5000):
    """Drive *download* until it has finished: send, feed, keep the deadlines, take the events."""
    now = START
    events = []
    blocks = {}

    def collect():
        while (event := download.next_event()) is not None:
            if isinstance(event, BlockVerified):
                assert event.index not in blocks
                blocks[event.index] = event.data
            else:
                events.append(event)

    def pass_time(until):
        """Let time pass; deadlines on the way are kept. False when the exchange was given up."""
        nonlocal now
        while (deadline := download.next_timeout()) is not None and deadline <= until:
            now = max(now, deadline)
            download.handle_timeout(now)
            if download.wants_abort or download.finished:
                return False
        now = until
        return True

    for _ in range(limit):
        request = download.next_request(now)
        if request is None:
            collect()
            if download.finished:
                break
            assert download.next_timeout() is not None, f"stuck in {download.state}"
            pass_time(download.next_timeout())
            continue
        answer = server.answer(request)
        if not pass_time(now + answer.head_ns):
            continue
        download.receive_head(answer.status, answer.headers, now)
        sent = answer.body if answer.cut is None else answer.body[: answer.cut]
        for at in range(0, len(sent), answer.piece):
            if download.wants_abort or not pass_time(now + answer.piece_ns):
                break
            download.receive_body(sent[at : at + answer.piece], now)
        if not download.wants_abort and not download.finished:
            is_cut = answer.cut is not None and answer.cut < len(answer.body)
            download.response_ended(now, answer.error if is_cut else None)
        collect()
    else:
        raise AssertionError("the download never ends")
    return SimpleNamespace(events=events, blocks=blocks, elapsed_s=(now - START) / S, requests=server.requests)


def joined(result):
    return b"".join(result.blocks[index] for index in sorted(result.blocks))


def outcome(result):
    last = result.events[-1]
    assert isinstance(last, DownloadCompleted | DownloadFailed)
    if isinstance(last, DownloadCompleted):
        assert joined(result) == FILE
        return "ok"
    return str(last.error)


def kinds(result):
    return [type(event) for event in result.events]


# -- the table -----------------------------------------------------------------------------------------------------------


def test_n1_no_fault(entry):
    """One request for the whole file, without a range, with identity encoding."""
    result = run(Download(entry), Server())
    assert outcome(result) == "ok"
    assert kinds(result) == [DownloadCompleted]
    (request,) = result.requests
    assert (request.method, request.path, request.origin) == ("GET", device_api.image_path(entry.sha256), "")
    assert request.header("range") is None
    assert request.header("accept-encoding") == "identity"


def test_n2_cut_at_half_and_resumed(entry):
    """The range goes on at the byte where it was cut, bound to the entity tag, within 5 s."""
    server = Server(fault=lambda n, _r, a: a.but(cut=SIZE // 2) if n == 0 else None)
    result = run(Download(entry), server)
    assert outcome(result) == "ok"
    assert kinds(result) == [AttemptFailed, Resumed, DownloadCompleted]
    assert result.events[1] == Resumed(SIZE // 2)
    assert result.requests[1].header("Range") == f"bytes={SIZE // 2}-{SIZE - 1}"
    assert result.requests[1].header("If-Range") == device_api.image_etag(entry.sha256)
    assert result.elapsed_s < 5


def test_n3_cut_at_half_and_the_server_ignores_ranges(entry):
    """The answer from the beginning is taken, what is verified is skipped."""

    def fault(n, _request, answer):
        whole = Answer(200, {"Content-Length": str(SIZE)}, FILE)
        return whole.but(cut=SIZE // 2) if n == 0 else whole

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert kinds(result) == [AttemptFailed, RestartedFromZero, DownloadCompleted]


@pytest.mark.parametrize(
    "content_range",
    [f"bytes 0-{SIZE - 1}/{SIZE}", f"bytes {SIZE // 2 + 1}-{SIZE - 1}/{SIZE}", f"bytes {SIZE // 2}-{SIZE - 1}/{SIZE + 1}",
     f"bytes {SIZE // 2}-{SIZE}/{SIZE}", f"bytes {SIZE // 2}-{SIZE // 2 - 1}/{SIZE}", "bytes */9", "items 0-9/10", "",
     "bytes 1-2/3, bytes 4-5/6", "bytes " + "9" * 5000 + "-1/2", None],
)  # fmt: skip
def test_n4_wrong_content_range(entry, content_range):
    """Noticed at the head; the whole file is asked for instead."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        if request.header("Range"):
            del answer.headers["Content-Range"]
            if content_range is not None:
                answer.headers["Content-Range"] = content_range
        return answer

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert kinds(result) == [AttemptFailed, RestartedFromZero, DownloadCompleted]
    assert result.requests[-1].header("Range") is None


def test_n4_ranges_that_are_always_wrong_are_given_up(entry):
    """After two wrong ones only whole files are asked for, cuts or not."""

    def fault(n, request, answer):
        if request.header("Range"):
            answer.headers["Content-Range"] = "bytes 0-1/2"
        return answer.but(cut=(n + 1) * 3000)

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert sum(request.header("Range") is not None for request in result.requests) == 2


def test_n5_the_file_was_replaced_and_the_server_knows_if_range(entry):
    """The file has another tag now: the server sends the whole, and its bytes are judged by their digests."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        assert request.header("If-Range") == device_api.image_etag(entry.sha256)
        return Answer(200, {"ETag": '"second"', "Content-Length": str(SIZE)}, FILE)

    download = Download(entry)
    result = run(download, Server(fault=fault))
    assert outcome(result) == "ok"
    assert download.etag == '"second"'


def test_n5_another_tag_on_a_range(entry):
    """A server that ignores If-Range gives itself away by the tag; the bytes are not spliced."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        if request.header("Range"):
            return Answer(206, {**answer.headers, "ETag": '"second"'}, OTHER_FILE[SIZE // 2 :])
        return answer

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert kinds(result) == [AttemptFailed, RestartedFromZero, DownloadCompleted]


def test_n5_other_bytes_under_the_right_tag(entry):
    """Nothing in the head tells: the block digests do, and the whole file is asked for when ranges prove wrong."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        if request.header("Range"):
            first = int(request.header("Range")[6:].split("-")[0])
            return answer.but(body=OTHER_FILE[first : first + len(answer.body)])
        return answer

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert BlockRefused in kinds(result)


def test_n6_a_file_shorter_than_signed(entry):
    """Refused at the head; the next answer may be right, the eighth is not asked for a ninth time."""
    result = run(Download(entry), Server(data=FILE[:-1]))
    assert f"expected {SIZE} bytes of image, got {SIZE - 1}" in outcome(result)
    assert (result.events[-1].error.permanent, result.events[-1].is_refusal) == (False, True)
    assert len(result.requests) == 8
    once = Server(fault=lambda n, _r, a: a.but(headers={"Content-Length": "7"}) if n == 0 else None)
    assert outcome(run(Download(entry), once)) == "ok"


def test_n6_a_file_shorter_than_signed_without_a_length(entry):
    """It ends early, is asked for the rest, and the server's 416 says how long it is."""

    def fault(_n, _request, answer):
        answer.headers.pop("Content-Length")
        return answer

    result = run(Download(entry), Server(data=FILE[:-300], fault=fault))
    assert f"expected {SIZE} bytes of image, got {SIZE - 300}" in outcome(result)
    assert result.events[-1].status == 416


def test_n7_content_length_too_large(entry):
    """One verdict: the signed bytes came, so it is complete."""

    def fault(_n, _request, answer):
        answer.headers["Content-Length"] = str(SIZE + 500)
        return answer.but(error="expected 500 bytes more")

    assert outcome(run(Download(entry), Server(fault=fault))) == "ok"


def test_n8_an_endless_body(entry):
    """Read up to the signed size, and not further."""
    sent = []

    def fault(_n, _request, _answer):
        sent.append(1)
        return Answer(200, {}, FILE + bytes(1_000_000))

    download = Download(entry)
    result = run(download, Server(fault=fault))
    assert outcome(result) == "ok"
    assert download.wants_abort
    assert len(sent) == 1


def test_n9_content_encoding(entry):
    """Refused: offsets and digests are of the plain bytes."""

    def fault(_n, _request, answer):
        answer.headers["content-encoding"] = "gzip"
        return answer

    result = run(Download(entry), Server(fault=fault))
    assert "expected identity encoding, got gzip" in outcome(result)
    assert len(result.requests) == 8
    once = Server(fault=lambda n, r, a: fault(n, r, a) if n == 0 else None)
    assert outcome(run(Download(entry), once)) == "ok"


@pytest.mark.parametrize(
    ("location", "origin", "path"),
    [
        ("/elsewhere/file?x=1", "", "/elsewhere/file?x=1"),
        ("file2", "", "/device/v1/images/file2"),
        ("../v2/file", "", "/device/v1/v2/file"),
        ("https://cdn.example/f", "https://cdn.example", "/f"),
        ("HTTPS://CDN.example/f#part", "https://cdn.example", "/f"),
        ("https://cdn.example", "https://cdn.example", "/"),
        ("https://base.example:8443/f", "", "/f"),
    ],
)
def test_n10_one_redirect(entry, location, origin, path):
    """Within the origin, or to an allowed one."""
    options = DownloadOptions(redirect_origins=frozenset({"https://cdn.example"}), origin="https://base.example:8443")
    server = Server(fault=lambda n, _r, _a: Answer(302, {"Location": location}, b"") if n == 0 else None)
    result = run(Download(entry, options=options), server)
    assert outcome(result) == "ok"
    assert (result.requests[1].origin, result.requests[1].path) == (origin, path)


def test_n10_a_range_follows_its_redirect_and_the_next_attempt_starts_at_home(entry):
    """The redirect belongs to one request; a later one may be led elsewhere."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        return Answer(307, {"Location": "/mirror"}, b"") if n == 1 else (answer.but(cut=3000) if n == 2 else None)

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    home = device_api.image_path(entry.sha256)
    assert [request.path for request in result.requests] == [home, home, "/mirror", home]
    assert result.requests[2].header("Range") == result.requests[1].header("Range")


@pytest.mark.parametrize(
    "location",
    ["https://evil.example/f", "http://cdn.example/f", "https://cdn.example.evil.example/f", "//evil.example/f",
     "https://cdn.example@evil.example/f", "https://cdn.example:444/f", "file:///etc/passwd", "https://[bad/f",
     "", None, "/with space", "/" + "x" * 3000, "/ä", "/line\nbreak"],
)  # fmt: skip
def test_n10_a_redirect_elsewhere_is_not_followed(entry, location):
    """Other hosts, other schemes, other ports, tricks with the address."""
    options = DownloadOptions(redirect_origins=frozenset({"https://cdn.example"}))
    headers = {} if location is None else {"Location": location}
    result = run(Download(entry, options=options), Server(fault=lambda _n, _r, _a: Answer(302, headers, b"")))
    assert "redirected to an origin that is not allowed" in outcome(result)
    assert (result.events[-1].error.permanent, result.events[-1].is_refusal) == (False, True)
    assert {(request.origin, request.path) for request in result.requests} == {
        ("", device_api.image_path(entry.sha256))
    }
    # A portal has gone by the next time.
    once = Server(fault=lambda n, _r, _a: Answer(302, headers, b"") if n == 0 else None)
    assert outcome(run(Download(entry, options=options), once)) == "ok"


def test_n11_redirect_loop(entry):
    """Five an attempt, not more."""
    server = Server(fault=lambda n, _r, _a: Answer(301, {"Location": f"/{n}"}, b""))
    result = run(Download(entry), server)
    assert "more than 5 redirects" in outcome(result)
    assert len(result.requests) == 8 * 6


@pytest.mark.parametrize("status", [404, 410])
def test_n12_missing(entry, status):
    """A CDN that has not got it yet says so too: no loop, but a few minutes; the report says missing."""
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: Answer(status, {}, b"gone")))
    assert "missing" in outcome(result)
    assert (result.events[-1].is_refusal, result.events[-1].status) == (True, status)
    assert len(result.requests) == 8
    assert 120 < result.elapsed_s < 200
    assert (
        outcome(run(Download(entry), Server(fault=lambda n, _r, _a: Answer(status, {}, b"") if n < 7 else None)))
        == "ok"
    )


@pytest.mark.parametrize(
    ("retry_after", "expected_s"),
    [
        ("7", 14),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10),
        ("Sun, 13 Sep 2020 12:26:40 GMT", 6),
        ("soon", 6),
        ("", 6),
        (None, 6),
        ("999999999999", 7200),
        ("9" * 40, 6),
    ],
)
def test_n13_unavailable_twice_with_retry_after(entry, retry_after, expected_s):
    """The server's wish is honoured, up to an hour; without one the waits grow."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    result = run(Download(entry), Server(fault=lambda n, _r, _a: Answer(503, headers, b"busy") if n < 2 else None))
    assert outcome(result) == "ok"
    assert kinds(result) == [AttemptFailed, AttemptFailed, DownloadCompleted]
    assert expected_s <= result.elapsed_s < expected_s + 5


def test_n14_one_flipped_bit(entry):
    """The block is refused; the rest of the answer is used; that block alone is fetched again."""

    body = bytearray(FILE)
    body[5 * BLOCK + 17] ^= 0x20

    def fault(n, _request, answer):
        return answer.but(body=bytes(body)) if n == 0 else None

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert result.events == [BlockRefused(5), Resumed(5 * BLOCK), DownloadCompleted()]
    assert result.requests[1].header("Range") == f"bytes={5 * BLOCK}-{6 * BLOCK - 1}"
    assert len(result.requests) == 2


def test_n14_several_bad_blocks_are_fetched_one_by_one(entry):
    """Neighbours and the short last block too."""
    bad = (3, 4, 20)

    body = bytearray(FILE)
    for index in bad:
        body[index * BLOCK] ^= 1

    def fault(n, _request, answer):
        return answer.but(body=bytes(body)) if n == 0 else None

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert [request.header("Range") for request in result.requests[1:]] == [
        f"bytes={index * BLOCK}-{min((index + 1) * BLOCK, SIZE) - 1}" for index in bad
    ]


def test_n14_a_block_that_is_always_wrong_ends_the_download(entry):
    """Alone as a range, then within the whole file, then no more."""

    def fault(_n, request, answer):
        first = int((request.header("Range") or "bytes=0-")[6:].split("-")[0])
        body = bytearray(answer.body)
        if first <= 5 * BLOCK:
            body[5 * BLOCK - first] ^= 1
        return answer.but(body=bytes(body))

    result = run(Download(entry), Server(fault=fault))
    assert "corrupted-data: block 5 did not have its signed digest" in outcome(result)
    assert result.events[-1].error.permanent
    assert [request.header("Range") for request in result.requests] == [
        None,
        f"bytes={5 * BLOCK}-{6 * BLOCK - 1}",
        None,
    ]
    assert sorted(result.blocks) == [index for index in range(21) if index != 5]


def test_n15_cut_after_100_bytes_every_time(entry):
    """Progress keeps it alive: the block begun is kept over the cuts, and it arrives in the end."""
    result = run(Download(entry), Server(fault=lambda _n, _r, a: a.but(cut=100)))
    assert outcome(result) == "ok"
    assert len(result.requests) == -(-SIZE // 100)
    assert result.elapsed_s < 2 * len(result.requests)


def test_n15_cuts_without_progress_end_it(entry):
    """Without ranges, a cut at the same place brings nothing new."""
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: Answer(200, {}, FILE, cut=3 * BLOCK)))
    assert "gave up after" in outcome(result)
    assert not result.events[-1].error.permanent
    assert len(result.requests) < 15
    assert sorted(result.blocks) == [0, 1, 2]


def test_n15_all_attempts_together_are_bounded(entry):
    """Progress alone is no licence to go on for ever."""
    options = DownloadOptions(attempts_max=20)
    result = run(Download(entry, options=options), Server(fault=lambda _n, _r, a: a.but(cut=100)))
    assert "gave up after 20 attempts" in outcome(result)
    assert len(result.requests) == 20


def test_n15_a_bad_block_and_a_cut_in_one_answer(entry):
    """The block begun at the cut goes on first, then the bad one is fetched alone."""
    body = bytearray(FILE)
    body[3 * BLOCK] ^= 1
    cut = 8 * BLOCK + 100
    result = run(Download(entry), Server(fault=lambda n, _r, a: a.but(body=bytes(body), cut=cut) if n == 0 else None))
    assert outcome(result) == "ok"
    assert [request.header("Range") for request in result.requests[1:]] == [
        f"bytes={cut}-{SIZE - 1}",
        f"bytes={3 * BLOCK}-{4 * BLOCK - 1}",
    ]


def capped(size_bytes):
    """A server that answers with at most so many bytes of a range, as RFC 9110, section 15.3.7 allows."""

    def fault(_n, request, answer):
        if request.header("Range"):
            first = int(request.header("Range")[6:].split("-")[0])
            piece = answer.body[:size_bytes]
            answer.headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{SIZE}"
            return answer.but(body=piece)
        return answer

    return fault


def test_n15_a_server_may_answer_with_less_than_the_range(entry):
    """The rest is asked for at once; only the number of attempts is bounded."""
    result = run(Download(entry, have=[0]), Server(fault=capped(1500)))
    assert len(result.blocks) == 20
    assert isinstance(result.events[-1], DownloadCompleted)
    options = DownloadOptions(attempts_max=5)
    result = run(Download(entry, have=[0], options=options), Server(fault=capped(1500)))
    assert "the image did not arrive in 5 attempts" in str(result.events[-1].error)
    assert len(result.requests) == 5


def test_n16_one_byte_a_second(entry):
    """The rate watchdog ends the attempt, and after three such the download, by name."""
    result = run(Download(entry), Server(fault=lambda _n, _r, a: a.but(piece=1, piece_ns=S)))
    assert "slow-retrieval: expected 64 bytes/s" in outcome(result)
    assert not result.events[-1].error.permanent
    assert len(result.requests) == 3
    assert 85 < result.elapsed_s < 110


def test_n16_a_slow_but_honest_link_is_endured(entry):
    """A hundred bytes a second is slow, and enough."""
    result = run(Download(entry), Server(fault=lambda _n, _r, a: a.but(piece=100, piece_ns=S)))
    assert outcome(result) == "ok"
    assert len(result.requests) == 1


def test_n16_slow_once_is_no_reason_to_give_up(entry):
    """The count starts again with a window that was fast enough."""

    def fault(n, _request, answer):
        return answer.but(piece=1, piece_ns=S) if n % 2 == 0 and n < 8 else answer.but(piece=100, piece_ns=S, cut=4000)

    assert outcome(run(Download(entry), Server(fault=fault))) == "ok"


@pytest.mark.parametrize("status", [401, 403, 204, 304, 400, 418])
def test_n17_other_statuses_end_it_with_their_number(entry, status):
    """401 and 403 ask for a new session at once; the others are asked again."""
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: Answer(status, {}, b"")))
    assert f"got {status}" in outcome(result)
    last = result.events[-1]
    assert (last.error.permanent, last.is_refusal, last.status) == (False, True, status)
    assert len(result.requests) == (1 if status in {401, 403} else 8)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 507, 520, 599])
def test_n13_an_unknown_5xx_is_as_500(entry, status):
    """RFC 9110, section 15: the server is there, and unavailable; that is no refusal."""
    result = run(Download(entry), Server(fault=lambda n, _r, _a: Answer(status, {}, b"") if n < 7 else None))
    assert outcome(result) == "ok"
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: Answer(status, {"Retry-After": "7"}, b"")))
    last = result.events[-1]
    assert (last.error.permanent, last.is_refusal, last.retry_after_s) == (False, False, 7)


def test_n15_bytes_that_come_again_are_no_progress(entry):
    """A short answer to every request, without a type and from the beginning: given up after eight that bring nothing new."""
    server = Server(fault=lambda _n, _r, _a: Answer(200, {}, FILE[:41]))
    result = run(Download(entry), server)
    assert "gave up after 9 attempts" in outcome(result)
    assert result.events[-1].is_refusal
    assert len(server.requests) == 9


def test_n15_a_server_that_answers_with_a_few_bytes_is_not_asked_without_a_pause(entry):
    result = run(Download(entry, have=[0]), Server(fault=capped(100)))
    assert isinstance(result.events[-1], DownloadCompleted)
    # Every eleventh answer completes a block of 1024 bytes; the others are followed by a second.
    assert result.elapsed_s > 0.8 * len(result.requests)


def test_n14_a_block_that_is_wrong_otherwise_each_time_is_no_forgery(entry):
    """Noise: the download gives up for now; the same wrong bytes three times are what the server has."""

    def noise(n, _request, answer):
        return answer.but(body=bytes([answer.body[0] ^ (n + 1)]) + answer.body[1:])

    result = run(Download(entry), Server(fault=noise))
    assert "corrupted-data" in outcome(result)
    assert (result.events[-1].error.permanent, result.events[-1].is_refusal) == (False, False)


def test_n17_captive_portal(entry):
    """A web page with 200 is not the image, and tomorrow it may be gone."""
    page = Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>" * 9000)
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: page))
    assert "captive portal" in outcome(result)
    assert not result.events[-1].error.permanent
    assert result.blocks == {}


def test_n17_a_range_inside_the_file_called_unsatisfiable(entry):
    """416 for a file of the right size is nonsense: the whole file is asked for."""

    def fault(n, request, answer):
        if n == 0:
            return answer.but(cut=SIZE // 2)
        return Answer(416, {"Content-Range": f"bytes */{SIZE}"}, b"") if request.header("Range") else answer

    assert outcome(run(Download(entry), Server(fault=fault))) == "ok"


@pytest.mark.parametrize("status", [206, 416])
def test_n17_a_range_nobody_asked_for(entry, status):
    """Tried again a few times, then given up."""
    headers = {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}
    result = run(Download(entry), Server(fault=lambda _n, _r, _a: Answer(status, headers, FILE)))
    assert f"expected 200 to a request without a range, got {status}" in outcome(result)
    assert len(result.requests) == 8


def test_n19_the_server_restarts_with_another_tag_style(entry):
    """Same file, weak tag: resumed by the API's own tag or sent whole, never spliced."""

    def fault(n, _request, answer):
        answer.headers["ETag"] = 'W/"inode-77"'
        return answer.but(cut=SIZE // 2) if n == 0 else answer

    assert outcome(run(Download(entry), Server(fault=fault))) == "ok"


def test_n20_a_proxy_that_doubles_a_piece(entry):
    """The digests notice, and the damage is fetched again."""

    def fault(n, _request, answer):
        return answer.but(body=FILE[:6000] + FILE[3000:]) if n == 0 else None

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert BlockRefused in kinds(result)


# -- time ----------------------------------------------------------------------------------------------------------------


def test_a_server_that_says_nothing_is_left(entry):
    """No head within 30 s: eight times, with growing waits, then the download fails."""
    result = run(Download(entry), Server(fault=lambda _n, _r, a: a.but(head_ns=3600 * S)))
    assert "no response within 30 s" in outcome(result)
    assert len(result.requests) == 8
    waits = [event.retry_at_ns for event in result.events[:-1]]
    assert [round((after - before) / S) for before, after in pairwise(waits)] == [
        34,
        38,
        46,
        62,
        90,
        90,
    ]


def test_a_server_that_stops_in_mid_body_is_left(entry):
    """No byte within 20 s; then it goes on from there."""

    def fault(n, _request, answer):
        return answer.but(piece=5000, piece_ns=60 * S) if n == 0 else None

    result = run(Download(entry), Server(fault=fault))
    assert outcome(result) == "ok"
    assert isinstance(result.events[0], AttemptFailed)
    assert "no data for 20 s" in result.events[0].reason


def test_nothing_happens_before_its_time(entry):
    """`handle_timeout` is harmless early, late and often."""
    download = Download(entry)
    assert download.next_timeout() is None
    download.handle_timeout(START)
    assert download.next_request(START) is not None
    assert download.next_request(START) is None
    assert download.next_timeout() == START + 30 * S
    download.handle_timeout(START + 30 * S - 1)
    assert download.state is DownloadState.WAITING_HEAD
    download.handle_timeout(START + 30 * S)
    assert download.state is DownloadState.RETRY_WAIT
    assert download.wants_abort
    # What the connection still delivers is not wanted.
    download.receive_head(200, {}, START + 31 * S)
    download.receive_body(b"late", START + 31 * S)
    download.response_ended(START + 31 * S)
    assert not download.wants_abort
    assert download.next_request(START + 31 * S) is None
    assert download.next_timeout() == START + 32 * S
    download.handle_timeout(START + 32 * S)
    assert download.state is DownloadState.READY
    assert download.next_request(START + 32 * S) is not None


def test_a_connection_that_ends_before_its_head_is_tried_again(entry):
    """With or without the driver's reason."""
    download = Download(entry)
    for error, text in ((None, "the connection closed before the response"), ("refused", "refused")):
        now = download.next_timeout() or START
        download.next_request(now)
        download.response_ended(now, error)
        assert text in download.next_event().reason


def test_jitter_spreads_the_waits(entry):
    """A unit's own fraction, drawn once by the caller: no randomness in here."""
    download = Download(entry, options=DownloadOptions(retry_jitter=0.5))
    download.next_request(START)
    download.response_ended(START, "refused")
    assert download.next_timeout() == START + 3 * S


# -- going on after a restart --------------------------------------------------------------------------------------------


def test_what_is_stored_is_not_fetched_again(entry):
    """Blocks 0 to 6 are on the flash: the range begins at block 7, bound to the tag, and progress counts them."""
    download = Download(entry, have=range(7))
    assert download.progress_bytes == 7 * BLOCK
    result = run(download, Server())
    assert [request.header("Range") for request in result.requests] == [f"bytes={7 * BLOCK}-{SIZE - 1}"]
    assert result.requests[0].header("If-Range") == device_api.image_etag(entry.sha256)
    assert sorted(result.blocks) == list(range(7, 21))
    assert b"".join(result.blocks[index] for index in range(7, 21)) == FILE[7 * BLOCK :]
    assert download.progress_bytes == SIZE


def test_gaps_are_filled_one_request_each(entry):
    """Holes left by a power cut inside a write."""
    result = run(Download(entry, have=set(range(21)) - {2, 3, 9, 20}), Server())
    assert [request.header("Range") for request in result.requests] == [
        f"bytes={2 * BLOCK}-{4 * BLOCK - 1}",
        f"bytes={9 * BLOCK}-{10 * BLOCK - 1}",
        f"bytes={20 * BLOCK}-{SIZE - 1}",
    ]
    assert sorted(result.blocks) == [2, 3, 9, 20]


def test_a_complete_image_needs_no_request(entry):
    """Nothing missing: completed at once."""
    download = Download(entry, have=range(21))
    assert download.next_request(START) is None
    assert download.next_event() == DownloadCompleted()
    assert download.finished


def test_a_stored_tag_and_path_are_used(entry):
    """For servers that are not the device API."""
    download = Download(entry, have=[0], etag='"theirs"', path="/files/7")
    request = download.next_request(START)
    assert (request.path, request.header("If-Range")) == ("/files/7", '"theirs"')


def test_blocks_the_image_does_not_have(entry):
    """A record of another image is a mistake of the caller."""
    for have in ([21], [-1], [0, 999]):
        with pytest.raises(LocalProtocolError, match=r"block indices 0\.\.20"):
            Download(entry, have=have)


def test_inputs_out_of_order_are_the_drivers_mistake(entry):
    """A head without a request, a body without a head."""
    download = Download(entry)
    with pytest.raises(LocalProtocolError, match="no request is waiting"):
        download.receive_head(200, {}, START)
    download.next_request(START)
    with pytest.raises(LocalProtocolError, match="no response is being received"):
        download.receive_body(b"x", START)


# -- any faults ----------------------------------------------------------------------------------------------------------

faults = st.sampled_from(
    ["none", "cut", "flip", "whole", "wrong range", "503", "double", "other file", "slow", "silent", "416", "redirect"]
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(script=st.lists(st.tuples(faults, st.integers(0, SIZE)), max_size=12), have=st.sets(st.integers(0, 20)))
def test_whatever_happens_only_the_signed_bytes_come_out(entry, script, have):
    """Any script of faults, then an honest server: the right bytes or a failure with a reason, in a bounded time."""

    def fault(n, request, answer):
        kind, place = script[n] if n < len(script) else ("none", 0)
        if kind == "cut":
            return answer.but(cut=place)
        if kind == "flip" and answer.body:
            at = place % len(answer.body)
            return answer.but(body=answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :])
        if kind == "double":
            return answer.but(body=answer.body[:place] + answer.body[place // 2 :])
        return {
            "whole": Answer(200, {}, FILE),
            "wrong range": Answer(206, {"Content-Range": f"bytes {place}-{SIZE - 1}/{SIZE}"}, FILE[place:]),
            "503": Answer(503, {"Retry-After": str(place)}, b""),
            "other file": Answer(200, {"ETag": '"x"'}, OTHER_FILE),
            "slow": answer.but(piece=1, piece_ns=2 * S) if kind == "slow" else answer,
            "silent": answer.but(head_ns=100 * S) if kind == "silent" else answer,
            "416": Answer(416, {"Content-Range": f"bytes */{SIZE}"}, b""),
            "redirect": Answer(302, {"Location": f"/{place}"}, b""),
        }.get(kind, answer)

    download = Download(entry, have=have)
    result = run(download, Server(fault=fault))
    for index, data in result.blocks.items():
        assert data == FILE[index * BLOCK : (index + 1) * BLOCK]
        assert index not in have
    if isinstance(result.events[-1], DownloadCompleted):
        assert set(result.blocks) | have == set(range(21))
        assert download.progress_bytes == SIZE
    else:
        assert isinstance(result.events[-1], DownloadFailed)
        assert download.progress_bytes == sum(entry.block_size(index) for index in have | set(result.blocks))
    assert download.next_timeout() is None


@settings(max_examples=100, deadline=None)
@given(
    status=st.integers(100, 599),
    headers=st.dictionaries(
        st.sampled_from(["Content-Range", "Content-Length", "ETag", "Location", "Retry-After", "Content-Encoding"]),
        st.text(max_size=30),
    ),
    with_range=st.booleans(),
)
def test_no_head_is_more_than_the_machine_can_bear(entry, status, headers, with_range):
    """Any status, any header text: an event, never another exception."""
    download = Download(entry, have=[0] if with_range else [])
    download.next_request(START)
    download.receive_head(status, headers, START)
    if download.state is DownloadState.RECEIVING:
        download.receive_body(b"x" * 5000, START)
    download.response_ended(START, "gone")
    assert download.state in DownloadState
