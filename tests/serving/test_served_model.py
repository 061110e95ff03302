"""Rewards of a model behind `serve`, asked over HTTP of the real server: those of the same model here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from server_runs import Running, running
from test_server_abuse import held, until

import lit_basereward
from lit_basereward import EnsembleRM, NaiveRM, RewardModule, Scorer
from lit_basereward.data.types import ImagePart, Message, RowError
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.rl import HybridReward, ModelReward, Sample, scoring
from lit_basereward.rl.grpo import check_groups
from lit_basereward.rl.scoring import ServedModel
from lit_basereward.serving.app import Limits
from lit_basereward.testing import random_image

CALIBRATION = Calibration(temperature=0.2, offset=-3.0, rule="median", comparisons=30, responses=40, source="held-out")
TEXTS = ["yes", "yes", "no it is not", "no it is not", "a cat", "the cat sits on the table " * 20]


def sample(seed: int, size: int = 28) -> Sample:
    return Sample((Message("user", (ImagePart(), "what is it")),), (random_image(size, seed),), "yes", where=f"s{seed}")


SAMPLES = [sample(1), sample(2)] * 3


def save(module: RewardModule, path: Path, calibration: Calibration | None) -> str:
    torch.manual_seed(0)
    module.configure_model()
    for name, parameter in module.named_parameters():
        if ".head." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    module.calibration = calibration
    stored: dict = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(stored)
    torch.save(stored, path)
    return str(path)


@pytest.fixture(scope="module")
def model(backbone_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return save(NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=64)), folder / "m.ckpt", CALIBRATION)


def serving(path: str) -> Scorer:
    """What `serve` loads, with its default `too_long`."""
    module = lit_basereward.load(path, "cpu").module
    module.set_too_long("cut")
    return Scorer(module, "cpu")


@pytest.fixture(scope="module")
def served(model: str) -> Iterator[Running]:
    with running(serving(model)) as own:
        yield own


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scoring.TOKEN, "secret")
    monkeypatch.setattr(scoring, "time", SimpleNamespace(sleep=lambda seconds: threading.Event().wait(seconds / 4)))


def url(api: Running) -> str:
    return f"http://127.0.0.1:{api.port}"


def test_rewards_are_those_of_the_model_here(model: str, served: Running) -> None:
    """Images and over-long completions included; standardised ones beyond what a probability could tell: with T = 0.2
    log-odds are 5 (r + 3), some of them over 15, where sigmoid(...) differs from 0 or 1 by less than 1e-6."""
    for kind, settings in ((ModelReward, {}), (HybridReward, {}), (ModelReward, {"standardize": True})):
        here, there = (kind(place, device="cpu", **settings)(TEXTS, SAMPLES) for place in (model, url(served)))
        assert there["reward"] == pytest.approx(here["reward"], abs=1e-4)
        assert there["accuracy"] == here["accuracy"]
    assert max(map(abs, here["reward"])) > 15


def test_an_ensemble(model: str, backbone_folder: Callable[[str], str], tmp_path: Path) -> None:
    """Of two that see and one that does not: served, loaded and asked from Python it says the same, and cuts. The
    tokens of a batch are counted over all three."""
    other = save(NaiveRM(Backbone(backbone_folder("qwen2_vl"), max_length=48)), tmp_path / "o.ckpt", None)
    blind = save(NaiveRM(Backbone(backbone_folder("qwen2"), max_length=64)), tmp_path / "b.ckpt", None)
    config = tmp_path / "ensemble.yaml"
    config.write_text(
        "model:\n  class_path: lit_basereward.EnsembleRM\n  init_args:\n"
        f"    members: {{a: {model}, b: {other}, c: {blind}}}\n"
        "    routes: [{when: {modality: image}, members: [a, b]}]\n"
    )
    scorer = serving(str(config))
    assert isinstance(scorer.module, EnsembleRM)
    text_only = Sample((Message("user", ("what is it",)),), answer="yes")
    texts, samples = [*TEXTS, "a dog", "yes"], [*SAMPLES, text_only, text_only]
    with running(scorer) as api:
        here, there = (ModelReward(place, device="cpu")(texts, samples)["reward"] for place in (str(config), url(api)))
        assert there == pytest.approx(here, abs=1e-5)
        answer = api.request("/v1/score", {"prompt": "x", "responses": ["yes", TEXTS[-1]]}).json
    assert answer["rewards"] == pytest.approx(scorer.score("x", ["yes", TEXTS[-1]]).tolist(), abs=1e-5)
    assert answer["truncated"] == [False, True] and answer["prompt_tokens"] > 0
    tokens = scorer.collator.num_tokens(scorer.collator.prepare(0, scorer.row("x", ["yes"])))
    for most, status in ((tokens, 200), (tokens - 1, 422)):
        with running(scorer, max_tokens=most) as api:
            assert api.request("/v1/score", {"prompt": "x", "responses": ["yes"]}).status == status


def test_a_judge(backbone_folder: Callable[[str], str], tmp_path: Path) -> None:
    """A served model that compares is known to do so: refused where that matters, and `grpo` looks at its groups."""
    judge = GenerativeRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    with running(serving(save(judge, tmp_path / "j.ckpt", None)), max_tokens=10_000) as api:
        reward = ModelReward(url(api))
        found = reward(TEXTS[:4], SAMPLES[:4])["reward"]
        assert found[0] + found[2] == pytest.approx(0, abs=1e-6) and not reward.comparable_across_rows
        with pytest.raises(ValueError, match="no probability of being good"):
            HybridReward(url(api)).prepare()
        with pytest.raises(ValueError, match="no common scale"):
            ModelReward(url(api), standardize=True).prepare()
        with pytest.raises(ValueError, match="give every prompt a group"):
            reward(TEXTS[:1], SAMPLES[:1])
        config = SimpleNamespace(
            per_device_train_batch_size=4, steps_per_generation=1, num_generations=8, eval_on_start=False
        )
        with pytest.raises(ValueError, match="whole groups of num_generations 8"):
            check_groups([reward], config)


def test_a_critic(backbone_folder: Callable[[str], str], tmp_path: Path) -> None:
    """Critiques are written for several groups at once as for each alone."""
    from lit_basereward.modules.critic import CriticRM

    critic = CriticRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048), max_new_tokens=4)
    scorer = serving(save(critic, tmp_path / "c.ckpt", CALIBRATION))
    here = [scorer.score("x", ["yes", f"no {n}"]).tolist() for n in range(4)]
    with running(scorer, max_tokens=10_000) as api, ThreadPoolExecutor(4) as clients:
        with held(api.service.batcher):
            replies = [clients.submit(api.request, "/v1/score", body(n)) for n in range(4)]
            until(lambda: api.service.in_flight == 4)
        for reply, expected in zip(replies, here, strict=True):
            assert reply.result().json["rewards"] == pytest.approx(expected, abs=1e-5)


def body(n: int) -> dict:
    return {"prompt": "x", "responses": ["yes", f"no {n}"]}


def test_a_busy_server_is_asked_again(model: str) -> None:
    """Six groups at a time for a server that takes two: others are told to come back, and do."""
    with running(serving(model), Limits(max_queue=2)) as api:
        samples = [sample(seed) for seed in range(6)]
        found = ModelReward(url(api))(["yes"] * 6, samples)["reward"]
    assert found == pytest.approx(ModelReward(model, device="cpu")(["yes"] * 6, samples)["reward"], abs=1e-5)


def test_refusals(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name the prompt, or what is wrong with the URL; a token may stand in it."""
    with pytest.raises(RowError, match=r"s7 was refused by http.*422: .*max_batch_tokens 600"):
        ModelReward(url(served))(["yes"] * 700, [sample(7)] * 700)
    with pytest.raises(ValueError, match="404: Not Found"):
        ModelReward(f"{url(served)}/v1").prepare()
    monkeypatch.setenv(scoring.TOKEN, "wrong")
    with pytest.raises(ValueError, match="401: the bearer token"):
        ModelReward(url(served)).prepare()
    reward = ModelReward(url(served).replace("//", "//:secret@"))
    reward.prepare()
    assert isinstance(reward._opened, ServedModel) and reward._opened.url == url(served), "no token in messages"


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that sends these bytes, one to each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_what_is_no_server_of_ours() -> None:
    """An answer that breaks off is asked for again; what is no JSON, or says nothing of the model, is refused."""
    whole = b'HTTP/1.1 200 OK\r\nContent-Length: 47\r\n\r\n{"comparable_across_rows": true, "calibration":'
    html = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    broken = (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b"no HTTP\r\n\r\n")
    with (
        answering(*broken, html) as place,
        pytest.raises(ValueError, match="answered no JSON; give the URL of `serve`"),
    ):
        ServedModel(place)
    with answering(whole.replace(b"47", b"53") + b" null}") as place:
        assert ServedModel(place).calibration is None
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with answering(empty) as place, pytest.raises(ValueError, match="does not say what its rewards mean"):
        ServedModel(place)
