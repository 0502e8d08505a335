"""LHM's published sizes have the listed keys; weights that do not fit are refused."""

import pytest
import torch
from lhm_cases import published_shapes
from safetensors.torch import save_file

from persona.errors import UserError
from persona.modules.lhm import published

SIZES = {
    "MINI": ("lhm_mini", 2, 20_000),
    "500M": ("lhm_500m", 5, 40_000),
    "1B": ("lhm_1b", 15, 40_000),
}


@pytest.mark.parametrize("size", SIZES)
def test_full_sizes_have_the_published_keys_parity(lhm_folder, size):
    _, layers, points = SIZES[size]
    with torch.device("meta"):
        network = published.published_network(layers)
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    body = published.body_shapes(points).items()
    ours |= {published.BODY_PREFIX + key: list(shape) for key, shape in body}
    assert ours == published_shapes(lhm_folder, f"LHM-{size}")


@pytest.fixture
def tiny_published(monkeypatch):
    """Replaces the published networks by tiny ones."""
    from persona.modules.lhm.network import LhmNetwork
    from persona.modules.lhm.transformer import BodyHeadTransformer
    from persona.modules.lhm.vit import FusedEncoder, VisionTransformer

    def network(layers):
        model = VisionTransformer(dim=16, depth=2, heads=2, table=(2, 2))
        transformer = BodyHeadTransformer(
            dim=16, heads=2, layers=layers, context_dim=24, body_tokens=9
        )
        return LhmNetwork(
            encoder=FusedEncoder(model, (0, 1), 16), transformer=transformer, dim=16,
            context_dim=24, hidden=8,
        )  # fmt: skip

    monkeypatch.setattr(published, "published_network", network)
    monkeypatch.setattr(published, "body_shapes", lambda points: {"weights": (points, 5)})
    return network


def write(folder, network, points=7):
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    state[published.BODY_PREFIX + "weights"] = torch.zeros(points, 5)
    save_file(state, str(folder / published.CHECKPOINT))
    (folder / published.SAPIENS).touch()


def test_weights_are_read_as_they_were_written(tiny_published, tmp_path):
    network = tiny_published(2)
    write(tmp_path, network)
    read = published.load_published("lhm_mini", 2, 7, tmp_path).state_dict()
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


def test_weights_of_another_size_are_refused(tiny_published, tmp_path):
    write(tmp_path, tiny_published(3))
    with pytest.raises(UserError, match=r"layers\.1\.\S+ is missing|has no place"):
        published.load_published("lhm_mini", 2, 7, tmp_path)
    with pytest.raises(UserError, match=r"weights is \[7, 5\], expected \[8, 5\]"):
        published.load_published("lhm_mini", 3, 8, tmp_path)


def test_absent_weights_are_one_line_with_licence_and_remedy(tmp_path):
    with pytest.raises(
        UserError, match=r"CC BY-NC 4\.0.*weights\.py get lhm_500m dir=DIR"
    ) as caught:
        published.load_published("lhm_500m", 5, 40_000, None)
    assert "\n" not in str(caught.value) and "3.83 GB" in str(caught.value)


def test_sapiens_tokens_are_its_features_by_rows():
    image = torch.rand(1, 3, 50, 30)
    features = torch.arange(64 * 64.0).view(1, 1, 64, 64).expand(1, 1536, 64, 64)
    seen = []
    tokens = published.SapiensTokens(lambda x: seen.append(x.shape) or (features,))(image)
    assert seen == [(1, 3, 1024, 1024)]
    assert torch.equal(tokens[0, :, 0], torch.arange(64 * 64.0)) and tokens.shape[-1] == 1536
    with pytest.raises(UserError, match="expected"):
        published.SapiensTokens(lambda x: x)(image)
