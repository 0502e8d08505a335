"""README and docs: linked files exist, and the entry points take the commands."""

import importlib.util
import re
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from persona.commands import SCRIPTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
RESULTS = sorted(ROOT.glob("benchmarks/results/*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"(?:python|persona) ((?:train|scripts/\w+|benchmarks/\w+)(?:\.py)?.*)")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda p: p.name)
def test_links_lead_to_files(page):
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def commands():
    """Page, script and options of each command in a bash block, or between backticks.

    CONTRIBUTING.md's commands use files that the reader writes; tests/systems/test_examples.py and
    tests/data/test_data_examples.py run such files.
    """
    for page in PAGES:
        if page.name == "CONTRIBUTING.md":
            continue
        text = page.read_text()
        lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S)
                 for line in block.splitlines()]  # fmt: skip
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            found = COMMAND.search(line.split("#")[0])
            if found and "..." not in line:
                yield page.name, *shlex.split(found[1])


def config_of(script: str) -> str | None:
    """Name of the configuration that a script reads by Hydra; None if it does not use Hydra."""
    path = ROOT / (script if script.endswith(".py") else SCRIPTS[script])
    path = ROOT / "scripts/train.py" if path == ROOT / "train.py" else path
    assert path.is_file(), script
    found = re.search(r'config_name="(\w+)"', path.read_text())
    return found and found[1]


@pytest.mark.parametrize("command", sorted(set(commands())), ids=" ".join)
def test_commands_are_taken(command):
    _, script, *words = command
    name = config_of(script)
    sweep = "-m" in words or script == "scripts/sweep.py"
    overrides = [w for w in words if "=" in w and not w.startswith(("-", "hydra", "hydra/"))]
    if name is None:
        return
    if sweep:  # The first of the values between which the sweeper would choose.
        overrides = [re.sub(r"=(\[[^]]*\]|[^,\[]+),.*", r"=\1", w) for w in overrides]
    composed(name, *overrides)


@cache
def composed(name: str, *overrides: str) -> DictConfig:
    """Cached, as pages repeat commands."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides)


def choices(page: str) -> dict[str, set[str]]:
    """Names that the table of configuration groups has for each group; ``| |`` continues a row."""
    table, groups = {}, []
    for first, names in re.findall(r"^\| ([`\w, ]*) ?\| (.+?) \|", page, re.M):
        groups = re.findall(r"`(\w+)`", first) or groups
        for group in groups:
            table.setdefault(group, set()).update(re.findall(r"\w+", re.sub(r"\(.*?\)", "", names)))
    return table


def test_every_choice_of_a_group_is_on_the_page_of_parts():
    found = choices((ROOT / "docs/systems.md").read_text())
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert len(found.keys() & groups) > 20
    for group in found.keys() & groups - {"loss"}:  # The page has sets of losses, not single terms.
        assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} <= found[group], group


def test_every_extra_is_on_the_page_of_installation():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (told,) = re.findall(r"Extras: (.*?)\. The", (ROOT / "docs/install.md").read_text(), re.S)
    assert set(re.findall(r"`(\w+)`", told)) == set(extras)


SITE_LINKS = [
    ("README.md", "[p](docs/photo.md)", "[p](photo.md)"),
    ("README.md", "![r](docs/ryota.png)", "![r](ryota.png)"),
    ("README.md", "[l](docs/limits.md#licences)", "[l](limits.md#licences)"),
    ("photo.md", "[n](../benchmarks/results/photo.md)", "[n](benchmarks/results/photo.md)"),
    ("photo.md", "![s](sheets/coat.jpg)", "![s](sheets/coat.jpg)"),
    ("limits.md", "[LICENSE](../LICENSE)", "[LICENSE](LICENSE)"),
    ("benchmarks/results/speed_cpu.md", "[b](../../docs/gpus.md)", "[b](../../gpus.md)"),
    ("CHANGELOG.md", "[K](https://keepachangelog.com/en)", "[K](https://keepachangelog.com/en)"),
    ("install.md", "`a[0](b)` and [here](#there)", "`a[0](b)` and [here](#there)"),
]


@pytest.mark.parametrize(("page", "link", "in_site"), SITE_LINKS)
def test_links_of_the_repository_become_links_of_the_site(monkeypatch, page, link, in_site):
    # Only the hook's annotations of this function need MkDocs, which is an extra.
    stub = SimpleNamespace(MkDocsConfig=object, File=object, Files=object, Page=object)
    for module in ("config.defaults", "structure.files", "structure.pages"):
        monkeypatch.setitem(sys.modules, f"mkdocs.{module}", stub)
    spec = importlib.util.spec_from_file_location("hook", ROOT / "docs/hooks/repository.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    source = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hook.on_page_markdown(link, source) == in_site


def test_there_are_commands_to_try():
    assert len(set(commands())) > 30
