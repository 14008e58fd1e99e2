"""Heatshrink streams: our decoder against the library's, every cut, bombs, rubbish.

A failing example prints itself; Hypothesis prints the blob that replays it.
"""

from __future__ import annotations

import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from random import Random

import heatshrink2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS, Decompressor, compress
from bmsota.errors import ConfigurationError, ImageError, MissingExtraError

IMAGES = Path(__file__).resolve().parents[2] / "firmware_images"
UNLIMITED = 1 << 30

# Runs, repetitions from near and far, and what does not repeat: every kind of token, at every distance.
repetitive = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.integers(1, 300)),
        st.builds(lambda seed, size: Random(seed).randbytes(size), st.integers(0, 3), st.integers(1, 1200)),
    ),
    max_size=8,
).map(b"".join)


def library_decode(stream):
    return heatshrink2.decompress(stream, window_sz2=WINDOW_BITS, lookahead_sz2=LOOKAHEAD_BITS)


def decompress(stream, size_bytes_max=UNLIMITED, *, cuts=()):
    """Through one decoder, in pieces that end at *cuts*."""
    decoder = Decompressor(size_bytes_max)
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [decoder.feed(stream[start:end]) for start, end in pairwise(edges)]
    return b"".join([*pieces, decoder.finish()])


def from_bits(text):
    """A stream written down in bits, filled up with zeros."""
    digits = text.replace(" ", "")
    digits += "0" * (-len(digits) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


def copy_token(distance, length):
    return f"0{distance - 1:0{WINDOW_BITS}b}{length - 1:0{LOOKAHEAD_BITS}b}"


@given(repetitive)
@example(b"")
@example(b"\0" * 2000)
def test_what_was_compressed_comes_back(data):
    """Through ours and through the library's decoder, and the library finds nothing to complain about either."""
    stream = compress(data)
    assert decompress(stream, len(data)) == data
    assert library_decode(stream) == data


@pytest.mark.slow
@given(repetitive, st.data())
def test_pieces_of_any_size_make_no_difference(data, draw):
    """Empty pieces and pieces of one byte included."""
    stream = compress(data)
    cuts = draw.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert decompress(stream, len(data), cuts=cuts) == data


@pytest.mark.slow
def test_a_stream_may_be_cut_anywhere():
    """Every single cut, and byte by byte, over a stream with literals, near, far and overlapping copies."""
    far = Random(1).randbytes(60)
    data = b"\0" * 30 + far + b"abcabcabcabcabc" + Random(2).randbytes(900) + far + b"\xff" * 40
    stream = compress(data)
    for cut in range(len(stream) + 1):
        assert decompress(stream, len(data), cuts=[cut]) == data, cut
    assert decompress(stream, len(data), cuts=range(len(stream))) == data


@given(st.binary(max_size=600))
def test_any_tokens_mean_what_the_library_says(stream):
    """Any bits are some tokens; where we take the stream as whole, the library gives the same bytes."""
    decoder = Decompressor(UNLIMITED)
    given_bytes = decoder.feed(stream)
    assert library_decode(stream)[: len(given_bytes)] == given_bytes
    try:
        decoder.finish()
    except ImageError as error:
        assert "behind the last byte or copy" in str(error)  # noqa: PT017  Both ends are right ones.
    else:
        assert library_decode(stream) == given_bytes


def test_the_tokens_by_hand():
    """A byte, an overlapping copy, a copy out of the zeros before the beginning."""
    assert decompress(from_bits("1 01100001")) == b"a"
    assert decompress(from_bits("1 01100001" + copy_token(1, 8))) == b"a" * 9
    assert decompress(from_bits("1 01100001 1 01100010" + copy_token(2, 5))) == b"abababa"
    assert decompress(from_bits(copy_token(1024, 8))) == b"\0" * 8
    assert decompress(from_bits("1 11111111" + copy_token(2, 2))) == b"\xff\0\xff"


def test_decoders_do_not_share_anything():
    """Two streams, fed in turns."""
    one, two = Random(3).randbytes(500) * 2, b"two" * 400
    streams = [compress(one), compress(two)]
    decoders = [Decompressor(len(one)), Decompressor(len(two))]
    results = [b"", b""]
    for at in range(max(map(len, streams))):
        for index, decoder in enumerate(decoders):
            results[index] += decoder.feed(streams[index][at : at + 1])
    assert results == [one, two]
    assert [decoder.size_bytes for decoder in decoders] == [len(one), len(two)]


def test_a_stream_that_gives_too_much_is_refused():
    """At the byte that goes too far; exactly the size is right."""
    data = Random(4).randbytes(300)
    stream = compress(data)
    assert decompress(stream, 300) == data
    with pytest.raises(ImageError, match=r"compressed image: expected at most 299 bytes out of it, got more \(offset"):
        decompress(stream, 299)
    decoder = Decompressor(299)
    kept = b""
    with pytest.raises(ImageError):  # noqa: PT012  What came before the error is what counts.
        for byte in stream:
            kept += decoder.feed(bytes([byte]))
    assert kept == data[:299]


def test_a_bomb_takes_no_more_memory_than_its_limit():
    """A stream of copies alone would give eight times its size: it stops at the limit."""
    bomb = bytes(2_000_000 // 7 * 7)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="expected at most 10000 bytes"):
            Decompressor(10_000).feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000 + 20_000


@pytest.mark.slow
def test_the_window_does_not_grow_with_the_image():
    """A long stream in small pieces: the decoder keeps the window and nothing else."""
    stream = compress(b"0123456789" * 40_000)
    decoder = Decompressor(400_000)
    decoder.feed(stream[:1000])
    tracemalloc.start()
    try:
        for at in range(1000, len(stream), 64):
            decoder.feed(stream[at : at + 64])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoder.finish()
    assert decoder.size_bytes == 400_000
    assert peak < 8_000


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("a byte of zeros", b"\0"),
        ("a byte of ones", b"\xff"),
        ("another stream", compress(b"another")),
    ],
)
def test_something_behind_the_end_is_refused(name, tail):
    """The library takes the first two without a word."""
    data = b"abcdefg"  # 63 bits, so that one bit of filling is left
    decoder = Decompressor(len(data))
    with pytest.raises(ImageError, match="compressed image: expected"):  # noqa: PT012  Where it shows depends on the tail.
        decoder.feed(compress(data) + tail)
        decoder.finish()
        pytest.fail(name)


