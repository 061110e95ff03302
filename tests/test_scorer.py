"""Scoring from Python."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from PIL import Image

import lit_basereward
from lit_basereward import NaiveRM, Scorer
from lit_basereward.allowed import check_classes
from lit_basereward.data.images import open_image
from lit_basereward.data.types import ImageRef, RowError
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead
from lit_basereward.scorer import encoded, load
from lit_basereward.testing import ListSource, preferences, random_image


@pytest.fixture(scope="module")
def scorer(backbone_folder) -> Scorer:
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048), head=partial(MLPHead, num_layers=1))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return Scorer(module, "cpu")


def test_all_ways_to_give_an_image_agree(scorer, tmp_path):
    """Bytes, PIL, path as str and Path, inside a message part, base64: one reward."""
    data = random_image(56, 3).data
    path = tmp_path / "image.png"
    path.write_bytes(data)
    pil = Image.open(io.BytesIO(data))
    answers = ["yes", "no it is not"]
    expected = scorer.score("what is it", answers, [data])
    assert expected.shape == (2,) and expected.dtype == torch.float32
    for image in (pil, path, str(path), {"bytes": data}):
        torch.testing.assert_close(scorer.score("what is it", answers, [image]), expected)
    for part in ({"type": "image", "image": pil}, {"type": "image", "path": str(path)}):
        chat = [{"role": "user", "content": [part, {"type": "text", "text": "what is it"}]}]
        torch.testing.assert_close(scorer.score(chat, answers), expected)
    assert not torch.allclose(scorer.score("what is it", answers, [random_image(56, 4).data]), expected)


def test_one_response_many_responses_and_turns(scorer):
    """K does not matter to a response's reward; earlier turns do."""
    many = scorer.score("is it red", ["yes", "no", "", "a cat"])
    assert scorer.score("is it red", ["no"])[0].item() == pytest.approx(many[1].item(), abs=1e-5)
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "the dog"},
        {"role": "user", "content": "is it red"},
    ]
    assert abs(scorer.score(chat, ["no"])[0] - many[1]) > 1e-4


def test_rows_in_several_passes(scorer):
    """Five rows, two at a time (the last pass has one), get the rewards of one pass, in order; a source is rows too."""
    rows = preferences(responses=(2, 3, 1, 2, 4))
    expected = scorer.score_rows(rows)
    for given in (rows, ListSource(rows)):
        found = scorer.score_rows(given, batch_size=2)
        assert [len(rewards) for rewards in found] == [2, 3, 1, 2, 4]
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=1e-5)
    assert scorer.score_rows([]) == []


def test_public_names_are_there():
    """Each is imported when it is asked for, so a wrong home would not be seen before."""
    assert [name for name in lit_basereward.__all__ if not hasattr(lit_basereward, name)] == []


def test_mistakes_are_told(scorer):
    """A string for the responses, a missing image, a URL, a conversation that ends with an answer."""
    with pytest.raises(ValueError, match="one string"):
        scorer.score("x", "yes")
    with pytest.raises(RowError, match="no URL is fetched"):
        scorer.score("x", ["yes"], ["https://example.org/a.png"])
    with pytest.raises(RowError, match="0 images but 1"):
        scorer.score([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], ["yes"])
    with pytest.raises(RowError, match="does not end in a user turn"):
        scorer.score([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], ["yes"])


def test_what_is_no_checkpoint(tmp_path):
    """A missing file, a text file, and a pickle that would run code: refused, nothing is run."""
    import os
    import pickle

    with pytest.raises(ValueError, match="is no file"):
        load(tmp_path / "nothing.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="is no checkpoint of a reward model"):
        load(tmp_path / "text.ckpt")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is no checkpoint of a reward model"):
        load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_nested_classes_are_checked():
    """In lists and init_args too; a prefix of a package's name is not the package."""
    check_classes({"_class_path": "lit_basereward.NaiveRM", "x": [{"class_path": "torch.nn.ReLU"}]}, [])
    with pytest.raises(ValueError, match="lit_basereward_evil"):
        check_classes({"a": [{"init_args": {"class_path": "lit_basereward_evil.Head"}}]}, [])
    with pytest.raises(ValueError, match="which is not there"):
        check_classes({"a": {"class_path": "my.heads.Head"}}, ["my.heads"])


def test_settings_of_another_version(tmp_path):
    """One line that names the setting, not jsonargparse's tree of types."""
    settings = {"_class_path": "lit_basereward.NaiveRM", "backbone": {"name_or_path": "x"}, "from_the_future": 1}
    torch.save({"hyper_parameters": settings, "state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"do not fit .*NaiveRM.*'from_the_future'.* trained with$") as refused:
        load(tmp_path / "a.ckpt", "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBA", "LA", "P", "1", "I;16", "L"])
def test_a_pillow_image_counts_as_the_file_that_it_was_read_from(mode):
    """Modes that PNG cannot hold, transparency, and an orientation in EXIF: the pixels of the opened file."""
    pixels = Image.open(io.BytesIO(random_image(56, 3).data)).resize((8, 12))
    pixels = pixels.convert("L").convert(mode) if mode == "I;16" else pixels.convert(mode)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    as_jpeg = mode in ("CMYK", "YCbCr", "L")
    pixels.save(file, "JPEG" if as_jpeg else "TIFF" if mode == "LAB" else "PNG", exif=exif)
    read = open_image(ImageRef(data=file.getvalue()), "row 1")
    given = open_image(ImageRef(data=encoded(Image.open(file))), "row 1")
    assert given.size == (12, 8) and given.tobytes() == read.tobytes()


def test_pixels_of_unknown_range_are_told(scorer):
    with pytest.raises(RowError, match=r"mode F cannot be used.*8 bits"):
        scorer.score("what is it", ["yes"], [Image.new("F", (8, 8))])
