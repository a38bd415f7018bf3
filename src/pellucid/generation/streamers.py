"""Streamers: what is written reaches a reader while it is being written.

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
    for text in streamer:
        print(text, end="", flush=True)

**The side that writes** calls `put(tokens)` with the prompt, `put(tokens)` at every step and `end()`; or `fail(error)`
if it cannot go on. Once a step it looks at `stopped`, and when that is true it writes nothing more and calls `end()`.
**The side that reads** makes `stopped` true by `stop()`. The iterators do it by themselves when their reader leaves the
loop, closes the iterator, waits longer than `timeout` or is cancelled. The first `put` after `end` begins another
stream, so that one streamer serves one text after the other.

The texts of a stream, put together, are `tokenizer.decode` of its tokens, and each of them is final
(`pellucid.generation.detokenizer`).
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Queue
from typing import Any

from pellucid.errors import InputError, reject_unknown
from pellucid.generation.detokenizer import Detokenizer
from pellucid.tokenizer.rows import IdRows
from pellucid.tokenizer.vocabulary import check_ids


class BaseStreamer(ABC):
    """What `generate` needs of a streamer. One of your own needs `put` and `end`; the rest is here.

    Attributes:
        stopped: whether nobody reads any more, so that writing is to end.
    """

    _stopped: bool = False

    @abstractmethod
    def put(self, value: Any) -> None:
        """Take more tokens: the prompt first, then those of each step."""

    @abstractmethod
    def end(self) -> None:
        """Take note that no token comes any more."""

    def fail(self, error: BaseException) -> None:
        """Take note that writing ended by an error, which the writing side raises as well; otherwise as `end`."""
        self.end()

    @property
    def stopped(self) -> bool:
        """Whether nobody reads any more; the writing side looks at it once a step and then ends."""
        return self._stopped

    def stop(self) -> None:
        """Have no more written."""
        self._stopped = True


class TextStreamer(BaseStreamer):
    """Prints the text of one row as it is written.

    Args:
        tokenizer: of the model.
        skip_prompt: whether to leave the prompt out.
        **decode_kwargs: `skip_special_tokens` and `clean_up_tokenization_spaces`, as in `tokenizer.decode`.

    Attributes:
        next_tokens_are_prompt: whether the next tokens begin a stream.
    """

    def __init__(self, tokenizer: IdRows, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        known = ("skip_special_tokens", "clean_up_tokenization_spaces")
        name = type(self).__name__
        if unknown := decode_kwargs.keys() - set(known):
            reject_unknown(name, unknown, ("tokenizer", "skip_prompt", "timeout", *known))
        for option, value in decode_kwargs.items():
            if not isinstance(value, bool) and value is not None:
                raise InputError(f"{name}: {option}: got {value!r}, wanted True or False")
        if not isinstance(tokenizer, IdRows):
            raise InputError(f"{name}: tokenizer: got {type(tokenizer).__name__}, wanted a tokenizer of this library")
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._spent = False  # `stopped` is about a stream that has ended
        self._ended = False
        self._detokenizer = Detokenizer(tokenizer, **{key: v for key, v in decode_kwargs.items() if v is not None})

    def put(self, value: Any) -> None:
        """Take the tokens of one row: a number, a list, or a tensor `[S]` or `[1, S]`."""
        begins, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if begins:
            self._ended = False
            if self._spent:
                self._stopped = self._spent = False
        if self.stopped or (begins and self.skip_prompt):
            return
        if text := self._detokenizer.push(_one_row(value)):
            self.on_finalized_text(text)

    def end(self) -> None:
        """Hand over the text that waited for more tokens, and end the stream."""
        text = self._detokenizer.finish()
        self.on_finalized_text("" if self.stopped else text, stream_end=True)
        self.next_tokens_are_prompt = self._ended = True
        self._spent = self.stopped

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print text that is final, and a line end behind the stream. Streamers of your own do something else here."""
        print(text, flush=True, end="\n" if stream_end else "")

    def stop(self) -> None:
        """Have no more written."""
        self._stopped = True
        self._spent = self._ended


