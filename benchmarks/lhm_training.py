"""Rates and memory of LHM's training and of its networks, on the GPUs of one host.

Usage: ``python benchmarks/lhm_training.py [--parts forward rates losses large] [--tiny]``. People
are synthetic subjects, made in ``--out`` first where they are not there. Trainings are those of
train.py, in a new folder of ``--out`` for each call, and ``--out``/results.json is written after
each part:

- ``forward``: one pass of ``lhm_500m`` with random weights, as create.py runs it;
- ``rates``: samples a second of train.py on one device and on all, and how much faster people are
  drawn than trained on;
- ``losses``: the largest difference of ``trainer=ddp``'s and ``trainer=fsdp``'s losses;
- ``large``: a step of LHM-1B's size, encoders trained as well, in shards (``trainer=fsdp``).

``--limit S`` stops a part after the time that is left, and starts no other. ``--tiny`` takes small
networks on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from persona.data.io import write_json
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.subject import SyntheticSubject
from persona.modules.lhm.models import PublishedLhm
from persona.modules.lhm.sight import Photo
from persona.modules.lhm.template import sample_points, template_on
from persona.runtime.cores import available_cores

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"step \d+: ([\d.]+) s a step, (\d+) % of it waiting.*?at most ([\d.]+) GiB")
POLL_S = 0.2
LOG_WORDS = 40
"""Words of a failed training's log that are shown."""
TINY = [
    "model.dim=16", "model.heads=2", "model.layers=1", "model.hidden=16", "model.body_depth=2",
    "model.head_depth=2", "model.num_points=400", "model.photo_px=84", "model.head_px=28",
]  # fmt: skip
DDP = ["trainer=ddp", "trainer.strategy.find_unused_parameters=false"]
LARGE = [
    "model.dim=1024", "model.heads=16", "model.layers=15", "model.hidden=512",
    "model.body_depth=24", "model.head_depth=24", "model.num_points=40000", "system.recompute=true",
]  # fmt: skip


def train_config(*overrides: str) -> DictConfig:
    """Configuration of train.py."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def make_person(root: Path, tiny: bool, seed: int) -> Path:
    """A synthetic subject, made unless it is there and whole."""
    torch.set_num_threads(1)
    height, width = (64, 48) if tiny else (384, 288)
    folder = root / f"person_{width}x{height}_{seed}"
    config = SyntheticConfig(
        seed=100 + seed, num_generated=2, num_test=1, height=height, width=width
    )
    SyntheticSubject(instantiate(train_config().body), config).prepare(folder)
    return folder


class Bench:
    """What all parts share: the people, the time that is left, and the results.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.tiny, self.devices, self.out = options.tiny, options.devices, options.out
        self.end = time.monotonic() + options.limit
        self.out.mkdir(parents=True, exist_ok=True)
        # train.py refuses a folder that holds a run.
        self.runs = Path(tempfile.mkdtemp(prefix="runs_", dir=self.out)).resolve()
        count = 2 if self.tiny else 8
        started = time.monotonic()
        with ProcessPoolExecutor(min(count, available_cores())) as pool:
            made = list(pool.map(partial(make_person, self.out, self.tiny), range(count)))
        self.roots = ",".join(str(folder.resolve()) for folder in made)
        # Minutes where kernels have to be compiled first, by each process.
        self.results: dict[str, object] = {"people: seconds": time.monotonic() - started}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def train(self, name: str, devices: int, steps: int, *options: str) -> subprocess.Popen:
        """Starts a training whose run folder has a name."""
        workers = 0 if self.tiny else max(1, min(12, available_cores() // max(devices, 1) - 2))
        sizes = TINY if self.tiny else []
        every = [
            "+exp=lhm_small", "model=lhm_tiny", "data=lhm_subjects",
            f"data.source.roots=[{self.roots}]",
            f"data.workers={workers}", "data.first=8", "data.ring=64", "check_people=0",
            "test_people=1", "checkpoint_every=100000", f"trainer.max_steps={steps}",
            f"trainer.devices={devices}", "trainer.enable_progress_bar=false", "logger=none",
            f"trainer.accelerator={'cpu' if self.tiny else 'gpu'}", *sizes, *options,
            f"hydra.run.dir={self.runs / name}",
        ]  # fmt: skip
        with (self.runs / f"{name}.txt").open("w") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *every],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(
        self, processes: list[subprocess.Popen], enough: Callable[[], bool]
    ) -> list[int | None]:
        """Waits until all ended, one failed, there was enough or time is over; then ends all.

        Returns:
            Their return codes; None for those that are ended here.
        """
        try:
            while True:
                codes = [process.poll() for process in processes]
                if None not in codes or any(codes) or enough() or self.left < 0:
                    return codes
                time.sleep(POLL_S)
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def last_line(self, count: int, name: str, devices: int, *options: str) -> list[float] | str:
        """Seconds a step, share of waiting in per cent, and GiB by a training's ``count``-th line.

        What went wrong where it failed or time was over before. The training is ended there.
        """

        def lines() -> list[tuple[str, str, str]]:
            # A console breaks long lines.
            return LINE.findall(" ".join((self.runs / f"{name}.txt").read_text().split()))

        process = self.train(name, devices, 10_000, *options)
        # Every process prints its own.
        (code,) = self.wait([process], lambda: len(lines()) >= count * devices)
        found = lines()
        enough = not code and len(found) >= count * devices
        return [float(value) for value in found[-1]] if enough else self.failure(name, code)

    def failure(self, name: str, code: int | None) -> str:
        """How a training ended, and the end of its log.

        Args:
            name: Of its run folder.
            code: Its return code; None if ``wait`` ended it.
        """
        log = (self.runs / f"{name}.txt").read_text().split()
        ending = f"ended with {code}"
        if code is None:
            ending = "stopped, since another failed" if self.left > 0 else "no time left"
        return f"failed: {ending}; {' '.join(log[-LOG_WORDS:])}"

    def forward(self) -> None:
        """See the module."""
        sizes = {"lhm_tiny_published": (1, 400)} if self.tiny else {"lhm_500m": (5, 40_000)}
        for name, (layers, points) in sizes.items():
            self.results[f"forward {name}"] = one_pass(name, layers, points, self.tiny)

    def rates(self) -> None:
        """See the module."""
        batch, every = (2, 1) if self.tiny else (8, 5)
        found: dict[int, float] = {}
        for devices in sorted({1, self.devices}):
            options = [f"trainer.log_every_n_steps={every}", f"data.batch_size={batch}"]
            if devices > 1:
                options += DDP
            line = self.last_line(3, f"rate_{devices}", devices, *options)
            if isinstance(line, str):
                self.results[f"rate {devices}"] = line
                continue
            seconds, waited, gib = line
            found[devices] = batch * devices / max(seconds, 1e-3)
            # Whole per cent are printed.
            share = max(waited, 0.5) / 100
            self.results[f"rate {devices}"] = {
                "samples_per_s": found[devices], "s_per_step": seconds, "gib": gib,
                "drawn_over_trained": (1 - share) / share,
            }  # fmt: skip
        if len(found) == 2:
            self.results["speed-up"] = found[self.devices] / found[1]

    def losses(self) -> None:
        """See the module."""
        # Without a warm-up, so that the weights move.
        exact = ["data.fresh=1", "trainer.precision=32", "trainer.log_every_n_steps=1"]
        exact += ["system.warmup=1", "system.lr=1e-3"]
        small = ["data.batch_size=2", "data.workers=0" if self.tiny else "data.workers=2"]
        kinds = {"ddp": DDP, "fsdp": ["trainer=fsdp"]}
        runs = [self.train(k, self.devices, 8, *own, *exact, *small) for k, own in kinds.items()]
        codes = self.wait(runs, lambda: False)
        if any(code != 0 for code in codes):
            ends = (self.failure(*pair) for pair in zip(kinds, codes, strict=True))
            self.results["losses"] = "; ".join(ends)
            return
        one, other = (losses_of(self.runs / kind) for kind in kinds)
        worst = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(one, other, strict=True))
        self.results["losses"] = {"largest relative difference": worst, "values": len(one)}

    def large(self) -> None:
        """See the module."""
        options = ["trainer=fsdp", "data.batch_size=1", "data.views=2"]
        options += ["trainer.log_every_n_steps=1", *([] if self.tiny else LARGE)]
        line = self.last_line(2, "large", self.devices, *options)
        names = ("s_per_step", "waiting, %", "gib")
        self.results["large"] = (
            line if isinstance(line, str) else dict(zip(names, line, strict=True))
        )


