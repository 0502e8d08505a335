"""The small LHM: order of points, partners of points, and the untrained network."""

import pytest
import torch
from safetensors.torch import save_file

from persona.errors import UserError
from persona.modules.lhm.neighbours import GROUP, neighbour_order, partners
from persona.modules.lhm.sight import REACH_M, SIGHT_PARTS, Photo, clean_outline
from persona.modules.lhm.small import SmallLhm
from persona.modules.lhm.template import sample_points, template_on

SIZE = dict(
    dim=16, heads=2, layers=1, hidden=16, body_depth=2, head_depth=2, num_points=400, photo_px=84,
    head_px=28,
)  # fmt: skip


@pytest.fixture(scope="module")
def template(body):
    return template_on(body, sample_points(body, 400))[0]


def photo_of(template, seed=0):
    """A photo with random colours, and which points face forward and are visible."""
    generator = torch.Generator().manual_seed(seed)
    count = len(template.points)
    sight = torch.rand(1, count, sum(SIGHT_PARTS), generator=generator)
    front = (template.points[:, 2] > template.points[template.partners[:, 0], 2]).float()
    sight[..., 3], sight[..., 4], sight[..., 5] = 1.0, 2 * front - 1, front
    image = torch.rand(1, 3, 140, 84, generator=generator)
    head = torch.rand(1, 3, 28, 28, generator=generator)
    return Photo(image, head, sight), front > 0.5


def test_neighbours_follow_each_other():
    points = torch.rand(1001, 3, generator=torch.Generator().manual_seed(0))
    order = neighbour_order(points)
    assert torch.equal(order.sort().values, torch.arange(1001))

    def spread(rows):
        groups = points[rows[: 1001 // GROUP * GROUP]].unflatten(0, (-1, GROUP))
        return (groups - groups.mean(1, keepdim=True)).norm(dim=-1).mean()

    # Groups of 4 of 1000 points in a unit cube fill boxes of about a sixth of its side.
    assert spread(order) < 0.13 < 3 * spread(order) < spread(torch.arange(1001))


def test_partners_lie_on_the_other_face_and_across(body):
    """On points of an open cylinder, for which front, back and mirrored points are known."""
    angle = torch.arange(0.05, 6.28, 0.1)
    normals = torch.stack((angle.sin(), torch.zeros_like(angle), angle.cos()), 1)
    points = torch.cat([normals + torch.tensor([0.0, y, 0.0]) for y in (0.0, 1.0)])
    found = partners(points, normals.repeat(2, 1))
    for column, sign in enumerate(([1, 1, -1], [-1, 1, 1], [-1, 1, -1])):
        wanted = points * torch.tensor(sign)
        assert (points[found[:, column]] - wanted).norm(dim=1).max() < 0.12
    template, _ = template_on(body, sample_points(body, 400))
    across = template.points * torch.tensor([-1.0, 1.0, 1.0])
    assert (template.points[template.partners[:, 1]] - across).norm(dim=1).mean() < 0.05


def test_it_starts_from_the_photograph_on_the_body(template):
    """Visible points have their own colour, hidden points that of their partner in front."""
    torch.manual_seed(0)
    model = SmallLhm(**SIZE).fresh().eval()
    photo, front = photo_of(template)
    with torch.no_grad():
        made = model(photo, template)
    colour = photo.sight[0, :, :3]
    assert (made.rgb[0] - colour)[front].abs().mean() < 0.06
    before = colour[template.partners[:, 0]]
    hidden = ~front & front[template.partners[:, 0]]
    assert hidden.sum() > 50
    error = [(made.rgb[0] - of)[hidden].abs().mean() for of in (before, colour)]
    assert error[0] < 0.6 * error[1]
    assert made.opacity.min() > 0.8 and made.offset.abs().max() < 1e-3
    assert SIGHT_PARTS[-1] == 4 * len(REACH_M)


def test_no_gaussian_is_finer_than_a_quarter_of_the_points_distance(template):
    """For any output of the network; without this bound, specks of 2 mm were learnt."""
    model = SmallLhm(**SIZE).fresh().eval()
    scaling = model.network.renderer.gs_net["out_layers"]["scaling"]
    photo, _ = photo_of(template)
    found = []
    for bias in (-20.0, -4.0):
        torch.nn.init.constant_(scaling.bias, bias)
        with torch.no_grad():
            found.append(model(photo, template).scales)
    least = 0.25 * (1.8 / SIZE["num_points"]) ** 0.5
    torch.testing.assert_close(found[0], torch.full_like(found[0], least))
    assert (found[1] > least).all()


def test_a_point_between_patches_gets_the_token_there():
    model = SmallLhm(**SIZE).fresh()
    tokens = torch.randn(1, 60, 5)
    row, column = 4, 2  # Of 10 x 6 patches.
    centre = torch.tensor([[[(2 * column + 1) / 6 - 1, (2 * row + 1) / 10 - 1]]])
    found = model._tokens_at(tokens, centre, (140, 84))
    assert torch.allclose(found[0, 0], tokens[0, 6 * row + column], atol=1e-5)


def test_points_that_cannot_be_grouped_are_refused():
    with pytest.raises(UserError, match=r"model\.num_points=402: give a multiple of 16"):
        SmallLhm(**{**SIZE, "num_points": 402}).fresh()


def test_weights_of_another_size_name_the_model_to_choose(tmp_path):
    save_file(SmallLhm(**SIZE).fresh().state_dict(), tmp_path / "w.safetensors")
    other = {**SIZE, "dim": 32, "hidden": 32}
    with pytest.raises(UserError, match=r"holds a network of 16 channels.*32.*model="):
        SmallLhm(**other, weights=tmp_path / "w.safetensors").build()
    SmallLhm(**SIZE, weights=tmp_path / "w.safetensors").build()


def test_the_outline_takes_the_colour_inside_it():
    """A red person on green with mixed pixels at the outline; pixels inside do not change."""
    person = torch.zeros(300, 100, dtype=torch.bool)
    person[10:290, 30:70] = True
    red, green = torch.tensor([1.0, 0, 0])[:, None, None], torch.tensor([0, 1.0, 0])[:, None, None]
    image = torch.where(person, red, green)
    image[:, 10:290, 30] = image[:, 10:290, 69] = 0.5
    image[2, 100:200, 45:55] = 1.0
    cleaned = clean_outline(image, person.numpy())
    assert torch.equal(cleaned[:, 10:290, 30:32], red.expand(3, 280, 2))
    assert torch.equal(cleaned[:, 20:280, 35:65], image[:, 20:280, 35:65])
    thin = torch.zeros_like(person)
    thin[10:290, 50] = True
    assert torch.equal(clean_outline(image, thin.numpy()), image), "a line has no inside"
