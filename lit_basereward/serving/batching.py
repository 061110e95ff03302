"""Rows of many callers, scored together: prepared in threads, then batched by tokens on the one thread of the model."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from lit_basereward.data.collator import Item
from lit_basereward.data.ensemble import EnsembleCollator
from lit_basereward.data.types import Preference
from lit_basereward.scorer import Scorer

READ_AHEAD = 2  # batches of prepared rows that may wait: the model is never idle, and pixels do not pile up
CHARACTERS = 128  # for each token that fits (our choice): a row or prompt with more is refused before it is tokenised


@dataclass
class Scored:
    """What the model says about one row of K responses.

    Args:
        rewards: [K] float32, in log-odds units.
        prompt_tokens: of the prompt, its images included.
        tokens: [K] of each response, end of turn included.
        truncated: [K] True where a response lost its end.
    """

    rewards: Tensor
    prompt_tokens: int
    tokens: list[int]
    truncated: list[bool]

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """A row that was scored in parts."""
        tokens, truncated = ([x for part in parts for x in getattr(part, name)] for name in ("tokens", "truncated"))
        return cls(torch.cat([part.rewards for part in parts]), parts[0].prompt_tokens, tokens, truncated)


@dataclass
class Job:
    """One prepared row, or a part of its responses, on its way to the model.

    Args:
        item: of the collator.
        tokens: that the model computes for it.
        result: is given the row's rewards.
        gone: set when nobody waits for it any more.
    """

    item: Item
    tokens: int
    result: Future[Scored]
    gone: threading.Event


class Batcher:
    """Takes rows from any number of callers, and computes those that wait together.

    Images are decoded and texts tokenised in a few threads (Pillow and the tokenizer release the interpreter's lock),
    each with a collator of its own. One more thread has the model: it takes what is waiting, oldest first, up to a
    number of tokens, and waits for nothing else, so that a lone row is scored at once and a crowd in full batches. A
    row of more tokens is computed in parts; that of a model which compares its responses cannot be.

    Args:
        scorer: the model.
        max_tokens: most tokens of a batch.
        workers: threads that prepare rows.
    """

    def __init__(self, scorer: Scorer, max_tokens: int = 32_768, workers: int = 2) -> None:
        self.scorer, self.max_tokens = scorer, max_tokens
        self._comparable = scorer.module.comparable_across_rows
        collator = scorer.collator
        members = collator.members if isinstance(collator, EnsembleCollator) else [collator]
        self._max_length = max(each.max_length for each in members)
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers, "prepare", initializer=self._own_collator)
        self._waiting: deque[Job] = deque()
        self._waiting_tokens = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    # --------------------------------------------------------------------------------------------- the callers
    async def score(self, read: Callable[[], Iterable[Preference]]) -> list[Scored]:
        """Score rows. Of a caller that is cancelled no row is computed or prepared any more but those in hand.

        Threads take one row of each caller in turn: many rows of one do not keep others waiting.

        Args:
            read: gives the rows; called, and gone through, in threads that prepare.

        Raises:
            RowError: for a row that cannot be scored, from ``read`` or the collator, or that no batch can hold.
        """
        gone = threading.Event()
        try:
            in_thread = partial(asyncio.get_running_loop().run_in_executor, self._pool)
            rows = iter(await in_thread(read))
            prepared = []
            while (parts := await in_thread(self._prepare, rows, gone)) is not None:
                prepared.append(parts)
            found = iter(await asyncio.gather(*map(asyncio.wrap_future, chain.from_iterable(prepared))))
            return [Scored.joined([next(found) for _ in parts]) for parts in prepared]
        finally:
            gone.set()

    def close(self) -> None:
        """Compute what is waiting, then end the threads."""
        self._pool.shutdown(cancel_futures=True)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    # -------------------------------------------------------------------------------- the threads that prepare
    def _own_collator(self) -> None:
        # tokenizers and processors keep state while they work
        self._own.collator = copy.deepcopy(self.scorer.collator)

    def _prepare(self, rows: Iterator[Preference], gone: threading.Event) -> list[Future[Scored]] | None:
        """The next row, in one or more parts, once there is room for it; None where there is none, or nobody waits."""
        if gone.is_set() or (row := next(rows, None)) is None:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_tokens < READ_AHEAD * self.max_tokens or gone.is_set())
        jobs = self._jobs(row, gone)
        with self._changed:
            self._waiting += jobs
            self._waiting_tokens += sum(job.tokens for job in jobs)
            self._changed.notify_all()
        return [job.result for job in jobs]

    def _jobs(self, row: Preference, gone: threading.Event) -> list[Job]:
        if gone.is_set():
            return []
        self._check_size(row)
        item = self._own.collator.prepare(0, row)
        tokens = self._own.collator.num_tokens(item)
        num = len(row.responses)
        if tokens <= self.max_tokens:
            return [Job(item, tokens, Future(), gone)]
        if num == 1 or not self._comparable:
            raise row.error(
                f"has {tokens} tokens with its {num} responses, over max_batch_tokens {self.max_tokens}; "
                + ("raise it" if num == 1 else "send fewer responses at a time, or raise it")
            )
        return [*self._jobs(_part(row, slice(num // 2)), gone), *self._jobs(_part(row, slice(num // 2, num)), gone)]

    def _check_size(self, row: Preference) -> None:
        """Refuse what would only be refused after much work: a model that compares lays out every ordered pair."""
        num = len(row.responses)
        pairs = 1 if self._comparable else num - 1
        prompt = sum(len(part) for turn in row.prompt for part in turn.content if isinstance(part, str))
        characters = prompt + sum(map(len, chain(row.responses, row.critiques)))
        if prompt > CHARACTERS * self._max_length:
            raise row.error(f"has a prompt of {prompt} characters, far over max_length {self._max_length}; shorten it")
        if num * pairs > self.max_tokens or characters * pairs > CHARACTERS * self.max_tokens:
            raise row.error(
                f"has {num} responses and {characters} characters, far over max_batch_tokens {self.max_tokens}; "
                "send less at a time"
            )

    # ---------------------------------------------------------------------------------- the thread of the model
    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                self._score(batch)

    def _take(self) -> list[Job] | None:
        """What is waiting, up to ``max_tokens``; None when there is nothing and never will be."""
        batch: list[Job] = []
        tokens = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            while self._waiting and (not batch or tokens + self._waiting[0].tokens <= self.max_tokens):
                job = self._waiting.popleft()
                self._waiting_tokens -= job.tokens
                # from here on it cannot be cancelled, and its result will be set
                if job.result.set_running_or_notify_cancel() and not job.gone.is_set():
                    batch.append(job)
                    tokens += job.tokens
            self._changed.notify_all()
        return batch

    def _score(self, batch: Sequence[Job]) -> None:
        """Give every job its result. Where a batch fails, its rows are tried alone: one cannot fail the others."""
        try:
            rewards = self.scorer.score_items([job.item for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            else:
                for job in batch:
                    self._score([job])
            return
        for job, mine in zip(batch, rewards, strict=True):
            item = job.item
            if bool(mine.isfinite().all()):
                job.result.set_result(Scored(mine, len(item.prefix), item.lengths, item.truncated))
            else:
                job.result.set_exception(ArithmeticError(f"the model's rewards are {mine.tolist()}"))


def _part(row: Preference, some: slice) -> Preference:
    """A row with some of its responses."""
    fields = ("responses", "ratings", "critiques", "finished")
    return replace(row, **{name: getattr(row, name)[some] for name in fields})
