"""The network's weights: shipped in half precision, read strictly."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from persona.errors import UserError
from persona.modules.perception.network import PerceptionNet

_REMEDY = "train them by `python train.py +exp=perception`, or leave weights out"
SHIPPED = Path(__file__).parent / "assets" / "perception.safetensors"


def load_net(path: str | Path | None = None) -> PerceptionNet:
    """The network with its weights, ready to read; in single precision.

    Args:
        path: A file that ``+exp=perception`` wrote; None is the shipped one.

    Raises:
        UserError: no such file, or not this network's weights.
    """
    file = SHIPPED if path is None else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such weights; {_REMEDY}")
    try:
        state = load_file(str(file))
    except SafetensorError as error:
        raise UserError(f"{file}: not a safetensors file ({error}); {_REMEDY}") from error
    net = PerceptionNet()
    expected = net.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        k for k in expected if expected[k].shape != state[k].shape
    ]
    if wrong:
        raise UserError(f"{file}: weights of another network ({wrong[0]} differs); {_REMEDY}")
    net.load_state_dict({k: v.float() for k, v in state.items()})
    return net.eval().requires_grad_(False)
