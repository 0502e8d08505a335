"""Checks the options of a run against the signatures of the ``_target_`` that receive them."""

from __future__ import annotations

import collections.abc
import copy
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from persona.data.numbers import whole_number
from persona.errors import UserError

MAX_SEED = 2**32 - 1
"""NumPy's largest seed."""
SHARDS = "lightning.pytorch.strategies.ModelParallelStrategy"
LONGEST_NAME = 180
"""Most bytes in a subject's name: file systems allow 255, and other folders append to the name."""

_WORDS: dict[object, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path",
    type(None): "null",
}  # fmt: skip


def check_options(config: DictConfig) -> None:
    """Refuses impossible values in a run's configuration before any work is done.

    Raises:
        UserError: names the first.
    """
    whole_number("seed", config.seed, low=0, high=MAX_SEED)
    whole_number("checkpoint_every", config.checkpoint_every, low=1)
    for name, low in (("num_images", 1), ("turntable_frames", 0), ("turntable_height", 1)):
        whole_number(f"pictures.{name}", config.pictures[name], low=low)
    _check_shards(config)
    for path, node in _targets(config, ""):
        for key, hint in _hints(node._target_).items():
            for name, value, kind in _values(key, node[key], hint) if key in node else ():
                if not _fits(value, kind):
                    wanted = " or ".join(_WORDS[k] for k in _kinds(kind))
                    raise UserError(f"{path}{name}={value}: takes {wanted}")


def _check_shards(config: DictConfig) -> None:
    """Refuses weights in shards where the system or the number of devices does not allow them."""
    strategy = config.trainer.get("strategy")
    if not isinstance(strategy, DictConfig) or strategy._target_ != SHARDS:
        return
    system = get_object(config.system._target_)
    if getattr(system, "configure_model", None) in (None, L.LightningModule.configure_model):
        raise UserError(
            f"trainer=fsdp: {system.__name__} does not train in shards; take trainer=ddp"
        )
    whole_number("trainer.devices", config.trainer.devices, low=1)


def with_absolute_paths(config: DictConfig) -> DictConfig:
    """The configuration with its paths made absolute: a run can then be resumed from any folder."""
    config = copy.deepcopy(config)
    config.subjects_dir = str(Path(config.subjects_dir).absolute())
    for _, node in _targets(config, ""):
        for key, hint in _hints(node._target_).items():
            if Path in _kinds(hint) and isinstance(node.get(key), str):
                node[key] = str(Path(node[key]).absolute())
    return config


def folder_name(name: object) -> str:
    """Checks a name that was given as an option and becomes a folder's name.

    Raises:
        UserError: no folder can be called so.
    """
    text = "" if name is None else str(name)
    if len(text.encode()) > LONGEST_NAME:
        raise UserError(
            f"name={text[:20]}... is too long to be a folder's name; use up to {LONGEST_NAME} "
            "letters and digits (letters beyond a to z count as two to four)"
        )
    if text in ("", ".", "..") or Path(text).name != text:
        raise UserError(f"name={name} cannot be a folder's name; use letters and digits")
    return text


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as dictionaries and lists, its interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_digest(parts: list[Any]) -> str:
    """Hash of plain settings, whatever the order of their keys; names what was made with them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _targets(node: object, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node that builds something, and where it is."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            yield from _targets(node[key], f"{path}{key!s}.")


def _hints(target: str) -> dict[str, object]:
    """Types of a target's arguments; empty where they cannot be found out."""
    made = get_object(target)
    try:
        return typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError, AttributeError):
        return {}


def _values(key: str, value: object, hint: object) -> Iterator[tuple[str, object, object]]:
    """Name, value and type of an option, or of each entry of a mapping."""
    if typing.get_origin(hint) is collections.abc.Mapping and isinstance(value, DictConfig):
        kind = typing.get_args(hint)[1]
        yield from ((f"{key}.{entry!s}", value[entry], kind) for entry in value)
    else:
        yield key, value, hint


def _kinds(hint: object) -> tuple[object, ...]:
    """The members of a union, or the type itself."""
    united = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if united else (hint,)


def _fits(value: object, hint: object) -> bool:
    """Whether a plain value is of a plain type; anything that is not plain passes unchecked."""
    kinds = _kinds(hint)
    if isinstance(value, DictConfig | ListConfig) or any(kind not in _WORDS for kind in kinds):
        return True
    if str in kinds or Path in kinds:
        return value is not None or type(None) in kinds  # A number is a valid name.
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return True
    return type(value) in kinds


def experiment_of(system: str, experiments: DictConfig) -> list[str]:
    """The experiment that a system's name stands for, ``NAME`` or ``NAME+DELTA``.

    The size's own table first, then ``conf/exp/NAME.yaml``, then ``conf/system/NAME.yaml`` in the
    experiment ``baseline``: a new system needs nothing but its own file. Each DELTA is one more
    experiment on top: ``exavatar+single_image``, ``persona+abl/no_seam``.

    Raises:
        UserError: there is none of that name.
    """
    loader = GlobalHydra.instance().config_loader()
    known = {group: loader.get_group_options(group) for group in ("exp", "system")}
    system, *added = system.split("+")
    name, *deltas = [*str(experiments.get(system, system)).split("+"), *added]
    for delta in deltas:
        folder, _, file = f"exp/{delta}".rpartition("/")
        if file not in loader.get_group_options(folder):
            raise UserError(f"conf/exp/{delta}.yaml: there is none to add to {name}")
    if name in known["exp"]:
        chosen, made = name, []
    elif name in known["system"]:
        chosen, made = "baseline", [f"system={name}"]
    else:
        have = ", ".join(sorted({*experiments, *known["exp"], *known["system"]}))
        raise UserError(
            f"conf/exp/{name}.yaml, conf/system/{name}.yaml: there is neither; choose of {have}, "
            "or predictions:DIR"
        )
    return [f"+exp=[{','.join([chosen, *deltas])}]" if deltas else f"+exp={chosen}", *made]