def test_a_stream_that_ends_within_a_token_is_refused():
    """A literal or a copy that lost its last byte, and filling that is not zero."""
    for text in ("1 0110000", "0 0000000", "1 01100001 1"):
        decoder = Decompressor(100)
        decoder.feed(from_bits(text))
        with pytest.raises(ImageError, match="expected fewer than 8 zero bits behind the last byte or copy, got"):
            decoder.finish()


def test_a_broken_decoder_stays_broken():
    """The same error again, from both calls; nothing comes out any more."""
    decoder = Decompressor(1)
    with pytest.raises(ImageError) as first:
        decoder.feed(compress(b"ab"))
    for call in (lambda: decoder.feed(b""), decoder.finish):
        with pytest.raises(ImageError) as again:
            call()
        assert again.value is first.value
    assert decoder.size_bytes == 0


@given(st.lists(st.binary(max_size=200), max_size=6), st.integers(0, 300))
def test_rubbish_raises_image_errors_and_nothing_else(pieces, size_bytes_max):
    """And never gives more than was allowed."""
    decoder = Decompressor(size_bytes_max)
    total = 0
    try:
        for piece in pieces:
            total += len(decoder.feed(piece))
        total += len(decoder.finish())
    except ImageError:
        pass
    assert total == decoder.size_bytes <= size_bytes_max


def test_a_negative_limit_is_a_mistake():
    with pytest.raises(ConfigurationError, match="size_bytes_max: expected 0 or more, got -1"):
        Decompressor(-1)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.bin")), ids=lambda path: path.stem)
def test_the_sample_images_shrink_by_three_tenths(path):
    """The figures of docs/decisions/0024-compression.md, so that the record stays true."""
    data = path.read_bytes()
    stream = compress(data)
    assert decompress(stream, len(data)) == data
    assert 0.65 < len(stream) / len(data) < 0.69


def test_without_the_library_the_extra_is_named(monkeypatch):
    """Only compressing needs it."""
    monkeypatch.setitem(sys.modules, "heatshrink2", None)
    monkeypatch.setitem(sys.modules, "heatshrink2.core", None)
    with pytest.raises(MissingExtraError, match=r"compressing images needs heatshrink2: pip install 'bmsota\[can\]'"):
        compress(b"data")
    assert decompress(from_bits("1 01100001")) == b"a"
