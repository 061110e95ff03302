"""The JSON Lines source: our schema, TRL's preference forms, and for every bad row an error with line and mend."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lit_basereward.data.records import lines
from lit_basereward.data.sources import JSONLSource, record
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError

GOOD: dict[str, Any] = {"prompt": "What is 2+3?", "responses": ["5", "6"], "ratings": [1, 0]}
IMAGE = ImagePart()
Write = Callable[..., JSONLSource]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Rows (objects, or lines as they stand) to a file, and the source that reads it; beside it lie a.png and b.png."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)

    def write_rows(*rows: Any, file: str = "rows.jsonl", **settings: Any) -> JSONLSource:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return JSONLSource(str(tmp_path / file), **settings)

    return write_rows


def read(write: Write, row: dict[str, Any], **settings: Any) -> Preference:
    return write(row, **settings)[0]


def names(row: Preference) -> list[str]:
    return [Path(ref.path).name for ref in row.images]


def every(source: Any) -> list[Preference]:
    """All rows, by plain iteration."""
    return list(source)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


# ----------------------------------------------------------------------------------------------------- our schema
def test_every_field_arrives(write: Write) -> None:
    row = read(
        write,
        {
            "id": 7,
            "prompt": "Which?",
            "responses": ["a", "b", "c"],
            "ratings": [0.5, None, 2],
            "images": ["a.png", "b.png"],
            "critiques": ["good", None, "bad"],
            "judgement": "1 is better",
            "finished": [True, False, True],
            "weight": 2,
            "category": "chart",
            "annotator": "metadata is left out",
        },
        name="mine",
    )
    assert row.id == "7" and row.source == "mine" and row.where.endswith("rows.jsonl:1")
    assert row.prompt == (Message("user", (IMAGE, IMAGE, "Which?")),)
    assert row.responses == ("a", "b", "c")
    assert row.ratings[0] == 0.5 and math.isnan(row.ratings[1]) and row.ratings[2] == 2.0
    assert names(row) == ["a.png", "b.png"]
    assert (row.critiques, row.judgement) == (("good", "", "bad"), "1 is better")
    assert (row.finished, row.weight, row.category) == ((True, False, True), 2.0, "chart")


def test_what_is_left_out_has_its_default(write: Write) -> None:
    row = read(write, {"prompt": "Hi", "responses": ["x"], "ratings": None, "images": None})
    assert (row.id, row.source, row.ratings, row.images, row.weight) == ("1", "rows", (), (), 1.0)


def test_nan_and_null_are_unrated(write: Write) -> None:
    row = write('{"prompt": "Hi", "responses": ["x", "y", "z"], "ratings": [NaN, null, 1]}')[0]
    assert [math.isnan(r) for r in row.ratings] == [True, True, False]


@pytest.mark.parametrize("key", ["image", "images"])
@pytest.mark.parametrize("value", ["a.png", ["a.png"], {"path": "a.png", "bytes": None}])
def test_one_image_in_any_form(key: str, value: Any, write: Write) -> None:
    assert names(read(write, GOOD | {key: value})) == ["a.png"]


def test_multi_image_multi_turn_in_reading_order(write: Write) -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "See"}, {"type": "image"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "And here?"}]},
    ]
    row = read(write, GOOD | {"prompt": prompt, "images": ["b.png", "a.png"]})
    assert row.prompt == (
        Message("system", ("Be brief.",)),
        Message("user", ("See", IMAGE, "?")),
        Message("assistant", ("A cat.",)),
        Message("user", (IMAGE, "And here?")),
    )
    assert names(row) == ["b.png", "a.png"]


def test_image_parts_may_carry_their_image_and_the_others_take_from_the_list(write: Write, tmp_path: Path) -> None:
    data = (tmp_path / "a.png").read_bytes()
    parts = [
        {"type": "image", "path": "a.png"},
        {"type": "image"},
        {"type": "image", "base64": base64.b64encode(data).decode()},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": "Which?"},
    ]
    row = read(write, GOOD | {"prompt": [{"role": "user", "content": parts}], "images": ["b.png"]})
    assert [Path(ref.path).name or ref.data for ref in row.images] == ["a.png", "b.png", data, "b.png"]


def test_without_placeholders_images_come_before_the_first_user_turn(write: Write) -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Second?"},
    ]
    row = read(write, GOOD | {"prompt": prompt, "image": "a.png"})
    assert [m.content for m in row.prompt] == [("Be brief.",), (IMAGE, "First?"), ("Yes.",), ("Second?",)]


def test_the_image_token_marks_places_in_strings_only_where_it_is_set(write: Write) -> None:
    row = GOOD | {"prompt": "Is <image> like <image>?", "responses": ["<image>", "b"], "images": ["a.png", "b.png"]}
    marked = read(write, row, image_token="<image>")
    assert marked.prompt[0].content == ("Is ", IMAGE, " like ", IMAGE, "?")
    assert marked.responses[0] == "<image>"
    assert read(write, row).prompt[0].content == (IMAGE, IMAGE, "Is <image> like <image>?")
    chat = row | {"prompt": [{"role": "user", "content": "<image>Who? <image>"}]}
    assert read(write, chat, image_token="<image>").prompt[0].content == (IMAGE, "Who? ", IMAGE)


def test_the_image_root_is_the_files_folder_unless_it_is_set(write: Write, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "pictures" / "c.png")
    assert names(read(write, GOOD | {"image": "pictures/c.png"})) == ["c.png"]
    root = str(tmp_path / "pictures")
    assert names(read(write, GOOD | {"image": "c.png"}, image_root=root)) == ["c.png"]
    for escape in ("../a.png", str(tmp_path / "a.png")):
        with pytest.raises(RowError, match=r"rows\.jsonl:1 .*outside image_root"):
            read(write, GOOD | {"image": escape}, image_root=root)


# ----------------------------------------------------------------------------------------------------- TRL's forms
def test_trl_explicit_and_implicit_forms_are_the_same_row(write: Write) -> None:
    """What color is the sky? in the five ways TRL's dataset page writes a preference."""
    ask, blue, green = turn("user", "Sky?"), turn("assistant", "Blue."), turn("assistant", "Green.")
    forms: list[dict[str, Any]] = [
        {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."},
        {"prompt": [ask], "chosen": [blue], "rejected": [green]},
        {"chosen": [ask, blue], "rejected": [ask, green]},
        {"prompt": "Sky?", "chosen": [ask, blue], "rejected": [ask, green]},
        {"prompt": "Sky?", "chosen": [blue], "rejected": [green]},
    ]
    for form in forms:
        row = read(write, form)
        assert row.prompt == (Message("user", ("Sky?",)),), form
        assert (row.responses, row.ratings) == (("Blue.", "Green."), (1.0, 0.0)), form


def test_trl_implicit_strings_are_cut_at_the_first_difference_and_its_space(write: Write) -> None:
    """TRL's own example: the common prefix is "The sky is ", and its last space goes to the responses."""
    row = read(write, {"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert row.prompt == (Message("user", ("The sky is",)),)
    assert row.responses == (" blue.", " green.")


def test_trl_implicit_conversations_share_every_turn_but_the_last(write: Write) -> None:
    shared = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Sky?")]
    row = read(write, {"chosen": [*shared, turn("assistant", "x")], "rejected": [*shared, turn("assistant", "x")]})
    assert [m.content for m in row.prompt] == [("Hi",), ("Hello",), ("Sky?",)]
    assert row.responses == ("x", "x")


def test_trl_vision_form(write: Write) -> None:
    ask = turn("user", [{"type": "image"}, {"type": "text", "text": "Who?"}])
    answers = [turn("assistant", [{"type": "text", "text": text}]) for text in ("A cat.", "A dog.")]
    for images in ({"images": ["a.png"]}, {"image": "a.png"}):
        row = read(write, {"prompt": [ask], "chosen": [answers[0]], "rejected": [answers[1]]} | images)
        assert row.prompt == (Message("user", (IMAGE, "Who?")),)
        assert (row.responses, names(row)) == (("A cat.", "A dog."), ["a.png"])


@pytest.mark.parametrize(
    ("extra", "ratings"),
    [
        ({"score_chosen": 8.5, "score_rejected": 3}, (8.5, 3.0)),
        ({"score_chosen": 4, "score_rejected": 4}, (4.0, 4.0)),
        ({"score_chosen": None, "score_rejected": None}, (1.0, 0.0)),
        ({"margin": 2.5}, (2.5, 0.0)),
    ],
)
def test_trl_scores_and_margins_become_ratings(
    extra: dict[str, Any], ratings: tuple[float, float], write: Write
) -> None:
    assert read(write, {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."} | extra).ratings == ratings


# -------------------------------------------------------------------------------------------------------- bad rows
PAIR: dict[str, Any] = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}
ASK, SAY = turn("user", "Sky?"), turn("assistant", "Blue.")


def chat(*messages: Any) -> dict[str, Any]:
    return GOOD | {"prompt": list(messages)}


BAD = [
    # the line itself
    ('{"prompt": "Hi", "respon', "not valid JSON .*one whole object a line"),
    ("[1, 2]", "is a JSON list; write one object"),
    ('"text"', "is a JSON string"),
    ("[" * 100_000, "JSON that cannot be read"),
    # responses and what belongs to each of them
    ({"prompt": "Hi"}, r"needs `responses`, or both `chosen` and `rejected`; it has \['prompt'\]"),
    ({"prompt": "Hi", "chosen": "x"}, "only one of `chosen` and `rejected`; give both"),
    (PAIR | {"rejected": None, "rejcted": "Green."}, "did you mean `rejected`"),
    (GOOD | {"responses": []}, "has no response"),
    (GOOD | {"responses": "5"}, "`responses` that is a JSON string; give a list"),
    (GOOD | {"responses": ["5", ""]}, "empty response 1; remove it, or set allow_empty"),
    (GOOD | {"responses": [" \n", "6"]}, "empty response 0"),
    (GOOD | {"responses": ["5", 6]}, "response 1 that is a JSON number; give a string"),
    (GOOD | {"responses": ["5", None]}, "response 1 that is a JSON null"),
    (GOOD | {"responses": ["5", "\ud83d"]}, "half a character in response 1"),
    (GOOD | {"ratings": [1]}, "2 responses but 1 ratings; give one per response, or none"),
    (GOOD | {"ratings": [1, 0, 0]}, "2 responses but 3 ratings"),
    (GOOD | {"ratings": [True, False]}, "a rating that is a JSON boolean; give a number"),
    (GOOD | {"ratings": ["1", "0"]}, "a rating that is a JSON string"),
    (GOOD | {"ratings": 1}, "`ratings` that is a JSON number; give a list"),
    (GOOD | {"ratings": [10**400, 0]}, "a rating too large"),
    ('{"prompt": "Hi", "responses": ["a", "b"], "ratings": [Infinity, 0]}', "infinite rating"),
    (GOOD | {"critiques": ["a"]}, "2 responses but 1 critiques"),
    (GOOD | {"critiques": [0, 1]}, "a critique that is a JSON number"),
    (GOOD | {"finished": [1, 0]}, "give true or false per response"),
    (GOOD | {"weight": True}, "`weight` that is a JSON boolean"),
    (GOOD | {"weight": -1}, "weight -1.0"),
    (GOOD | {"judgement": 1}, "`judgement` that is a JSON number"),
    (GOOD | {"category": ["a"]}, "`category` that is a JSON list"),
    (GOOD | {"id": [1]}, "id that is a JSON list"),
    # keys
    (GOOD | {"rating": [1, 0]}, "the key `rating`; did you mean `ratings`"),
    (GOOD | {"wieght": 2}, "did you mean `weight`"),
    (GOOD | {"judgment": "1"}, "did you mean `judgement`"),
    (GOOD | {"Images": ["a.png"]}, "did you mean `images`"),
    (PAIR | {"choosen": "x"}, "did you mean `chosen`"),
    (GOOD | {"chosen": "x", "rejected": "y"}, "`chosen` in a row of the other form"),
    (PAIR | {"ratings": [1, 0]}, "`ratings` in a row of the other form"),
    (GOOD | {"system": "Be brief."}, "`system`, which is not read; make it the first message of `prompt`"),
    (GOOD | {"video": "v.mp4"}, "`video`, which is not read; give its frames"),
    # the prompt
    ({"responses": ["5"]}, "no `prompt`"),
    (GOOD | {"prompt": ""}, "empty prompt"),
    (GOOD | {"prompt": " \n"}, "empty prompt"),
    (GOOD | {"prompt": []}, "empty prompt"),
    (GOOD | {"prompt": 3}, "a prompt that is a JSON number"),
    (chat(turn("user", [])), "empty prompt"),
    (chat("Sky?"), "message 0 of its prompt is a JSON string; write"),
    (chat({"from": "human", "value": "Sky?"}), r"message 0 of its prompt has the keys \['from', 'value'\]; write"),
    (chat(turn("human", "Sky?")), "role 'human'; use system, user or assistant"),
    (chat(ASK, turn("system", "Be brief.")), "system message behind others"),
    (chat(ASK, SAY), "does not end in a user turn"),
    (chat(turn("user", None)), "a JSON null as content"),
    (chat(turn("user", ["Sky?"])), "message part of type None; use"),
    (chat(turn("user", [{"type": "image_url", "image_url": "x"}])), "part of type 'image_url'"),
    (chat(turn("user", [{"type": "text", "value": "Sky?"}])), "`text` that is a JSON null"),
    # images
    (GOOD | {"image": "gone.png"}, r"'gone\.png', and there is no such file in .*set image_root"),
    (GOOD | {"image": ""}, "leave the key out where there is no image"),
    (GOOD | {"image": "https://a.org/x.png"}, "no URL is fetched"),
    (GOOD | {"image": "../rows.png"}, "outside image_root"),
    (
        GOOD | {"images": ["a.png"], "rejected_images": ["b.png"]},
        "other images in `chosen_images` or `rejected_images`",
    ),
    (PAIR | {"chosen_images": ["a.png"], "rejected_images": ["b.png"]}, "other images in"),
    (PAIR | {"rejected_images": ["b.png"]}, "other images in"),
    (GOOD | {"image": "a.png", "images": ["a.png"]}, "both `image` and `images`"),
    (chat(turn("user", [{"type": "image"}, {"type": "text", "text": "?"}])), "0 images but 1 image placeholders"),
    (
        chat(turn("user", [{"type": "image"}, {"type": "text", "text": "?"}])) | {"images": ["a.png", "b.png"]},
        "2 images but 1 image placeholders in its prompt; give one placeholder per image, or none",
    ),
    (chat(turn("user", [{"type": "image", "url": "http://a.org/x.png"}, ASK])), "part of type None"),
    (chat(turn("user", [{"type": "image", "url": "http://a/x"}, {"type": "text", "text": "?"}])), "no URL is fetched"),
    (chat(turn("user", [{"type": "image", "path": "a.png", "image": "b.png"}])), "an image part with 2 images"),
    # TRL's forms
    (PAIR | {"chosen": [SAY]}, "list and string as `chosen` and `rejected`"),
    (PAIR | {"chosen": {"from": "gpt"}, "rejected": {"from": "gpt"}}, "object and object as `chosen`"),
    (PAIR | {"chosen": ["a", "b"], "rejected": ["c"]}, "a message of `chosen` is a JSON string"),
    (PAIR | {"chosen": [], "rejected": []}, "`chosen` has the turns \\[\\] instead of one assistant turn"),
    ({"prompt": [ASK], "chosen": [ASK, SAY], "rejected": [ASK, SAY]}, r"has the turns \['user', 'assistant'\]"),
    (
        {"chosen": [ASK, SAY], "rejected": [turn("user", "Sea?"), SAY]},
        r"`chosen` has the turns \['user', 'assistant'\]",
    ),
    ({"chosen": [ASK, SAY, ASK, SAY], "rejected": [ASK, turn("assistant", "No.")]}, "instead of one assistant turn"),
    ({"prompt": [ASK], "chosen": [turn("assistant", [{"type": "image"}])], "rejected": [SAY]}, "image in `chosen`"),
    ({"question": "Sky?", "chosen": "It is x", "rejected": "It is y"}, "no `prompt`, but `question`; rename that key"),
    ({"chosen": "Yes.", "rejected": "No."}, "share no beginning; give the `prompt`"),
    ({"chosen": "Sky? Blue.", "rejected": "Sky? Blue."}, "begins the other; give the `prompt`"),
    ({"chosen": "Sky? Blue.", "rejected": "Sky?"}, "begins the other"),
    (PAIR | {"score_chosen": 1, "score_rejected": 2}, "score_chosen 1.0 below score_rejected 2.0; swap"),
    (PAIR | {"score_chosen": 1}, "give both scores"),
    (PAIR | {"score_chosen": 1, "score_rejected": 0, "margin": 1}, "or margin alone"),
    (PAIR | {"margin": 0}, "margin 0.0; give one above 0"),
    (PAIR | {"margin": "big"}, "`margin` that is a JSON string"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_row_names_file_line_and_mend_and_spares_the_others(row: Any, message: str, write: Write) -> None:
    source = write(GOOD, "", row, GOOD)
    assert len(source) == 3
    with pytest.raises(RowError, match=rf"rows\.jsonl:3\b.*(?:{message})"):
        source[1]
    assert source[0].responses == source[2].responses == ("5", "6")


@pytest.mark.parametrize("key", ["idx", "prompt_id", "image_id", "source", "model", "chosen_model", "origin_dataset"])
def test_metadata_is_no_misspelling(key: str, write: Write) -> None:
    for row in (GOOD, PAIR):
        assert read(write, row | {key: "x"}).responses == read(write, row).responses


def test_empty_responses_where_they_are_allowed(write: Write) -> None:
    assert read(write, GOOD | {"responses": ["5", ""]}, allow_empty=True).responses == ("5", "")


def test_invalid_utf8_names_the_line(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    (tmp_path / "rows.jsonl").write_bytes(good + b"\n" + good.replace(b"What", b"Wh\xe4t") + b"\n")
    source = JSONLSource(str(tmp_path / "rows.jsonl"))
    assert source[0].id == "1"
    with pytest.raises(RowError, match=r"rows\.jsonl:2 is not UTF-8 .*save the file as UTF-8"):
        source[1]


# --------------------------------------------------------------------------------------------------------- the file
def test_nothing_is_read_before_the_first_access(tmp_path: Path) -> None:
    source = JSONLSource(str(tmp_path / "gone.jsonl"))
    assert source.name == "gone" and "JSONLSource" in repr(source)
    pickle.dumps(source)
    for use in (source.prepare, lambda: len(source), lambda: source[0], source.fingerprint):
        with pytest.raises(ValueError, match=r"there is no file .*gone\.jsonl; correct the path"):
            use()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl has no rows; give a file with one JSON object a line"),
        ("rows.jsonl", b" \n\n", "has no rows"),
        ("rows.jsonl", b"\xef\xbb\xbf", "has no rows"),
        ("rows.json", b"", "has no rows"),
        ("rows.json", b"[]", "has no rows"),
        ("rows.json", b'{"prompt": "Hi"}', "is a JSON object; give a list, or .jsonl"),
        ("rows.json", b'{\n "prompt": "Hi"\n}\n', "is a JSON object; give a list, or .jsonl"),
        ("rows.json", b'[{"a": 1},\n', "is not one JSON list .*restore the file"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read .*give a readable, complete file"),
        ("rows.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 9, mtime=0)[:-12], "cannot be read"),
    ],
)
def test_a_file_without_rows_is_named(file: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    source = JSONLSource(str(tmp_path / file))
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{file} {message.removeprefix(file).strip()}"):
            source.prepare()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        JSONLSource(str(tmp_path)).prepare()


def test_blank_lines_bom_and_carriage_returns_keep_line_numbers_right(tmp_path: Path) -> None:
    """Rows on lines 2, 4 and 5 of five; letters of two and three bytes shift the byte offsets."""
    lines = ["", json.dumps(GOOD | {"prompt": "äöü €?"}, ensure_ascii=False), "  ", json.dumps(GOOD), json.dumps(GOOD)]
    for bom in (b"", b"\xef\xbb\xbf"):
        for end in ("\n", "\r\n"):
            (tmp_path / "rows.jsonl").write_bytes(bom + end.join(lines).encode())
            source = JSONLSource(str(tmp_path / "rows.jsonl"))
            assert [row.id for row in every(source)] == ["2", "4", "5"]
            assert [row.where.rpartition(":")[2] for row in every(source)] == ["2", "4", "5"]
            assert source[0].prompt[0].content == ("äöü €?",)


def test_a_bom_on_the_first_row_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert JSONLSource(str(tmp_path / "rows.jsonl"))[0].id == "1"


def test_gzip_and_list_files_give_the_same_rows(tmp_path: Path) -> None:
    rows = [GOOD | {"id": str(n), "prompt": f"{n}?"} for n in range(5)]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(rows).encode()))
    seen = []
    for file in ("a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"):
        source = JSONLSource(str(tmp_path / file))
        assert source.name == "a"
        assert source[3].where == f"{tmp_path / file}:4"
        seen.append([(row.id, row.prompt, row.responses, row.ratings) for row in every(source)])
    assert len(seen[0]) == 5 and seen.count(seen[0]) == 4


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    """Its first row may be bad; line numbers are the file's."""
    text = "\ufeff\n" + json.dumps(GOOD) + "\n\n" + json.dumps(GOOD) + "\n"
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    for file in ("a.json", "a.json.gz"):
        assert [row.id for row in every(JSONLSource(str(tmp_path / file)))] == ["2", "4"]
    (tmp_path / "a.json").write_text('{"prompt": \n' + json.dumps(GOOD))
    source = JSONLSource(str(tmp_path / "a.json"))
    assert source[1].id == "2"
    with pytest.raises(RowError, match=r"a\.json:1 is not valid JSON"):
        source[0]


def test_giant_rows_and_texts_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 characters are allowed and 5 are not, in each text; a line of 2 MiB and a bit is over a limit of 2 MiB."""
    monkeypatch.setattr(record, "_LONGEST", 4)
    short = {"prompt": "Sky?", "responses": ["Blue", "Red"]}
    assert read(write, short).responses == ("Blue", "Red")
    for change in (
        {"prompt": "Skies"},
        {"responses": ["Green", "Red"]},
        {"critiques": ["wrong", ""]},
        {"judgement": "1 > 2"},
        {"id": "abcde"},
    ):
        with pytest.raises(RowError, match=r"rows\.jsonl:1 has .* of 5 characters, over the limit of 4; cut it"):
            read(write, short | change)
    monkeypatch.setattr(record, "_LONGEST", 2**24)
    monkeypatch.setattr(lines, "LARGEST", 2**21)
    source = write(GOOD, GOOD | {"prompt": "x" * 2**21})
    assert source[0].id == "1"
    with pytest.raises(RowError, match=r"rows\.jsonl:2 is a row of 2 MB, over the limit of 2 MB"):
        source[1]


def test_images_of_each_response_that_are_the_same(write: Write) -> None:
    sides = {"chosen_images": ["a.png"], "rejected_images": ["a.png"]}
    for images in ({}, {"images": ["a.png"]}, {"image": "a.png"}):
        assert names(read(write, PAIR | sides | images)) == ["a.png"]
    assert names(read(write, PAIR | {"images": ["a.png"], "rejected_images": []})) == ["a.png"]


def test_indices_outside_are_refused_and_iteration_ends(write: Write) -> None:
    source = write(GOOD, GOOD)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="rows 0 to 1"):
            source[index]
    assert len(every(source)) == 2
    assert source[cast(int, torch.tensor(1))].id == "2"


def test_limit_reads_the_first_rows(write: Write) -> None:
    assert [row.id for row in every(write(GOOD, "", GOOD, GOOD, limit=2))] == ["1", "3"]
    assert len(write(GOOD, limit=5)) == 1
    assert len(write([GOOD, GOOD, GOOD], file="rows.json", limit=2)) == 2
    with pytest.raises(ValueError, match="limit is 0; use a number of rows from 1 on"):
        write(GOOD, limit=0)


def test_a_file_that_changes_under_the_reader_is_refused(write: Write, tmp_path: Path) -> None:
    source = write(GOOD, GOOD)
    source.prepare()
    write(PAIR, GOOD, GOOD)
    with pytest.raises(ValueError, match="was changed while it was in use"):
        source[1]


def test_forked_workers_and_pickles_read_the_same_rows(write: Write) -> None:
    source = write(*[GOOD | {"id": str(n), "prompt": "x" * n + "?"} for n in range(40)])
    source.prepare()
    again = pickle.loads(pickle.dumps(source))
    assert [row.id for row in every(again)] == [str(n) for n in range(40)]
    loader: Any = DataLoader(source, batch_size=4, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    rows = [row for batch in loader for row in batch]
    assert [(row.id, len(row.prompt[0].content[0])) for row in rows] == [(str(n), n + 1) for n in range(40)]


def test_the_fingerprint_follows_bytes_and_settings(write: Write, tmp_path: Path) -> None:
    prints = [write(GOOD, GOOD).fingerprint()]
    assert write(GOOD, GOOD, name="other").fingerprint() == prints[0]
    for settings in ({"limit": 1}, {"image_token": "<image>"}, {"allow_empty": True}, {"image_root": str(tmp_path)}):
        prints.append(write(GOOD, GOOD, **settings).fingerprint())
    prints.append(write(GOOD, GOOD | {"weight": 2}).fingerprint())
    assert len(set(prints)) == len(prints)
    other = tmp_path / "moved"
    other.mkdir()
    os.rename(tmp_path / "rows.jsonl", other / "rows.jsonl")
    assert JSONLSource(str(other / "rows.jsonl")).fingerprint() == prints[-1]


def test_inline_data_uris_need_no_file(write: Write) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert read(write, GOOD | {"image": uri}).images == (ImageRef(data=buffer.getvalue()),)


def test_the_documented_examples_are_rows(tmp_path: Path) -> None:
    """Every ```json block of docs/data_format.md is one object, or one a line."""
    text = (Path(__file__).parents[2] / "docs" / "data_format.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0].strip() for block in text.split("```json\n")[1:]]
    lines = [" ".join(b.split()) if b.startswith('{"prompt": [\n') else b for b in blocks]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "charts").mkdir()
    for name in ("charts/7.png", "cat.jpg", "cat.png", "dog.png"):
        Image.new("RGB", (1, 1)).save(tmp_path / name)
    rows = every(JSONLSource(str(tmp_path / "rows.jsonl")))
    assert [len(row.responses) for row in rows] == [2, 4, 1, 2, 2, 2, 2]
    assert (rows[1].comparisons(), rows[1].ties()) == ([(0, 1), (0, 2)], [(1, 2)])
    assert [len(row.images) for row in rows[:4]] == [0, 1, 1, 2]