def losses_of(folder: Path) -> list[float]:
    """All logged terms of a run, in the order of the steps."""
    with next(folder.rglob("metrics.csv")).open() as file:
        return [
            float(value)
            for row in csv.DictReader(file)
            for key, value in row.items()
            if key.startswith("train/loss/") and value
        ]


@torch.no_grad()
def one_pass(name: str, layers: int, points: int, tiny: bool) -> dict[str, float]:
    """Seconds and memory of a pass with random weights, the median of five."""
    device = torch.device("cpu" if tiny else "cuda")
    body = instantiate(train_config().body)
    template = template_on(body, sample_points(body, points))[0].to(device)
    if tiny:
        settings = instantiate(train_config("system=lhm", "model.random=true", *TINY).model)
    else:
        settings = PublishedLhm(name=name, layers=layers, num_points=points, random=True)
    with device:
        model = settings.build()
    width = settings.photo_px // 14 * 14
    image = torch.rand(1, 3, int(settings.photo_px * 5 / 3) // 14 * 14, width, device=device)
    head = torch.rand(1, 3, settings.head_px, settings.head_px, device=device)
    photo = Photo(image, head, torch.rand(1, points, 24 if settings.sees else 0, device=device))
    seconds = []
    for _ in range(1 if tiny else 6):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=not tiny):
            model(photo, template)
        if not tiny:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = 0.0 if tiny else torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": sorted(seconds)[len(seconds) // 2 - 1], "first": seconds[0], "gib": memory}


def main() -> None:
    """Measures the parts, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["forward", "rates", "losses", "large"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--out", type=Path, default=Path("outputs/lhm_training"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bench = Bench(options)
    table = Table("measured", "value")
    for part in options.parts:
        started = time.monotonic()
        if bench.left > 1:
            getattr(bench, part)()
            bench.results[f"{part}: seconds"] = time.monotonic() - started
            write_json(bench.out / "results.json", bench.results, indent=2)
    for name, value in bench.results.items():
        table.add_row(name, json.dumps(value))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
