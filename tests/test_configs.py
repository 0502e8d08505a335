"""Every configuration composes, and each of its keys is an argument of the class it builds."""

import inspect
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from persona.benchmark.heads.cells import plan
from persona.runtime.options import check_options

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(p.stem for p in (CONF / "exp").glob("*.yaml"))
ABLATIONS = sorted(f"abl/{p.stem}" for p in (CONF / "exp/abl").glob("*.yaml"))
SUITES = sorted(p.stem for p in (CONF / "suite").glob("*.yaml"))
ASSETS = {
    "perception": ["data.casting.assets=x"], "lhm_small": ["data.source.casting.assets=x"],
}  # fmt: skip
"""Options without a default in an experiment: the command line must give them."""
OF_PREPROCESS = ("annotator", "clips", "detector", "fit", "gate", "generator")
NO_OPTIONS_OF_TRAIN = ("exp", "loss", "study", "suite", "sweep", "published", "variant")
INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


@cache
def composed(*overrides: str, name: str = "train") -> DictConfig:
    """Cached, as several tests read the same configuration; none may change it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=False)


def targets(node: object, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a ``_target_`` and where it is."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node[key], f"{path}.{key}")
    elif isinstance(node, ListConfig):
        for i in range(len(node)):
            yield from targets(node[i], f"{path}[{i}]")


def check(config: DictConfig) -> None:
    found = list(targets(config))
    assert found
    for path, node in found:
        parameters = inspect.signature(get_object(node._target_)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        unknown = set(node) - set(parameters) - INSTANTIATE_KEYS
        assert not unknown, f"{path}: {node._target_} takes no {sorted(unknown)}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment(experiment):
    """Each key is an argument of its class, and each value has a type that the argument takes."""
    config = composed(f"+exp={experiment}", *ASSETS.get(experiment, []))
    check(config)
    check_options(config)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_changes_something_and_gives_its_reason(ablation):
    base, changed = composed("+exp=demo"), composed(f"+exp=[demo,{ablation}]")
    check(changed)
    assert changed != base
    assert "# Claim: " in (CONF / f"exp/{ablation}.yaml").read_text()


METHODS = sorted(
    {p.stem for p in (CONF / "system").glob("*.yaml")} - {"perception", "lhm_training"}
)


@pytest.mark.parametrize("system", METHODS)
def test_the_demo_takes_every_method(system):
    """No setting of another method remains: each loss has a class, and each key is an argument."""
    config = composed("+exp=demo", f"system={system}")
    check(config)
    assert all("_target_" in loss for loss in config.system.losses.values())
    assert config.trainer.max_steps == 400


def test_the_sweep_is_of_ablations():
    """All 18 of the paper's; the sweep does not include ablations that a reader adds."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["+sweep=ablation"], return_hydra_config=True)
    jobs = config.hydra.sweeper.params["+exp"].replace(" ", "").removesuffix("]").split("],")
    assert jobs[0] == "[demo"
    swept = [job.removeprefix("[demo,") for job in jobs[1:]]
    assert len(swept) == len(set(swept)) == 18 and set(swept) <= set(ABLATIONS)


def test_the_search_moves_options_of_train():
    config = composed(name="search")
    for name in config.space:
        check(composed(*config.overrides, f"{name}=0.5"))


@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite):
    config = composed(f"suite={suite}", name="benchmark")
    assert config.suite.name == suite
    assert {"quick", "full"} <= set(config.suite.sizes)
    for figure in config.published.figures:
        assert figure.method and "arXiv:" in figure.source
        assert 5 < figure.psnr < 60 and 0 < figure.ssim < 1 and 0 < figure.lpips < 1


