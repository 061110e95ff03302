"""Train, evaluate and use multimodal reward models, after BaseReward (arXiv 2509.16127)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_basereward.data.datamodule import PreferenceDataModule
    from lit_basereward.data.sources.base import Source
    from lit_basereward.data.types import Preference
    from lit_basereward.losses import RankingLoss, Regularizer
    from lit_basereward.modules.base import RewardModule
    from lit_basereward.modules.critic import CriticRM
    from lit_basereward.modules.ensemble import EnsembleRM
    from lit_basereward.modules.generative import GenerativeRM
    from lit_basereward.modules.naive import NaiveRM
    from lit_basereward.nn.backbone import Backbone
    from lit_basereward.nn.heads import RewardHead
    from lit_basereward.scorer import Scorer, load

__version__ = "0.1.0"

_HOME = {
    "Backbone": "nn.backbone",
    "CriticRM": "modules.critic",
    "EnsembleRM": "modules.ensemble",
    "GenerativeRM": "modules.generative",
    "NaiveRM": "modules.naive",
    "Preference": "data.types",
    "PreferenceDataModule": "data.datamodule",
    "RankingLoss": "losses",
    "Regularizer": "losses",
    "RewardHead": "nn.heads",
    "RewardModule": "modules.base",
    "Scorer": "scorer",
    "Source": "data.sources.base",
    "load": "scorer",
}
__all__ = [
    "Backbone", "CriticRM", "EnsembleRM", "GenerativeRM", "NaiveRM", "Preference", "PreferenceDataModule",
    "RankingLoss", "Regularizer", "RewardHead", "RewardModule", "Scorer", "Source", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first asked for, so that ``--help`` does not wait for all of them."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
