"""An ensemble behind the server."""

from __future__ import annotations

import base64
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from server_runs import running

from lit_basereward import EnsembleRM, NaiveRM, Scorer
from lit_basereward.data.routing import Route, When
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead
from lit_basereward.testing import random_image

QUIET = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def test_groups_with_and_without_images(backbone_folder, tmp_path):
    """Rewards are those of ``Scorer.score``; a group with an image goes to the member that sees; a response with too
    many tokens of both members together is refused."""
    members = {}
    for name, family in (("seeing", "qwen2_5_vl"), ("text", "qwen2")):
        torch.manual_seed(0)
        module = NaiveRM(Backbone(backbone_folder(family), max_length=256), head=partial(MLPHead, num_layers=1))
        module.configure_model()
        torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
        trainer = pl.Trainer(**QUIET)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        members[name] = str(tmp_path / f"{name}.ckpt")
    scorer = Scorer(EnsembleRM(members, routes=[Route(["seeing"], When(modality="image"))]), "cpu")
    answers, image = ["yes", "no it is not"], random_image(56, 3).data
    with running(scorer) as api:
        for images in ([], [image]):
            encoded = [base64.b64encode(each).decode() for each in images]
            reply = api.request("/v1/score", {"prompt": "is it red", "responses": answers, "images": encoded})
            assert reply.status == 200, reply.json
            assert reply.json["rewards"] == pytest.approx(scorer.score("is it red", answers, images).tolist(), abs=1e-5)
            item = scorer.collator.prepare(0, scorer.row("is it red", answers, images))
            assert (reply.json["prompt_tokens"], reply.json["tokens"]) == (len(item.prefix), item.lengths)
    tokens = scorer.collator.num_tokens(scorer.collator.prepare(0, scorer.row("is it red", answers[:1])))
    for most, status in ((tokens, 200), (tokens - 1, 422)):
        with running(scorer, max_tokens=most) as api:
            assert api.request("/v1/score", {"prompt": "is it red", "responses": answers[:1]}).status == status