@pytest.mark.parametrize("size", ["quick", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [n for n in SUITES if (CONF / f"data/{n}.yaml").is_file()])
def test_every_cell_of_a_suite_composes(name, size):
    paths = [f"suite.{key}=somewhere" for key in ("path", "body") if name != "synthetic"]
    suite = composed(f"suite={name}", *paths, name="benchmark").suite
    named = suite.sizes[size].experiments.values()
    experiments = ["gaussians_lbs", "baseline", "exavatar_demo,single_image"]
    experiments += [names.replace("+", ",") for names in named]
    # Subjects and experiments change different keys, so not every pair must be composed.
    pairs = [(subject, "demo") for subject in suite.subjects.values()]
    pairs += [(next(iter(suite.subjects.values())), names) for names in experiments]
    for subject, names in pairs:
        overrides = [*suite.overrides, *subject, *suite.sizes[size].overrides]
        check(composed(f"+exp=[{names}]", *overrides))
    assert len(suite.subjects) >= 3


@pytest.mark.parametrize("size", ["quick", "full"])
def test_systems_of_the_synthetic_suite_are_of_one_size(size):
    """Equally many points for networks and equally fine triplanes, so the comparison is fair."""
    experiments = composed("suite=synthetic", name="benchmark").suite.sizes[size].experiments
    sizes = set()
    for system in ("persona", "exavatar", "gaussians_lbs"):
        names = experiments.get(system, system).replace("+", ",")
        avatar = composed(f"+exp=[{names}]").avatar
        sizes.add((avatar.levels, avatar.network_level, avatar.triplane_resolution))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_script_config(name):
    config = composed(name=name)
    assert config
    if any(targets(config)):
        check(config)


def options(group: str) -> list[str]:
    return [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]


GROUPS = {p.name for p in CONF.iterdir() if any(p.glob("*.yaml"))} - set(NO_OPTIONS_OF_TRAIN)
APART = "body", "encoder", "logger", "metric", "optimizer", "perceptual", "renderer", "trainer"
"""Groups that nothing else depends on: one option of each is composed at the same time."""


@pytest.mark.parametrize(
    "overrides",
    [[option] for group in sorted(GROUPS - set(APART)) for option in options(group)]
    + [[o for o in row if o] for row in zip_longest(*map(options, APART))],
    ids=",".join,
)
def test_group_option(overrides):
    name = "preprocess" if overrides[0].split("=")[0] in OF_PREPROCESS else "train"
    check(composed(*overrides, name=name))


@pytest.mark.parametrize("size", ["quick", pytest.param("h200", marks=pytest.mark.slow)])
def test_cells_of_heads_compose(size, tmp_path):
    """Each system comes after the one it starts from; systems for one person read its folder."""
    config = composed(f"size={size}", "people=[3]", "seeds=[0]", name="head_benchmark")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cells = {cell.system: cell for cell in plan(config, tmp_path)}
    names = list(cells)
    assert set(names) == set(config.systems)
    root = cells["perse_stage1"].train["data"]["root"]
    assert cells["pointavatar"].train["data"]["root"] == f"{root}/9999_source"
    for cell in cells.values():
        check(OmegaConf.create(cell.train))
        if (before := cell.before) is not None:
            assert names.index(before.system) < names.index(cell.system)
            start = cell.train["system"]["method"]["start"]
            assert start == str(tmp_path / "cells" / before.name / "run")
    learnt = cells["perse_lora"].train
    assert learnt["data"]["learn"] == [Path(learnt["data"]["roots"][-1]).name]
    assert learnt["avatar"]["lora"] and not cells["perse"].train["avatar"]["lora"]
    among = cells["perse_all_edits_hair"]
    assert among.train["data"]["edits"] == [*config.edits, "hair:8"]
    assert among.novel["edits"] == among.train["data"]["edits"] and among.before is None
    assert not among.train["system"]["method"]["start"]
    assert len({cell.digest for cell in cells.values()}) == len(cells)


@pytest.mark.parametrize("codes", ["features", "table"])
def test_additions_learn_also_where_codes_stay(codes):
    """The demo's codes have a rate of 0, but a new edit of it needs those of the code network."""
    config = composed("+exp=[head_demo,perse_lora]", f"avatar.codes={codes}")
    method = instantiate(config.system).method
    method.build(method.body.zero_identity())
    rates = {
        id(weight): group["lr"] for group in method.parameter_groups() for weight in group["params"]
    }
    additions = {
        name: rates[id(weight)]
        for name, weight in method.avatar.named_parameters() if ".lora" in name
    }  # fmt: skip
    assert any(name.startswith("edits.codes.") for name in additions) == (codes == "features")
    assert additions and all(additions.values())


def test_misspelt_key_is_refused():
    with pytest.raises(ConfigCompositionException, match="levles"):
        composed("avatar.levles=1")


def test_every_term_of_persona_has_its_file():
    names = {p.stem for p in (CONF / "loss").glob("*.yaml")} - {"persona", "exavatar"}
    assert set(composed().loss) <= names
    assert len(composed().loss) == 23


def test_every_term_of_exavatar_has_its_file():
    names = {p.stem for p in (CONF / "loss/exavatar").glob("*.yaml")}
    assert set(composed("+exp=exavatar").loss) == names
    assert len(names) == 16


def test_single_terms_of_exavatar_are_choices_too():
    names = sorted(p.stem for p in (CONF / "loss/exavatar").glob("*.yaml"))
    for some in (names[::2], names[1::2]):
        chosen = ",".join(f"exavatar/{name}" for name in some)
        assert set(composed(f"loss=[persona,{chosen}]").loss) == {*composed().loss, *some}
