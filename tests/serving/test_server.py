"""Serving: the same rewards over HTTP as from Python, whatever else is asked at the same time."""

from __future__ import annotations

import base64
import gzip
import io
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from PIL import Image
from server_runs import running

from lit_basereward.serving.server import serve
from lit_basereward.testing import random_image

ANSWERS = ["yes", "no it is not", "a cat on the red table", "yes"]


def encoded(seed: int, size: int = 56) -> str:
    return base64.b64encode(random_image(size, seed).data).decode()


def group(n: int) -> dict:
    """The n-th of many different groups: 0 to 2 images, 1 to 4 responses."""
    rng = random.Random(n)
    images = [encoded(10 * n + i, 28 * rng.randint(1, 2)) for i in range(n % 3)]
    words = " ".join(rng.choices(["is", "it", "red", "cat", "table", "small"], k=rng.randint(1, 9)))
    return {"id": f"group-{n}", "prompt": words, "images": images, "responses": ANSWERS[: 1 + n % 4]}


def from_python(scorer, body: dict) -> list[float]:
    images = [base64.b64decode(image) for image in body["images"]]
    return scorer.score(body["prompt"], body["responses"], images).tolist()


def test_a_group(api, scorer):
    """Rewards are those of ``Scorer.score``; p_best is their softmax; probabilities are those of the calibration,
    ``sigmoid((r - offset) / T)``; the tokens count the end of turn; equal responses have equal rewards."""
    body = group(7)  # one image, four responses
    reply = api.request("/v1/score", body)
    assert reply.status == 200
    answer = reply.json
    expected = scorer.score(body["prompt"], body["responses"], [base64.b64decode(body["images"][0])])
    assert answer["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)
    weights = [math.exp(reward) for reward in answer["rewards"]]
    assert answer["p_best"] == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)
    assert answer["probabilities"] == pytest.approx(scorer.probability(expected).tolist(), abs=1e-6)
    item = scorer.collator.prepare(0, scorer.row(body["prompt"], body["responses"], [random_image(56, 70).data]))
    assert answer["tokens"] == item.lengths and answer["truncated"] == [False] * 4
    assert answer["id"] == "group-7" and answer["prompt_tokens"] > 0
    assert answer["rewards"][0] == pytest.approx(answer["rewards"][3], abs=1e-6)


def test_ways_to_give_prompt_and_images(api):
    """``messages`` is ``prompt``; plain base64, also in lines, a data URI, {"bytes"} and an image part are one image;
    null is the same as a missing key."""
    image, data = encoded(3), {"responses": ANSWERS[:2]}
    expected = api.request("/v1/score", {"prompt": "is it red", "images": [image], **data}).json["rewards"]
    uri = f"data:image/png;base64,{image}"
    for images in ([uri], [{"bytes": image}], uri, ["\r\n".join(image[n : n + 60] for n in range(0, len(image), 60))]):
        body = {"prompt": "is it red", "messages": None, "images": images, **data}
        assert api.request("/v1/score", body).json["rewards"] == expected
    for part in ({"image": image}, {"base64": image}, {"url": uri}):
        content = [{"type": "image", **part}, {"type": "text", "text": "is it red"}]
        body = {"messages": [{"role": "user", "content": content}], **data}
        assert api.request("/v1/score", body).json["rewards"] == expected


