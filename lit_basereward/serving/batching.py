"""Rows of many callers, scored together: prepared in threads, then batched by tokens on the one thread of the model."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from lit_basereward.data.collator import Item
from lit_basereward.data.types import Preference
from lit_basereward.scorer import Scorer

READ_AHEAD = 2  # batches of prepared rows that may wait: the model is never idle, and pixels do not pile up


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


@dataclass
class Job:
    """One prepared row on its way to the model.

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
    number of tokens, and waits for nothing else, so that a lone row is scored at once and a crowd in full batches.

    Args:
        scorer: the model.
        max_tokens: most tokens of a batch, and so of a row.
        workers: threads that prepare rows.
    """

    def __init__(self, scorer: Scorer, max_tokens: int = 32_768, workers: int = 2) -> None:
        self.scorer, self.max_tokens = scorer, max_tokens
        self._comparable = scorer.module.comparable_across_rows
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers, "prepare", initializer=self._own_collator)
        self._waiting: deque[Job] = deque()
        self._waiting_tokens = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    # --------------------------------------------------------------------------------------------- the callers
    async def score(self, read: Callable[[], Sequence[Preference]]) -> list[Scored]:
        """Score rows. A caller that is cancelled leaves nothing behind that would still be computed.

        Args:
            read: gives the rows; called in a thread that prepares.

        Raises:
            RowError: for a row that cannot be scored, from ``read`` or the collator, or with more tokens than a batch.
        """
        gone = threading.Event()
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, read, gone)
            return list(await asyncio.gather(*map(asyncio.wrap_future, results)))
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

    def _prepare(self, read: Callable[[], Sequence[Preference]], gone: threading.Event) -> list[Future[Scored]]:
        results = []
        for row in read():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting_tokens < READ_AHEAD * self.max_tokens or gone.is_set())
            if gone.is_set():
                break
            job = self._job(row, gone)
            results.append(job.result)
            with self._changed:
                self._waiting.append(job)
                self._waiting_tokens += job.tokens
                self._changed.notify_all()
        return results

    def _job(self, row: Preference, gone: threading.Event) -> Job:
        num = len(row.responses)
        # each branch is a token at least; a model that compares has one for every ordered pair: a million of a thousand
        self._check(row, num if self._comparable else num * (num - 1), "or more ")
        item = self._own.collator.prepare(0, row)
        tokens = self._own.collator.num_tokens(item)
        self._check(row, tokens)
        return Job(item, tokens, Future(), gone)

    def _check(self, row: Preference, tokens: int, or_more: str = "") -> None:
        if tokens > self.max_tokens:
            raise row.error(
                f"has {tokens} {or_more}tokens with its {len(row.responses)} responses, over max_batch_tokens "
                f"{self.max_tokens}; send fewer responses at a time, or raise it"
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
