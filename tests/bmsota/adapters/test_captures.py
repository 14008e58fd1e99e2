"""Captures: both file formats, every link type, and TCP as it really comes: twice, late, never."""

from __future__ import annotations

import gzip
import io

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.adapters import captures
from bmsota.adapters.captures import Capture, TcpStream
from bmsota.errors import ConfigurationError

SYN, FIN, ACK = dpkt.tcp.TH_SYN, dpkt.tcp.TH_FIN, dpkt.tcp.TH_ACK
UP = ((b"\x0a\0\0\1", 4000), (b"\x0a\0\0\2", 32960))
TEXT = bytes(range(200))


def ip(data, *, ends=UP, sequence=0, flags=ACK):
    (source, sport), (destination, dport) = ends
    segment = dpkt.tcp.TCP(sport=sport, dport=dport, seq=sequence % 2**32, flags=flags, data=data)
    if len(source) == 16:
        return dpkt.ip6.IP6(src=source, dst=destination, nxt=6, plen=len(segment), data=segment)
    return dpkt.ip.IP(src=source, dst=destination, p=6, data=segment)


def ethernet(inner):
    kind = dpkt.ethernet.ETH_TYPE_IP6 if isinstance(inner, dpkt.ip6.IP6) else dpkt.ethernet.ETH_TYPE_IP
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, type=kind, data=inner))


def written(packets, *, writer=dpkt.pcap.Writer, linktype=1):
    file = io.BytesIO()
    if writer is dpkt.pcap.Writer:
        out = writer(file, linktype=linktype)
    else:
        out = writer(file, idb=dpkt.pcapng.InterfaceDescriptionBlockLE(linktype=linktype))
    for index, packet in enumerate(packets):
        out.writepkt(packet, 1_767_240_000 + index)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """Reads a capture of these bytes: the pieces that carry something, and the capture."""

    def pieces(content, **options):
        path = tmp_path / "capture"
        path.write_bytes(content)
        with Capture(path, **options) as capture:
            found = list(capture.pieces())
        return found, capture

    return pieces


def said(found):
    return [(piece.data, piece.missing_size_bytes) for piece in found if piece.data]


@pytest.mark.parametrize("writer", [dpkt.pcap.Writer, dpkt.pcapng.Writer])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_both_formats_plain_and_packed(read, writer, pack):
    found, capture = read(pack(written([ethernet(ip(b"hello"))], writer=writer)))
    assert said(found) == [(b"hello", 0)]
    assert str(found[0].link) == "10.0.0.1:4000 > 10.0.0.2:32960"
    assert found[0].time_ns == 1_767_240_000 * 10**9
    assert (capture.packets, capture.others, capture.fault) == (1, 0, None)


V6 = ((b"\xfe\x80" + b"\0" * 13 + b"\1", 4000), (b"\xfe\x80" + b"\0" * 13 + b"\2", 32960))


@pytest.mark.parametrize(
    ("linktype", "head"),
    [
        (0, b"\2\0\0\0"),
        (1, b"\4" * 6 + b"\2" * 6 + b"\x08\0"),
        (1, b"\4" * 6 + b"\2" * 6 + b"\x81\0\0\5\x08\0"),
        (101, b""),
        (108, b"\0\0\0\2"),
        (113, b"\0\0\0\1\0\6" + b"\2" * 8 + b"\x08\0"),
        (276, b"\x08\0\0\0\0\0\0\1\0\1\0\6" + b"\2" * 8),
    ],
)
def test_every_link_type(read, linktype, head):
    found, capture = read(written([head + bytes(ip(b"hello"))], linktype=linktype))
    assert said(found) == [(b"hello", 0)]
    assert capture.others == 0


def test_ipv6(read):
    found, _ = read(written([ethernet(ip(b"hello", ends=V6))]))
    assert str(found[0].link) == "[fe80::1]:4000 > [fe80::2]:32960"


def test_ports(read):
    other = (UP[0], (UP[1][0], 80))
    found, _ = read(written([ethernet(ip(b"no", ends=other)), ethernet(ip(b"yes"))]), ports=frozenset({32960}))
    assert said(found) == [(b"yes", 0)]


