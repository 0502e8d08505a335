"""Recall and precision of the alignment gate on planted faults: ``python benchmarks/gate.py``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="gate_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves tables, contact sheets and report.md; see conf/gate_benchmark.yaml."""
    from persona.benchmark.gate.run import run_gate_benchmark

    print(f"report: {run_gate_benchmark(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
