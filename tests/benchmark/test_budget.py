"""The error budget: ceilings from the truth, regions, and a whole report of a tiny suite."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from persona.benchmark.budget import budget_plan, run_budget, with_regions
from persona.benchmark.ceilings import CEILINGS, Truth
from persona.benchmark.regions import REGIONS, region_masks, region_scores
from persona.benchmark.runner import run_cells
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import Scene
from persona.errors import UserError
from persona.modules.metrics.protocol import protocol_metrics
from tests_root import ROOT

TINY = [
    "suite=synthetic", "size=quick", "subjects=[tunic]", "jobs=0", "suite.lpips_net=[]",
    "ceilings=true", "steps.quick=2",
]  # fmt: skip