def test_a_connection_from_its_start_to_its_end(read):
    """The sequence begins behind the SYN, over the 32-bit edge too; the same two ends may talk again."""
    one = [
        ip(b"", sequence=2**32 - 3, flags=SYN),
        ip(b"abc", sequence=2**32 - 2),
        ip(b"abc", sequence=2**32 - 2),
        ip(b"def", sequence=1, flags=FIN),
    ]
    two = [ip(b"", sequence=70, flags=SYN), ip(b"", sequence=70, flags=SYN), ip(b"ghi", sequence=71)]
    found, _ = read(written([ethernet(each) for each in one + two]))
    assert said(found) == [(b"abc", 0), (b"def", 0), (b"ghi", 0)]
    assert [piece.is_start for piece in found] == [True, False, False, False, True, False, False]
    assert [piece.is_end for piece in found] == [False, False, False, True, False, False, True]


def test_what_is_missing_is_said(read):
    packets = [ip(TEXT[:10], sequence=0), ip(TEXT[30:40], sequence=30), ip(TEXT[40:50], sequence=40)]
    found, _ = read(written([ethernet(each) for each in packets]))
    assert said(found) == [(TEXT[:10], 0), (TEXT[30:40], 20), (TEXT[40:50], 0)]


def test_waiting_has_a_limit():
    stream = TcpStream(0)
    given = [piece for at in range(1, 2000) for piece in stream.receive(at * 2000, b"x" * 1000)]
    assert given[0] == (2000, b"x" * 1000)
    assert stream.waiting_size_bytes <= 1024 * 1024


@pytest.mark.slow
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60)), max_size=40),
)
def test_whatever_the_order_the_text_comes_once(start, parts):
    """Segments in any order, twice and overlapping: each byte once, in its order, and the gaps counted."""
    stream = TcpStream(start)
    given = [
        piece for at, size in [*parts, (0, 10)] for piece in stream.receive((start + at) % 2**32, TEXT[at : at + size])
    ]
    given += stream.give_up()
    place = 0
    for missing, data in given:
        place += missing
        assert data == TEXT[place : place + len(data)]
        place += len(data)
    covered = {at for first, size in [*parts, (0, 10)] for at in range(first, min(first + size, 200))}
    assert sum(len(data) for _, data in given) == len(covered)
    assert not stream.waiting
    assert stream.waiting_size_bytes == 0


@pytest.mark.parametrize("writer", [dpkt.pcap.Writer, dpkt.pcapng.Writer])
def test_every_capture_that_breaks_off_ends(read, writer):
    """At any byte: what was whole is given, or the file is refused; nothing else."""
    packets = [ethernet(ip(b"one")), ethernet(ip(b"two", sequence=3))]
    content = written(packets, writer=writer)
    whole = {len(written(packets[:count], writer=writer)) for count in (0, 1)}
    for size in range(len(content)):
        try:
            found, capture = read(content[:size])
        except ConfigurationError as error:
            assert "expected a .pcap or .pcapng capture" in str(error)  # noqa: PT017 - either is right
            assert size < min(whole)
        else:
            assert [data for data, _ in said(found)] in ([], [b"one"])
            assert (capture.fault is None) == (size in whole)


@pytest.mark.parametrize("size", [-8, 17 * 1024 * 1024])
def test_a_record_is_not_read_beyond_its_limit(size):
    """A broken length would otherwise take the whole file into memory."""
    with pytest.raises(ValueError, match="a record of"):
        captures._Guarded(io.BytesIO(b"x" * 100)).read(size)


def test_a_record_of_impossible_size(read):
    content = bytearray(written([ethernet(ip(b"one")), ethernet(ip(b"two", sequence=3))]))
    at = 24 + 16 + len(ethernet(ip(b"one")))
    content[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    found, capture = read(bytes(content))
    assert said(found) == [(b"one", 0)]
    assert "expected a readable capture to its end" in capture.fault


def test_what_is_no_tcp_is_counted(read):
    udp = dpkt.ip.IP(src=UP[0][0], dst=UP[1][0], p=17, data=dpkt.udp.UDP(sport=1, dport=2, data=b"x"))
    _, capture = read(written([ethernet(udp), b"", b"\0" * 20]))
    assert (capture.packets, capture.others) == (3, 3)


def test_progress(tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(written([ethernet(ip(b"x"))]))
    with Capture(path) as capture:
        list(capture.pieces())
        assert capture.progress == 1.0
    assert capture.progress == 1.0


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", b"nonsense" * 10, b"\x0a\x0d\x0d\x0a" + b"\0" * 40])
def test_what_is_no_capture(read, content):
    with pytest.raises(ConfigurationError, match=r"expected a \.pcap or \.pcapng capture"):
        read(content)


def test_a_link_type_that_nobody_knows(read):
    with pytest.raises(ConfigurationError, match="got link type 147"):
        read(written([], linktype=147))
