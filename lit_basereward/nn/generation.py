"""Text that a backbone writes behind the branches of a laid-out batch: critiques and judgements.

Images and prompts are computed once per row. One pass over the whole batch fills a cache of keys and values; what each
branch sees of it is gathered by index into a left-padded cache, and ``generate`` of transformers goes on from there.
Greedy text equals that of one branch at a time, in both layouts (up to ties that rounding decides).

Shape legend: B branches, S sequences that are decoded at once, L tokens of the longest of them, T tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_basereward.nn.layout import Layout
from lit_basereward.nn.stopping import StopStrings, without_end

if TYPE_CHECKING:
    from lit_basereward.nn.language import LanguageRewardModel

DECODE_TOKENS = 2**17
"""Tokens whose keys and values are held in decoding, those to come included: 7.5 GB for Qwen2.5-VL-7B in bfloat16."""
_HAVE_KEYS = {"full_attention", "sliding_attention"}


@dataclass
class Generated:
    """What was written behind each branch.

    Args:
        tokens: [branches][samples] ids, without what ended them.
        finished: [branches][samples] False where ``max_new_tokens`` ended it.
    """

    tokens: list[list[list[int]]]
    finished: list[list[bool]]


def generate(
    model: LanguageRewardModel,
    inputs: dict[str, Tensor],
    layout: Layout,
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop_strings: Sequence[str] = (),
    tokenizer: Any = None,
    suppress_ids: Sequence[int] = (),
    decode_tokens: int = DECODE_TOKENS,
) -> Generated:
    """Go on behind the last token of every branch.

    Runs in evaluation mode without gradients, and leaves every module's mode as it was. No setting comes from the
    ``generation_config.json`` of the backbone's folder. Under FSDP2 call :meth:`LanguageRewardModel.generate`, on all
    ranks alike.

    Args:
        model: network whose backbone writes.
        inputs: see :class:`RewardModel`.
        layout: which tokens are what, shared or padded.
        end_ids: any of these tokens ends a sequence and is no part of it.
        max_new_tokens: most tokens of a sequence, what ends it included.
        num_samples: sequences per branch. Those of temperature 0 are all the same and computed once.
        temperature: of sampling with torch's global generator; 0 takes the likeliest token.
        top_p: sample from the likeliest tokens of this total probability.
        stop_strings: any of these texts ends a sequence; the text before it stays, its tokens made anew where one token
            holds both.
        tokenizer: decodes; needed with ``stop_strings`` alone.
        suppress_ids: tokens that are never written, such as the placeholders of images.
        decode_tokens: sequences are decoded in chunks of at most this many tokens, but at least one at a time.

    Returns:
        tokens of every branch and sample.

    Raises:
        ValueError: for numbers out of range, for stop strings without tokenizer, for backbones with layers that have no
            keys and values (linear attention), and for shards in the host's memory.
    """
    _check_backbone(model, inputs)
    _check_settings(max_new_tokens, num_samples, temperature, top_p, stop_strings, tokenizer)
    copies = num_samples if temperature > 0 else 1
    stops = StopStrings(stop_strings, tokenizer) if stop_strings else None
    written: list[list[list[int]]] = [[] for _ in layout.pooled]
    with torch.no_grad(), _evaluating(model):
        prefilled = _prefill(model, inputs, layout)
        jobs = [b for b in range(len(prefilled.spans)) for _ in range(copies)]
        chunks = _chunks(prefilled, jobs, max_new_tokens, decode_tokens)
        more = _most_of_ranks(model, len(chunks), prefilled.last.device) - len(chunks)
        for chunk in chunks:
            config = _config(end_ids, max_new_tokens, temperature, top_p, suppress_ids)
            for b, tokens in zip(chunk, _decode(model, prefilled, chunk, config, stops), strict=True):
                written[b].append(tokens)
        for _ in range(more):
            _decode(model, prefilled, jobs[:1], _config(end_ids, 1, 0.0, 1.0), None)
    ended = [[without_end(tokens, set(end_ids), stops) for tokens in samples] for samples in written]
    repeat = num_samples // copies
    return Generated(
        [[list(tokens) for tokens, _ in samples * repeat] for samples in ended],
        [[finished for _, finished in samples * repeat] for samples in ended],
    )


def extend(
    inputs: dict[str, Tensor],
    layout: Layout,
    tokens: Sequence[Sequence[int]],
    branch: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], Layout]:
    """The batch with each branch followed by more tokens of text, pooled at its new last token.

    Args:
        inputs: see :class:`RewardModel`.
        layout: which tokens are what, shared or padded.
        tokens: ids to put behind each branch; none leave it as it is.
        branch: which branch each of ``tokens`` goes on from, in the shared layout: some may be left out, and some come
            more than once. None is all of them, each once. Prefixes stay, with or without a branch.

    Returns:
        inputs and layout as if these branches had been laid out from the start.
    """
    assert branch is None or layout.shared, "images of the padded layout cannot be told apart by branch"
    chosen = range(len(layout.pooled)) if branch is None else branch
    ids, spans = inputs["input_ids"], _spans(inputs, layout)
    spans = [spans[b] for b in chosen]
    prefixes = layout.prefix_valid.sum(1).tolist() if layout.prefix_valid is not None else []
    rows = layout.row.tolist() if layout.row is not None else []
    row = [rows[b] for b in chosen] if rows else []
    own = [span[prefixes[r] :] for span, r in zip(spans, row, strict=True)] if layout.shared else spans
    new = [torch.tensor(list(more), dtype=ids.dtype, device=ids.device) for more in tokens]

    def longer(values: Tensor, kind: int | None) -> Tensor:
        """``values`` of the shape of input_ids; ``kind`` is that of new tokens, None the tokens themselves."""
        flat = values.flatten()
        parts = [
            torch.cat([flat[span], (more if kind is None else torch.full_like(more, kind)).to(flat)])
            for span, more in zip(own, new, strict=True)
        ]
        return torch.cat([flat[: sum(prefixes)], *parts])[None] if layout.shared else pad_sequence(parts, True)

    kinds = {"input_ids": None, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
    extended = {key: longer(inputs[key], kind) for key, kind in kinds.items() if key in inputs}
    lengths = [len(span) + len(more) for span, more in zip(own, new, strict=True)]
    placed = Layout.shared_prefix(prefixes, lengths, row) if layout.shared else Layout.padded(lengths)
    placed.image_entries = layout.image_entries
    others = {key: value for key, value in inputs.items() if key != "position_ids"}  # of the shorter branches
    return others | extended, placed.to(ids.device)


# ------------------------------------------------------------------------------------------------------ prefill
@dataclass
class _Prefilled:
    """Keys and values of the whole batch, and where those of each branch are.

    Args:
        layers: keys and values of each layer, [heads, T, dim].
        spans: [B] positions, in the flattened sequence, of each branch's prefix and itself.
        last: [B] each branch's last token, [B] ids.
        position: [1 or 3, B] its rotary position.
    """

    layers: list[tuple[Tensor, Tensor]]
    spans: list[Tensor]
    last: Tensor
    position: Tensor


def _prefill(model: LanguageRewardModel, inputs: dict[str, Tensor], layout: Layout) -> _Prefilled:
    from transformers import DynamicCache

    if layout.shared and "position_ids" not in inputs:
        inputs = model.with_positions(inputs, layout)
    cache = DynamicCache()  # without a config it keeps all of a sliding layer too, which its mask then cuts
    model.states(inputs, layout, cache)
    filled: list[Any] = cache.layers
    layers = [(_flat(layer.keys), _flat(layer.values)) for layer in filled]
    spans = _spans(inputs, layout)
    last = torch.stack([span[-1] for span in spans])
    return _Prefilled(layers, spans, inputs["input_ids"].flatten()[last], _positions(model, inputs, layout)[:, last])


def _flat(states: Tensor) -> Tensor:
    """[1, heads, T, dim], or padded [N, heads, L, dim], as [heads, T, dim]."""
    return states.transpose(0, 1).flatten(1, 2)


def _spans(inputs: dict[str, Tensor], layout: Layout) -> list[Tensor]:
    """[B] positions, in the flattened sequence, of the tokens of each branch's prefix and of itself."""
    if not layout.shared:
        width = inputs["input_ids"].shape[1]
        real = inputs["attention_mask"].flatten().nonzero().flatten()
        return list(real.split(torch.bincount(real // width).tolist()))
    assert layout.prefixes is not None and layout.prefix_valid is not None and layout.row is not None
    assert layout.branch_offset is not None
    prefixes = [places[valid] for places, valid in zip(layout.prefixes, layout.prefix_valid, strict=True)]
    starts = [*(layout.branch_offset == 0).nonzero().flatten().tolist(), len(layout.branch_offset)]
    behind = torch.arange(inputs["input_ids"].numel(), device=layout.prefixes.device)[-len(layout.branch_offset) :]
    branches = behind.split([end - start for start, end in pairwise(starts)])
    return [torch.cat([prefixes[r], branch]) for r, branch in zip(layout.row.tolist(), branches, strict=True)]


def _positions(model: LanguageRewardModel, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
    """[1 or 3, T] rotary positions of the flattened sequence, as the backbone itself computed them."""
    ids, types = inputs["input_ids"], inputs.get("mm_token_type_ids")
    grids = {key: value for key, value in inputs.items() if key in ("image_grid_thw", "video_grid_thw")}
    if layout.shared:
        positions = inputs["position_ids"]
    elif grids and hasattr(model.base, "get_rope_index"):
        mask = inputs["attention_mask"]
        positions, _ = model.base.get_rope_index(ids, mm_token_type_ids=types, attention_mask=mask, **grids)
    else:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if hasattr(model.base, "get_rope_index"):
            positions = positions.expand(3, *ids.shape)
    return positions.reshape(-1, ids.numel())


# ----------------------------------------------------------------------------------------------------- decoding
def _decode(
    model: LanguageRewardModel, prefilled: _Prefilled, chunk: list[int], config: Any, stops: StopStrings | None
) -> list[list[int]]:
    """[S] ids that ``generate`` of transformers writes behind the branches in ``chunk``, ends and padding included."""
    from transformers import DynamicCache, StoppingCriteriaList

    before = [prefilled.spans[b][:-1] for b in chunk]  # the last token is what generation starts with
    index = pad_sequence(before, batch_first=True, padding_side="left")  # [S, L]
    ones = [torch.ones_like(span) for span in [prefilled.spans[b] for b in chunk]]
    mask = pad_sequence(ones, batch_first=True, padding_side="left")  # [S, L + 1]

    def gathered(states: Tensor) -> Tensor:
        return states.index_select(1, index.flatten()).unflatten(1, index.shape).transpose(0, 1)

    members = torch.tensor(chunk, device=index.device)
    position = prefilled.position[:, members, None]  # [1 or 3, S, 1]; generate counts on from it
    with _settings(model.generator, config):
        sequences = model.generator.generate(
            input_ids=prefilled.last[members, None],
            attention_mask=mask,
            position_ids=position if len(position) > 1 else position[0],
            past_key_values=DynamicCache((gathered(keys), gathered(values)) for keys, values in prefilled.layers),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stops] if stops else []),
            synced_gpus=_sharded(model),
        )
    return sequences[:, 1:].tolist()


def _config(
    end_ids: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, suppress_ids: Sequence[int] = ()
) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    ends = list(end_ids)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,  # stands behind the end alone, and is cut off there
        suppress_tokens=list(suppress_ids) or None,
        use_cache=True,
        **sampling,
    )


@contextmanager
def _settings(generator: Any, config: Any) -> Iterator[None]:
    """Whatever our settings leave open, ``generate`` takes from the model's own: so these are ours for the time."""
    own, generator.generation_config = generator.generation_config, config
    try:
        yield
    finally:
        generator.generation_config = own


@contextmanager
def _evaluating(model: LanguageRewardModel) -> Iterator[None]:
    """Evaluation mode, since in training mode checkpointed layers keep no cache; then every module's own again."""
    modes = {module: module.training for module in [*model.modules(), *model.generator.modules()]}
    model.generator.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _chunks(prefilled: _Prefilled, jobs: list[int], max_new_tokens: int, decode_tokens: int) -> list[list[int]]:
    """The jobs, longest branch first, in chunks whose padded sequences have at most so many tokens."""
    chunks: list[list[int]] = []
    for b in sorted(jobs, key=lambda b: -len(prefilled.spans[b])):
        if chunks:
            longest = len(prefilled.spans[chunks[-1][0]]) + max_new_tokens
            if (len(chunks[-1]) + 1) * longest <= decode_tokens:
                chunks[-1].append(b)
                continue
        chunks.append([b])
    return chunks


# ------------------------------------------------------------------------------------------------ ranks, checks
def _sharded(model: LanguageRewardModel) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _most_of_ranks(model: LanguageRewardModel, number: int, device: torch.device) -> int:
    """The largest number of any rank. Sharded weights are gathered together, so all must decode equally often."""
    if not _sharded(model):
        return number
    most = torch.tensor(number, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def _check_backbone(model: LanguageRewardModel, inputs: dict[str, Tensor]) -> None:
    config = model.base.config
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _HAVE_KEYS
    if kinds:
        raise ValueError(
            f"{config.model_type} cannot write text here: its layers of {', '.join(sorted(kinds))} keep no keys and "
            "values; use a backbone with attention in every layer"
        )
    if _sharded(model) and model.base.device != inputs["input_ids"].device:
        # transformers moves each new token to where the weights are kept
        raise ValueError("a network whose shards are kept in the host's memory cannot write; leave out cpu_offload")


def _check_settings(
    max_new_tokens: int, num_samples: int, temperature: float, top_p: float, stop_strings: Sequence[str], tokenizer: Any
) -> None:
    if max_new_tokens < 1 or num_samples < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens} and num_samples {num_samples} must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} must not be negative, and top_p {top_p} lie in (0, 1]")
    if "" in stop_strings:
        raise ValueError("an empty stop string would end every text; leave it out")
    if stop_strings and tokenizer is None:
        raise ValueError("stop strings need the tokenizer that decodes; pass it, or give end ids alone")
