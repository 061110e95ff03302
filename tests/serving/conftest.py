"""One server for all its tests, with a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from server_runs import Running, running

from lit_basereward import NaiveRM, Scorer
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead
from lit_basereward.serving.app import Limits


@pytest.fixture(scope="session")
def scorer(backbone_folder: Callable[[str], str]) -> Scorer:
    torch.manual_seed(0)
    module = NaiveRM(
        Backbone(backbone_folder("qwen2_5_vl"), max_length=256),
        head=partial(MLPHead, num_layers=1),
        score_too_long="cut",
    )
    module.configure_model()
    assert module.model is not None
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    module.calibration = Calibration.fit(torch.tensor([2.0, 2.0, -1.0]), torch.tensor([-1.0, 0.5, 2.0]))
    return Scorer(module, "cpu")


@pytest.fixture(scope="session")
def api(scorer: Scorer) -> Iterator[Running]:
    with running(scorer, Limits(max_body=200_000)) as own:
        yield own