class QueueStreamer(TextStreamer):
    """What the streamers below have in common: texts go through a queue to somebody who reads them elsewhere.

    Attributes:
        text_queue: texts on their way.
        stop_signal: what stands there behind the last one.
        timeout: seconds that the reader waits for a text at most; `None`: as long as it takes.
    """

    text_queue: Any

    def __init__(
        self, tokenizer: IdRows, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue = self._new_queue()
        self.stop_signal: Any = None
        self.timeout = timeout
        self._turn = threading.RLock()  # may be asked for again by a reader that is dropped meanwhile

    @abstractmethod
    def _new_queue(self) -> Any:
        """An empty queue."""

    @abstractmethod
    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something to a queue, in the thread that it belongs to."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put the text into the queue, and the signal behind the last one."""
        with self._turn:
            if not self._stopped:
                values = [text] if text else []
                self._do(_put_all, self.text_queue, [*values, self.stop_signal] if stream_end else values)
            elif stream_end:
                self.text_queue = self._new_queue()  # the old one belongs to the reader who left

    def put(self, value: Any) -> None:
        """Take the tokens of one row: a number, a list, or a tensor `[S]` or `[1, S]`."""
        with self._turn:
            super().put(value)

    def end(self) -> None:
        """Hand over the text that waited for more tokens, and end the stream."""
        with self._turn:
            super().end()

    def fail(self, error: BaseException) -> None:
        """End the stream so that its reader meets the error behind the text."""
        with self._turn:
            if not self._stopped:
                text = self._detokenizer.finish()
                self._do(_put_all, self.text_queue, [text, error] if text else [error])
            self.end()

    def stop(self) -> None:
        """Have no more written; whoever waits for a text is told that there is none."""
        with self._turn:
            super().stop()
            self._do(_dismiss, self.text_queue, self.stop_signal)
            if self._spent:
                self.text_queue = self._new_queue()


class TextIteratorStreamer(QueueStreamer):
    """Gives the text of one row to the thread that iterates over it.

    Leaving the loop ends the writing; after `next(streamer)` it takes `stop()`.

    Args:
        tokenizer: of the model.
        skip_prompt: whether to leave the prompt out.
        timeout: seconds to wait for a text at most; then `queue.Empty` is raised. `None`: as long as it takes.
        **decode_kwargs: as in `TextStreamer`.
    """

    def _new_queue(self) -> Queue[Any]:
        return Queue()

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        action(*arguments)

    def __iter__(self) -> TextReader:
        return TextReader(self)

    def __next__(self) -> str:
        return self._read(self.text_queue)

    def _read(self, queue: Queue[Any]) -> str:
        value = queue.get(timeout=self.timeout)
        if value is self.stop_signal:
            raise StopIteration
        return _text(value)


class AsyncTextIteratorStreamer(QueueStreamer):
    """Gives the text of one row, written in another thread, to the coroutine that iterates over it.

    Leaving the loop, and cancelling the task, ends the writing. It is made inside a coroutine and uses its event loop.

    Args:
        tokenizer: of the model.
        skip_prompt: whether to leave the prompt out.
        timeout: seconds to wait for a text at most; then `TimeoutError` is raised. `None`: as long as it takes.
        **decode_kwargs: as in `TextStreamer`.

    Attributes:
        loop: the event loop of the reader.
    """

    def __init__(
        self, tokenizer: IdRows, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, timeout, **decode_kwargs)
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise InputError(
                f"{type(self).__name__}: got no running event loop, wanted one; make it inside a coroutine"
            ) from error

    def _new_queue(self) -> asyncio.Queue[Any]:
        return asyncio.Queue()

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(action, *arguments)
        except RuntimeError:  # the event loop is closed, so nobody reads
            self._stopped = True

    def __aiter__(self) -> AsyncTextReader:
        return AsyncTextReader(self)

    async def __anext__(self) -> str:
        return await self._read(self.text_queue)

    async def _read(self, queue: asyncio.Queue[Any]) -> str:
        async with asyncio.timeout(self.timeout):
            value = await queue.get()
        if value is self.stop_signal:
            raise StopAsyncIteration
        return _text(value)


# ---------------------------------------------------------------------- readers


class _Reading:
    """One reading of a stream: when it is closed, or dropped before its end, the writing stops."""

    def __init__(self, streamer: Any) -> None:
        self.streamer = streamer
        self.queue = streamer.text_queue
        self.begun = self.done = False

    def _leave(self) -> None:
        if not self.done:
            self.done = True
            self.streamer.stop()

    def __del__(self) -> None:
        if self.begun:
            self._leave()


class TextReader(_Reading):
    """One reading of a `TextIteratorStreamer`."""

    def __iter__(self) -> TextReader:
        return self

    def __next__(self) -> str:
        if self.done:
            raise StopIteration
        self.begun = True
        try:
            return str(self.streamer._read(self.queue))
        except StopIteration:
            self.done = True
            raise
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        """Have no more written, unless everything was read."""
        self._leave()


class AsyncTextReader(_Reading):
    """One reading of an `AsyncTextIteratorStreamer`; cancelling it stops the writing too."""

    def __aiter__(self) -> AsyncTextReader:
        return self

    async def __anext__(self) -> str:
        if self.done:
            raise StopAsyncIteration
        self.begun = True
        try:
            return str(await self.streamer._read(self.queue))
        except StopAsyncIteration:
            self.done = True
            raise
        except BaseException:
            self._leave()
            raise

    async def aclose(self) -> None:
        """Have no more written, unless everything was read."""
        self._leave()


def _put_all(queue: Any, values: list[Any]) -> None:
    for value in values:
        queue.put_nowait(value)


def _dismiss(queue: Any, signal: Any) -> None:
    """Leave nothing in the queue but the signal."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(signal)


def _text(value: Any) -> str:
    """A text from a queue; an error there is raised."""
    if isinstance(value, BaseException):
        raise value
    return str(value)


def _one_row(value: Any) -> list[int]:
    """Tokens of one row as a list."""
    ids = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(ids, (list, tuple)) and len(ids) and isinstance(ids[0], (list, tuple)):
        if len(ids) > 1:
            raise InputError(f"streamer: got {len(ids)} rows, wanted one; give each row a streamer of its own")
        ids = ids[0]
    checked = check_ids(ids, "streamer: tokens")
    return [checked] if isinstance(checked, int) else list(checked)
