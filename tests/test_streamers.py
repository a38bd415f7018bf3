"""Streamers: what comes out is what `decode` gives, never early and never revised; and both sides can stop."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import small_tokenizers as small
from pellucid.errors import InputError, UnknownArgumentError
from pellucid.generation.detokenizer import CLEAN_UP, Detokenizer, Replaced
from pellucid.generation.streamers import (
    AsyncTextIteratorStreamer,
    BaseStreamer,
    TextIteratorStreamer,
    TextStreamer,
)
from pellucid.tokenizer.rows import IdRows

KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": small.byte_level,
    "byte fallback, merged": small.byte_fallback_bpe,
    "byte fallback, unigram": small.byte_fallback_unigram,
    "pieces": small.pieces,
    "word pieces": small.word_pieces,
    "word ends": small.word_ends,
    "characters": small.characters,
    **{name: lambda decoder=decoder: small.with_decoder(decoder) for name, decoder in small.STREAMED.items()},
}
TEXTS = [*small.SENTENCES, "", " ", "  two  spaces  ", "\n\nlines\r\n", "a . b , c ! it 's they 're do n't ' x ' ."]


def streamed(tokenizer: Any, ids: Sequence[int], sizes: Sequence[int], skip: bool, clean: bool | None) -> str:
    """The stream of `ids`, in pieces of the given sizes; every beginning of it is one of the whole text."""
    whole = tokenizer.decode(ids, skip, clean)
    detokenizer = Detokenizer(tokenizer, skip, clean)
    text, place, turn = "", 0, 0
    while place < len(ids):
        size = sizes[turn % len(sizes)]
        text += detokenizer.push(ids[place : place + size])
        assert whole.startswith(text), "text was given that a later token changed"
        place, turn = place + size, turn + 1
    return text + detokenizer.finish()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_the_decoded_text(kind: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(kind)
    special = [index for index in tokenizer.all_special_ids if index is not None]
    for turn in range(300):
        if turn < len(TEXTS):
            ids = tokenizer(TEXTS[turn])["input_ids"]
        else:
            ids = [chance.randrange(len(tokenizer) + 1) for _ in range(chance.randrange(25))]
            ids = [chance.choice(special) if special and chance.random() < 0.1 else index for index in ids]
        for skip in (False, True):
            for clean in (None, True):
                whole = tokenizer.decode(ids, skip, clean)
                assert streamed(tokenizer, ids, [1], skip, clean) == whole
                assert streamed(tokenizer, ids, [3, 1, 0, 2], skip, clean) == whole


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback, merged", "byte fallback, unigram", "characters"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30), cut=st.integers(0, 60))
def test_any_text_comes_back_even_when_it_is_cut_off(kind: str, text: str, cut: int) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:cut]
    assert streamed(tokenizer, ids, [1], False, None) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback, merged"])
def test_no_half_character_is_given(kind: str) -> None:
    tokenizer = KINDS[kind]()
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer("x🙂 e\u0301नी y")["input_ids"]
    parts = [detokenizer.push([index]) for index in ids] + [detokenizer.finish()]
    assert "".join(parts) == "x🙂 e\u0301नी y"
    assert not any("�" in part for part in parts)


def test_text_is_given_as_soon_as_it_is_certain() -> None:
    tokenizer = small.byte_level()
    detokenizer = Detokenizer(tokenizer)
    for token in tokenizer("The fox jumps.")["input_ids"]:
        assert detokenizer.push([token]) == tokenizer.decode([token])
    tokenizer = small.byte_fallback_bpe()
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["▁the", "▁", "<0xC3>", "<0xA9>", "▁the", "<0xC3>", "▁a"])
    assert [detokenizer.push([index]) for index in ids] == ["the", " ", "", "", "é the", "", "� a"]


@pytest.mark.parametrize("name", small.HELD)
def test_a_decoder_that_cannot_be_followed_gives_its_text_at_the_end(name: str) -> None:
    tokenizer = small.with_decoder(small.HELD[name])
    ids = tokenizer.convert_tokens_to_ids(["a", "a", "b", "<pad>", "x "])
    detokenizer = Detokenizer(tokenizer, True)
    assert detokenizer.push(ids) == ""
    assert detokenizer.finish() == tokenizer.decode(ids, True)


def test_a_class_with_its_own_decoding_is_asked_at_the_end() -> None:
    class Loud(small.PreTrainedTokenizerFast):
        def _decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool | None) -> str:
            return super()._decode(ids, skip_special_tokens, clean_up).upper()

    tokenizer = Loud(small.byte_level().backend_tokenizer)
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer("test")["input_ids"]) == ""
    assert detokenizer.finish() == "TEST"


def test_after_the_end_another_text_begins() -> None:
    tokenizer = small.byte_fallback_bpe()
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer("the test")["input_ids"]
    for _ in range(2):
        assert detokenizer.push(ids) + detokenizer.finish() == "the test"


@given(text=st.text(alphabet=" .?!,'ntmsver", max_size=40), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_cleaning_up_piece_by_piece_is_cleaning_up(text: str, sizes: list[int]) -> None:
    steps, place, turn, cleaned = [Replaced(old, new) for old, new in CLEAN_UP], 0, 0, ""
    while place < len(text):
        parts = [text[place : place + sizes[turn % len(sizes)]]]
        for step in steps:
            parts = step.push(parts)
        cleaned += "".join(parts)
        place, turn = place + sizes[turn % len(sizes)], turn + 1
    parts = []
    for step in steps:
        parts = [*step.push(parts), *step.end()]
    assert cleaned + "".join(parts) == IdRows.clean_up_tokenization(text)


# ---------------------------------------------------------------------- printing


def test_the_printing_streamer(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = small.byte_level()
    prompt, ids = tokenizer("Hello", return_tensors="pt")["input_ids"], tokenizer(" world 🙂")["input_ids"]
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    streamer.put(prompt)
    for index in ids:
        streamer.put(torch.tensor([index]))
    streamer.put(torch.tensor([tokenizer.eos_token_id]))
    streamer.end()
    assert capsys.readouterr().out == "Hello world 🙂\n"
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    for _ in range(2):  # one streamer serves one text after the other
        streamer.put(prompt)
        streamer.put(ids)
        streamer.end()
    assert capsys.readouterr().out == " world 🙂\n world 🙂\n"


def test_a_streamer_of_ones_own_overrides_one_method() -> None:
    class Collecting(TextStreamer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.seen: list[tuple[str, bool]] = []

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.seen.append((text, stream_end))

    tokenizer = small.byte_level()
    streamer = Collecting(tokenizer)
    ids = tokenizer("🙂")["input_ids"]
    for index in [*ids, ids[0]]:
        streamer.put(index)
    streamer.end()
    assert streamer.seen == [("🙂", False), ("�", True)]


def test_misuse_is_one_line() -> None:
    tokenizer = small.byte_level()
    with pytest.raises(UnknownArgumentError, match="unknown argument 'skip_special_token'; did you mean"):
        TextStreamer(tokenizer, skip_special_token=True)
    with pytest.raises(InputError, match="skip_special_tokens: got 'yes', wanted True or False"):
        TextIteratorStreamer(tokenizer, skip_special_tokens="yes")
    with pytest.raises(InputError, match="tokenizer: got str, wanted a tokenizer"):
        TextStreamer("gpt2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got 2 rows, wanted one"):
        TextStreamer(tokenizer).put(torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(InputError, match="no running event loop"):
        AsyncTextIteratorStreamer(tokenizer)
    with pytest.raises(TypeError):
        BaseStreamer()  # type: ignore[abstract]


# ---------------------------------------------------------------------- threads


class Writer(threading.Thread):
    """The side that writes: `count` tokens, one by one, until it is stopped."""

    def __init__(self, streamer: Any, ids: Sequence[int], count: int = 10**9, error: Exception | None = None) -> None:
        super().__init__(daemon=True)
        self.streamer, self.ids, self.count, self.error = streamer, ids, count, error
        self.written = 0
        self.start()

    def run(self) -> None:
        self.streamer.put([self.ids[0]])
        while self.written < self.count and not self.streamer.stopped:
            self.streamer.put([self.ids[self.written % len(self.ids)]])
            self.written += 1
        if self.error is not None:
            self.streamer.fail(self.error)
        else:
            self.streamer.end()

    def finish(self) -> int:
        self.join(timeout=20)
        assert not self.is_alive(), "the writing side went on"
        return self.written


def make(**options: Any) -> tuple[TextIteratorStreamer, list[int], str]:
    tokenizer = small.byte_level()
    ids = tokenizer("The quick 🙂 fox")["input_ids"]
    return TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20, **options), ids, tokenizer.decode(ids)


def test_another_thread_reads() -> None:
    streamer, ids, text = make()
    for _ in range(2):
        writer = Writer(streamer, ids, 3 * len(ids))
        assert "".join(streamer) == text * 3
        assert writer.finish() == 3 * len(ids)
        assert not streamer.stopped
    writer = Writer(streamer, ids, len(ids))
    parts = [next(streamer)]
    while "".join(parts) != text:
        parts.append(next(streamer))
    with pytest.raises(StopIteration):
        next(streamer)
    writer.finish()


def test_leaving_the_loop_stops_the_writing() -> None:
    streamer, ids, text = make()
    for _ in range(3):  # and the next stream is whole again
        writer = Writer(streamer, ids)
        for _text in streamer:
            break
        assert streamer.stopped
        writer.finish()
        writer = Writer(streamer, ids, len(ids))
        assert "".join(streamer) == text
        writer.finish()


def test_an_error_in_the_loop_stops_the_writing() -> None:
    streamer, ids, _ = make()
    writer = Writer(streamer, ids)

    def read() -> None:
        for _text in streamer:
            raise ValueError("of the reader")

    with pytest.raises(ValueError, match="of the reader") as caught:
        read()
    del caught
    gc.collect()
    writer.finish()
    assert streamer.stopped


def test_closing_the_iterator_stops_the_writing() -> None:
    streamer, ids, _ = make()
    writer = Writer(streamer, ids)
    reading = iter(streamer)
    next(reading)
    reading.close()
    assert list(reading) == []
    writer.finish()
    streamer, ids, _ = make()
    iter(streamer)  # nobody began to read: nothing is known yet
    assert not streamer.stopped
    iter(streamer).close()
    assert streamer.stopped
    assert Writer(streamer, ids).finish() == 0  # stopped before the start


def test_stopping_from_elsewhere_wakes_the_reader() -> None:
    streamer, ids, _ = make()
    streamer.put(ids[:1])
    threading.Timer(0.05, streamer.stop).start()
    assert list(streamer) == []
    assert streamer.stopped


def test_waiting_too_long_is_an_error_and_stops_the_writing() -> None:
    streamer, ids, _ = make()
    streamer.timeout = 0.01
    streamer.put(ids[:1])
    with pytest.raises(Empty):
        list(streamer)
    assert streamer.stopped


def test_an_error_of_the_writing_side_reaches_the_reader_behind_the_text() -> None:
    streamer, ids, text = make()
    Writer(streamer, ids, len(ids), OverflowError("out of memory")).finish()
    parts: list[str] = []
    with pytest.raises(OverflowError, match="out of memory"):
        for part in streamer:
            parts.append(part)
    assert "".join(parts) == text
    writer = Writer(streamer, ids, len(ids))
    assert "".join(streamer) == text
    writer.finish()


# ---------------------------------------------------------------------- asyncio


def make_async() -> tuple[AsyncTextIteratorStreamer, list[int], str]:
    tokenizer = small.byte_level()
    ids = tokenizer("The quick 🙂 fox")["input_ids"]
    return AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20), ids, tokenizer.decode(ids)


def test_a_coroutine_reads() -> None:
    async def main() -> None:
        streamer, ids, text = make_async()
        for _ in range(2):
            writer = Writer(streamer, ids, 3 * len(ids))
            assert "".join([part async for part in streamer]) == text * 3
            writer.finish()
            writer = Writer(streamer, ids)
            async for _part in streamer:
                break
            assert streamer.stopped
            await asyncio.to_thread(writer.finish)

    asyncio.run(main())


def test_cancelling_the_task_stops_the_writing() -> None:
    async def read(streamer: AsyncTextIteratorStreamer, slowly: bool) -> None:
        async for _ in streamer:
            await asyncio.sleep(10 if slowly else 0)

    async def main(slowly: bool) -> None:
        streamer, ids, text = make_async()
        writer = Writer(streamer, ids)
        task = asyncio.create_task(read(streamer, slowly))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        assert streamer.stopped
        await asyncio.to_thread(writer.finish)
        writer = Writer(streamer, ids, len(ids))
        assert "".join([part async for part in streamer]) == text

    asyncio.run(main(slowly=False))
    asyncio.run(main(slowly=True))


def test_closing_failing_and_waiting_in_a_coroutine() -> None:
    async def main() -> None:
        streamer, ids, _ = make_async()
        writer = Writer(streamer, ids)
        reading = aiter(streamer)
        await anext(reading)
        await reading.aclose()
        assert [part async for part in reading] == []
        await asyncio.to_thread(writer.finish)
        streamer, ids, _ = make_async()
        Writer(streamer, ids, 0, OverflowError("out of memory")).finish()
        with pytest.raises(OverflowError):
            await anext(streamer)
        streamer, ids, _ = make_async()
        streamer.timeout = 0.01
        streamer.put(ids[:1])
        with pytest.raises(TimeoutError):
            [part async for part in streamer]
        assert streamer.stopped

    asyncio.run(main())


def test_an_event_loop_that_is_gone_stops_the_writing() -> None:
    async def main() -> tuple[AsyncTextIteratorStreamer, list[int]]:
        streamer, ids, _ = make_async()
        return streamer, ids

    streamer, ids = asyncio.run(main())
    assert Writer(streamer, ids).finish() < 10
    assert streamer.stopped
