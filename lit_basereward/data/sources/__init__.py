"""Corpora, one a file."""

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.columns import TableSource
from lit_basereward.data.sources.corpus import CorpusSource
from lit_basereward.data.sources.helpsteer3 import HelpSteer3
from lit_basereward.data.sources.hh_rlhf import HHRLHF
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.sources.judged import JudgedRows
from lit_basereward.data.sources.llava_critic import LLaVACritic
from lit_basereward.data.sources.llava_rlhf import LLaVARLHF
from lit_basereward.data.sources.mm_rlhf import MMRLHFPairs, MMRLHFRankings
from lit_basereward.data.sources.mmif import MMIF
from lit_basereward.data.sources.mmpr import MMPR, MMPRFile
from lit_basereward.data.sources.parquet import ParquetSource
from lit_basereward.data.sources.povid import POVID
from lit_basereward.data.sources.r1_reward import R1RewardRL
from lit_basereward.data.sources.rlaif_v import RLAIFV
from lit_basereward.data.sources.rlhf_v import RLHFV
from lit_basereward.data.sources.shp import SHP
from lit_basereward.data.sources.swe_arena import SWEArena
from lit_basereward.data.sources.ultrafeedback import UltraFeedback
from lit_basereward.data.sources.vlfeedback import VLFeedback
from lit_basereward.data.sources.wildvision import WildVisionBattle

__all__ = [
    "HHRLHF",
    "MMIF",
    "MMPR",
    "POVID",
    "RLAIFV",
    "RLHFV",
    "SHP",
    "BlankImages",
    "CorpusSource",
    "HelpSteer3",
    "JSONLSource",
    "JudgedRows",
    "LLaVACritic",
    "LLaVARLHF",
    "MMPRFile",
    "MMRLHFPairs",
    "MMRLHFRankings",
    "ParquetSource",
    "R1RewardRL",
    "SWEArena",
    "Source",
    "TableSource",
    "UltraFeedback",
    "VLFeedback",
    "WildVisionBattle",
]