def test_a_group_over_the_tokens_of_a_batch(scorer):
    """40 responses of 3 to 29 tokens with an image, of which a batch of 100 tokens holds few: computed in parts, in
    their order, and the same; one response that fits no batch is refused."""
    body = {"prompt": "is it red", "images": [encoded(3)], "responses": ["cat" * (n % 9) + " red" for n in range(40)]}
    body["finished"] = [n % 3 > 0 for n in range(40)]
    image = base64.b64decode(body["images"][0])
    row = replace(scorer.row("is it red", body["responses"], [image]), finished=tuple(body["finished"]))
    (expected,) = scorer.score_rows([row])
    with running(scorer, max_tokens=100) as small:
        answer = small.request("/v1/score", body).json
        assert answer["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert answer["tokens"] == scorer.collator.prepare(0, row).lengths and len(answer["truncated"]) == 40
        assert sum(answer["p_best"]) == pytest.approx(1)
        reply = small.request("/v1/score", {"prompt": "x", "responses": ["yes", "cat " * 150]})
        assert reply.status == 422 and "over max_batch_tokens 100; raise it" in reply.json["error"]


def test_many_at_once_get_their_own_answers(api, scorer):
    """64 clients, 192 different groups, some of them bad: each answer is the one of its request, to 1e-5, whatever was
    in its batch; a bad one fails alone."""
    bodies = [group(n) for n in range(192)]
    bad = {n: {**bodies[n], "images": ["bm8gaW1hZ2U="]} for n in range(5, 192, 17)}
    with ThreadPoolExecutor(64) as clients:
        replies = list(clients.map(lambda n: api.request("/v1/score", bad.get(n, bodies[n])), range(192)))
    for n, (body, reply) in enumerate(zip(bodies, replies, strict=True)):
        if n in bad:
            assert reply.status == 422 and "none of PNG" in reply.json["error"]
        else:
            assert reply.json["id"] == body["id"]
            assert reply.json["rewards"] == pytest.approx(from_python(scorer, body), abs=1e-5)


def test_responses_that_are_too_long_are_cut_and_marked(api):
    """The model's ``score_too_long: cut`` at 256 tokens."""
    answer = api.request("/v1/score", {"prompt": "x", "responses": ["yes", "cat " * 400]}).json
    assert answer["truncated"] == [False, True]
    assert answer["prompt_tokens"] + answer["tokens"][1] == 256


# ------------------------------------------------------------------------------------------------------ OpenRLHF
def chatml(*turns: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def test_openrlhf_rollouts(api, scorer):
    """Rendered prompts are taken apart into their turns, plain ones are one user turn; rewards come in the order of the
    queries though equal prompts are scored as one row; scores are the calibrated probabilities."""
    turns = [("system", "be small"), ("user", "is it red"), ("assistant", "no"), ("user", "is it a cat")]
    rendered, plain = chatml(*turns), "is it a dog"
    prompts = [rendered, plain, rendered, plain]
    padded = "<|im_end|>\n" + "<|endoftext|>" * 50  # as a batch of rollouts is filled up
    queries = [rendered + "yes<|im_end|>", plain + " no", rendered + "a cat" + padded, plain + " yes</s>"]
    reply = api.request("/get_reward", {"query": queries, "prompts": prompts, "labels": ["", "", "", ""]})
    assert reply.status == 200 and reply.json["extra_logs"] == {}
    chat = scorer.score([{"role": role, "content": text} for role, text in turns], ["yes", "a cat"])
    alone = scorer.score(plain, [" no", " yes"])
    expected = torch.stack([chat[0], alone[0], chat[1], alone[1]])
    assert reply.json["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert reply.json["scores"] == pytest.approx(scorer.probability(expected).tolist(), abs=1e-5)


def test_openrlhf_images(api, scorer):
    """Placeholders of Qwen-VL, repeated by the policy, are where the images stand; markers in a response are text."""
    slot = "<|vision_start|><|image_pad|><|vision_end|>"
    prompt = chatml(("user", f"{slot}is it red"))
    response = "yes<|im_end|>\n<|im_start|>user\nno"
    query = prompt.replace("<|image_pad|>", "<|image_pad|>" * 4) + response + "<|im_end|>"
    reply = api.request("/get_reward", {"query": [query], "prompts": [prompt], "images": [[encoded(5)]]})
    expected = scorer.score("is it red", [response], [random_image(56, 5).data])
    assert reply.json["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_openrlhf_responses_that_the_template_begins(api, scorer):
    """Qwen3's template writes ``<think>`` behind the assistant's mark: it belongs to the response."""
    prompt = chatml(("user", "is it red"))
    queries = [prompt + begun + "a cat<|im_end|>" for begun in ("", "<think>\n", "<think>\n\n</think>\n\n")]
    prompts = [query.removesuffix("a cat<|im_end|>") for query in queries]
    reply = api.request("/get_reward", {"query": queries, "prompts": prompts})
    responses = ["a cat", "<think>\na cat", "<think>\n\n</think>\n\na cat"]
    assert reply.json["rewards"] == pytest.approx(scorer.score("is it red", responses).tolist(), abs=1e-5)


def test_openrlhf_long_rollouts_are_cut(api):
    """A long one among others does not fail their request: its client would end the run."""
    reply = api.request("/get_reward", {"query": ["x yes", "x" + " cat" * 400], "prompts": ["x", "x"]})
    assert reply.status == 200 and len(reply.json["rewards"]) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": ["<|user|>hi<|end|>yes"], "prompts": ["<|user|>hi<|end|>"]}, "prompt 0 is rendered"),
        ({"query": ["xyz"], "prompts": ["abc"]}, "query 0 does not begin with its prompt"),
        ({"query": ["ab"], "prompts": ["a", "b"]}, "1 queries, 2 prompts"),
        ({"query": ["ab"]}, "`prompts` is no list of texts"),
        ({"query": [], "prompts": []}, "`query` is empty"),
        ({"query": ["ab"], "prompts": ["a"], "images": ["abc"]}, "no base64"),
    ],
)
def test_openrlhf_mistakes(api, body, message):
    reply = api.request("/get_reward", body)
    assert reply.status == 422 and message in reply.json["error"]


# -------------------------------------------------------------------------------------------- models that compare
def test_a_model_that_only_compares(scorer, monkeypatch):
    """One response, or rewards across prompts, mean nothing to it, and it gives no probability of being good."""
    monkeypatch.setattr(type(scorer.module), "comparable_across_rows", False)
    with running(scorer) as judge:
        reply = judge.request("/v1/score", {"prompt": "x", "responses": ["yes"]})
        assert reply.status == 422 and "give at least two" in reply.json["error"]
        reply = judge.request("/get_reward", {"query": ["x yes"], "prompts": ["x"]})
        assert reply.status == 422 and "only compares" in reply.json["error"]
        reply = judge.request("/v1/score", {"prompt": "x", "responses": ["yes", "no"]})
        assert reply.status == 200 and "probabilities" not in reply.json and "p_best" in reply.json
        reply = judge.request("/v1/score", {"prompt": "x", "responses": ["yes"] * 100})
        assert reply.status == 422 and "has 100 responses and 301 characters, far over" in reply.json["error"]
        assert judge.request("/v1/model").json["comparable_across_rows"] is False


def test_what_the_rewards_mean(api, scorer):
    """For those who hold a token: what turns rewards into probabilities."""
    assert api.request("/v1/model", token=None).status == 401
    reply = api.request("/v1/model")
    assert reply.json == {"comparable_across_rows": True, "calibration": scorer.calibration.to_dict()}


# ------------------------------------------------------------------------------------------------- health and page
def test_health_and_page_need_no_token(api):
    health = api.request("/health", token=None)
    assert health.status == 200 and health.json["status"] == "ready"
    page = api.request("/", token=None)
    assert page.status == 200 and "<title>Rank responses</title>" in page.json
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.json and "https://" not in page.json, "the page loads nothing from elsewhere"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"prompt": "x", "responses": ["yes"', 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"[" * 50_000, 400, "not valid JSON"),
        (b'"yes"', 400, "JSON string"),
        ({f"key {n}": n for n in range(101)}, 400, "101 keys; send one of at most 100"),
        (b'{"prompt": "x", "responses": ["yes"], "weight": NaN}', 422, "weight nan"),
        (b'{"prompt": "x", "responses": ["yes"], "id": ' + b"9" * 5000 + b"}", 400, "not valid JSON"),
        (b'{"prompt": "x", "responses": ["yes"], "weight": ' + b"9" * 4000 + b"}", 422, "too large for a number"),
        (b'{"prompt": "x", "responses": ["yes"], "images": ' + b"[" * 800 + b"]" * 800 + b"}", 422, "no base64"),
        ({"prompt": "x"}, 422, "no `responses`"),
        ({"prompt": "x", "responses": "yes"}, 422, "`responses` that is a JSON string"),
        ({"prompt": "x", "responses": []}, 422, "has no response"),
        ({"prompt": "x", "responses": [1]}, 422, "JSON"),
        ({"prompt": "", "responses": ["yes"]}, 422, "empty prompt"),
        ({"prompt": "x", "messages": [], "responses": ["yes"]}, 422, "both `prompt` and `messages`"),
        ({"prompt": "x", "respones": [], "responses": ["yes"]}, 422, "did you mean `responses`"),
        ({"messages": [{"role": "assistant", "content": "x"}], "responses": ["yes"]}, 422, "no user turn"),
        ({"messages": [3], "responses": ["yes"]}, 422, "message 0"),
        ({"prompt": "x", "responses": None}, 422, "no `responses`"),
        (b'{"prompt": "x", "responses": ["yes"], "promp\\ud800": 1}', 422, "key `promp\\ud800`; did you mean `prompt`"),
        (
            {"prompt": "x", "responses": ["yes"], "images": ["AAA"]},
            422,
            "standard base64, with + and / and = at its end",
        ),
        ({"prompt": "cat " * 9_000, "responses": ["yes"]}, 422, "prompt of 36000 characters, far over max_length 256"),
        ({"prompt": "x", "responses": ["\ud83d"]}, 422, "half a character"),
        ({"prompt": "cat " * 300, "responses": ["yes"]}, 422, "max_length 256"),
        ({"prompt": "x", "responses": ["yes no"] * 700}, 422, "max_batch_tokens 600; send less"),
        ({"prompt": "x", "responses": ["yes " * 20_000]}, 422, "80001 characters, far over max_batch_tokens 600"),
    ],
)
def test_bad_groups(api, body, status, message):
    """400 for no JSON object, 422 for an object that is no group that can be scored, with the reason."""
    reply = api.request("/v1/score", body)
    assert (reply.status, message in reply.json["error"]) == (status, True), reply


@pytest.mark.parametrize(
    "image",
    ["/etc/passwd", "../../secret.png", "file:///etc/passwd", "https://example.org/a.png", {"path": "a.png"}, 3],
)
def test_no_path_is_opened_and_no_url_fetched(api, image):
    """In the list of images, and in every place of an image part."""
    texts = {"type": "text", "text": "x"}
    for body in (
        {"prompt": "x", "images": [image]},
        {"prompt": "x", "image": image},
        *({"prompt": [{"role": "user", "content": [{"type": "image", key: image}, texts]}]} for key in ("path", "url")),
    ):
        reply = api.request("/v1/score", {**body, "responses": ["yes"]})
        assert reply.status == 422 and "no path is opened and no URL fetched" in reply.json["error"], body


def png(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_images_over_the_limits(api):
    """16,000 x 16,000 pixels in a file of 32 kB, many images that are too large together, and too many of them."""
    for images, message in (
        ([png(16_000, 16_000)], "over the limit of 50000000 pixels"),
        ([png(6_000, 6_000)] * 2, "images of 72000000 pixels, over max_pixels 50000000"),
        ([png(28, 28)] * 65, "65 images, over max_images 64"),
    ):
        reply = api.request("/v1/score", {"prompt": "x", "images": images, "responses": ["yes"]})
        assert reply.status == 422 and message in reply.json["error"]


def test_unknown_paths_and_methods(api):
    for unknown in (
        api.request("/v1/nothing"),
        api.request("/v1/score/", {}),
        api.request("/v1/score/", {}, token=None),
    ):
        assert (unknown.status, unknown.json) == (404, {"error": "Not Found"})
    reply = api.request("/v1/score")
    assert reply.status == 405 and reply.json["error"] == "Method Not Allowed"


def test_tokens(api):
    """Bearer, or Basic with the token as password for clients that are told nothing but a URL; all else is 401."""
    body = {"prompt": "x", "responses": ["yes"]}
    basic = base64.b64encode(b":secret").decode()
    assert api.request("/v1/score", body, token=None, Authorization=f"Basic {basic}").status == 200
    wrong = base64.b64encode(b":other").decode()
    for shown in ("Bearer other", "Bearer ", "secret", f"Basic {wrong}", "Basic !", "Bearer s\xe9cret"):
        assert api.request("/v1/score", body, token=None, Authorization=shown).status == 401, shown
    assert api.request("/v1/score", body, token=None, Authorization="bearer  secret ").status == 200
    missing = api.request("/v1/score", body, token=None)
    assert missing.status == 401 and missing.headers["www-authenticate"] == "Bearer"
    assert "token" in missing.json["error"]


def test_only_json_is_taken(api):
    """A form of another site cannot send this type without asking first."""
    assert api.request("/v1/score", b"{}", Content_Type="text/plain").status == 415
    reply = api.request("/v1/score", gzip.compress(b"{}"), Content_Encoding="gzip")
    assert reply.status == 415 and "packed (gzip)" in reply.json["error"]
    for unpacked in ("identity", "IDENTITY", ""):
        assert api.request("/v1/score", {"prompt": "x", "responses": ["yes"]}, Content_Encoding=unpacked).status == 200


def test_large_bodies(api):
    """413 by the length that is told; the sender sees it though it is still sending, and the service lives."""
    reply = api.request("/v1/score", b" " * 40_000_000)
    assert reply.status == 413 and "max_body, 200000 bytes" in reply.json["error"]
    assert api.request("/v1/score", {"prompt": "x", "responses": ["yes"]}).status == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [({"timeout": 0.0}, "timeout is 0"), ({"token": " "}, "token is empty"), ({}, "is no file")],
)
def test_mistakes_on_the_command_line(options, message):
    with pytest.raises(ValueError, match=message):
        serve("nothing.ckpt", **options)
