"""Text comes out of ids piece by piece, and the pieces are the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry_server.services.detokenizer import Detokenizer, StopStrings, TextStream
from lorry_server.services.text import TextCodec


def pieces(codec: TextCodec, token_ids: list[int], chunk: int = 1) -> list[str]:
    detokenizer = Detokenizer(codec)
    out = [detokenizer.push(token_ids[at : at + chunk]) for at in range(0, len(token_ids), chunk)]
    return [*out, detokenizer.flush()]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_of_any_ids_are_the_text_of_all(codec, tokenizer, data):
    """Random ids are mostly broken UTF-8, which is what a random base generates."""
    token_ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=120))
    chunk = data.draw(st.integers(1, 7))
    whole = tokenizer.decode(token_ids, skip_special_tokens=True)
    assert "".join(pieces(codec, token_ids, chunk)) == whole


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60), chunk=st.integers(1, 3))
def test_pieces_of_a_text_are_the_text(codec, tokenizer, text, chunk):
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(token_ids, skip_special_tokens=True)
    assert "".join(pieces(codec, token_ids, chunk)) == whole


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_pieces_of_byte_fallback_ids_are_the_text_of_all(byte_fallback_tokenizer, data):
    """Words, characters and single bytes in any order: characters in bytes, broken ones, and bytes that are none.

    Bug: such a tokenizer reads a run of bytes as a whole, so that a wrong byte undid a character that was out already.
    """
    tokenizer = byte_fallback_tokenizer
    codec = TextCodec(tokenizer)
    byte = st.integers(3, 258)
    spelled = st.text(alphabet="é漢😀a", min_size=1, max_size=3).map(
        lambda text: [3 + value for value in text.encode()]
    )
    anything = st.integers(0, len(tokenizer) - 1).map(lambda token_id: [token_id])
    parts = data.draw(st.lists(st.one_of(byte.map(lambda b: [b]), spelled, anything), max_size=30))
    token_ids = [token_id for part in parts for token_id in part]
    chunk = data.draw(st.integers(1, 7))
    whole = tokenizer.decode(token_ids, skip_special_tokens=True)
    assert "".join(pieces(codec, token_ids, chunk)) == whole


def test_a_run_of_bytes_comes_out_where_it_ends(byte_fallback_tokenizer):
    tokenizer = byte_fallback_tokenizer
    codec = TextCodec(tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    spelled = [ids(f"<0x{value:02X}>") for value in "漢😀".encode()]
    out = pieces(codec, [ids("▁the"), *spelled, ids("▁river")])
    assert out == ["the", *[""] * 7, "漢😀 river", ""]


@settings(max_examples=400, deadline=None)
@given(
    text=st.text(alphabet="ab é漢😀\ufffd", max_size=25),
    stops=st.lists(st.text(alphabet="ab é漢", min_size=1, max_size=4), min_size=1, max_size=3),
    data=st.data(),
)
def test_a_stream_shows_the_text_before_the_first_stop_string_and_no_more(
    codec, tokenizer, byte_fallback_tokenizer, text, stops, data
):
    """Token by token, over both kinds of tokenizers, against the naive way: decode everything again with each token.

    Whatever has been shown at any time is a beginning of the text before the stop string: no part of one leaks.
    """
    fast = data.draw(st.sampled_from([tokenizer, byte_fallback_tokenizer]))
    token_ids = fast(text, add_special_tokens=False)["input_ids"]
    whole = fast.decode(token_ids, skip_special_tokens=True)
    ends = [
        (whole.find(stop) + len(stop), whole.find(stop), stop) for stop in stops if stop in whole
    ]
    right = (whole[: min(ends)[1]], min(ends)[2]) if ends else (whole, None)

    stream, shown, stop = TextStream(TextCodec(fast), stops), "", None
    for token_id in token_ids:
        piece, stop = stream.push(token_id)
        shown += piece
        assert right[0].startswith(shown)
        if stop is not None:
            break
    if stop is None:
        piece, stop = stream.finish()
        shown += piece
    assert (shown, stop) == right


def test_no_piece_holds_a_part_of_a_character(codec, tokenizer):
    text = "a 😀 b 👩‍👩‍👧 c é 漢字"
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(token_ids) > len(text)  # this vocabulary spells them in bytes
    out = pieces(codec, token_ids)
    assert "".join(out) == text
    assert "\ufffd" not in "".join(out)


def test_bytes_that_never_become_characters_do_not_pile_up(codec, tokenizer):
    """One broken byte for ever: the window must stay short, or each token would cost more than the one before."""
    broken = next(
        token_id
        for token_id in range(len(tokenizer))
        if tokenizer.decode([token_id, token_id, token_id]) == "\ufffd" * 3
    )
    detokenizer = Detokenizer(codec)
    out = ""
    for _ in range(2000):
        out += detokenizer.push([broken])
        assert len(detokenizer._window) < 64
    assert out + detokenizer.flush() == "\ufffd" * 2000


def split(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@settings(max_examples=500, deadline=None)
@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_a_stop_string_cuts_at_the_same_place_however_the_text_comes(text, stops, cuts):
    ends = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    expected = (text[: min(ends)[1]], min(ends)[2]) if ends else (text, None)

    cutter, shown, found = StopStrings(stops), "", None
    for piece in split(text, cuts):
        more, found = cutter.push(piece)
        shown += more
        if found is not None:
            break
    if found is None:
        shown += cutter.flush()
    assert (shown, found) == expected


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none():
    cutter = StopStrings(["</end>"])
    assert cutter.push("yes </e") == ("yes ", None)
    assert cutter.push("n") == ("", None)
    assert cutter.push("ough>") == ("</enough>", None)
    assert cutter.push("a</end") == ("a", None)
    assert cutter.flush() == "</end"


def test_without_a_tokenizer_there_is_no_text():
    stream = TextStream(None, ())
    assert stream.push(7) == ("", None)
    assert stream.finish() == ("", None)


@pytest.mark.parametrize("text", ["", "plain", "tail \ufffd"])
def test_text_may_end_with_the_replacement_character_itself(codec, tokenizer, text):
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(codec, token_ids)) == text
