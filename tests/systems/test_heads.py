"""PointAvatar, PEGASUS and PERSE train on a tiny head, grow, and load again."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import lightning
import pytest
import torch
from host_tensors import watch_steps
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_heads import FRAMES, NAMES, SIDE, TinyHead, TinyHeads

from persona.benchmark.heads.novel import measure_new_edit
from persona.commands.edit import edit, interpolate
from persona.commands.pictures import to_uint8
from persona.data.datamodule import FrameLoader
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.head.lora import lora_state, without_additions
from persona.modules.losses.head_image import HeadImage
from persona.runtime.step_graph import StepGraph
from persona.types import Render, View

CONF = Path(__file__).parents[2] / "conf"
SMALL = {
    "pointavatar": ["avatar.shading_width=16", "avatar.width=64"],
    "pegasus": [
        "avatar.shading_width=16", "avatar.width=64", "avatar.code=3",
        "avatar.categories=[hair,hat]", "avatar.source=[hair]",
    ],
    "perse": [
        "avatar.width=64", "avatar.code=3", "avatar.categories=[hair,hat]", "avatar.source=[hair]",
        "avatar.code_width=16", "avatar.pose_width=16", "avatar.features=32", "encoder.size=32",
        "avatar.largest=0.05",
    ],
}  # fmt: skip
STEPS = {"pointavatar": 9, "pegasus": 9, "perse": 24}


def config(system, *overrides, lora=False):
    names = [
        f"+exp=[demo{',perse_lora' if lora else ''}]", f"system={system}",
        "renderer=cpu", "metric.lpips_net=null",
        "avatar.deformer_width=16", "avatar.rates.avatar=6e-3",
        "avatar.start_points=60", "avatar.epoch_steps=4",
        *SMALL[system], *overrides,
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", names)
    composed.body = {"_target_": "tiny_heads.TinyHead"}
    return OmegaConf.to_container(composed.system, resolve=True)


GROWTH = {
    "pointavatar": ["density.every=1", "density.max_points=250"],
    "pegasus": ["density.every=1", "density.max_points=150", "avatar.own=true"],
    "perse": [
        "density.every=1",
        "density.counts=[[1,100],[2,150]]",
        "density.least_opacity=0.3",
        "avatar.own=true",
    ],
}


def fitted(
    system, steps, *overrides, folder=None, lora=False, people=2, learn=None, accelerator="cpu"
):
    """A system after some training steps, its trainer and its data."""
    lightning.seed_everything(0, verbose=False)
    fit = instantiate(config(system, *GROWTH[system], *overrides, lora=lora))
    data = TinyHeads(TinyHead(), people=1 if system == "pointavatar" else people, learn=learn)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator=accelerator, devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, inference_mode=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(fit, datamodule=data)
    return fit, trainer, data


def error(fit, data):
    """Mean squared error over the training frames, on white."""
    with torch.no_grad():
        values = []
        for row in range(len(data.train_frames)):
            frame = data.train_frames[[row]]
            posed = fit.avatar(fit.table(frame.index[0]), frame.view)
            rgb, alpha = fit.method.render_posed(posed, frame.camera[0], fit.assets)["points"]
            values.append((rgb + 1 - alpha - frame.image[0]).square().mean())
        return float(torch.stack(values).mean())


@pytest.mark.parametrize(
    "system",
    [pytest.param(s, marks=pytest.mark.slow) if s == "pegasus" else s for s in SMALL],
)
def test_a_head_trains_grows_and_loads(system, tmp_path, monkeypatch):
    start, _, data = fitted(system, 1)
    host = watch_steps(monkeypatch)
    fit, trainer, _ = fitted(system, STEPS[system], folder=tmp_path)
    assert host.files == set()
    avatar = fit.avatar
    assert error(fit, data) < 0.92 * error(start, data)
    # Points grew twice, and the optimiser's state has grown with them.
    assert len(avatar.points) > 60 and float(avatar.radius) < float(start.avatar.radius)
    state = trainer.optimizers[0].state[avatar.points]
    assert state["exp_avg"].shape == avatar.points.shape
    assert float(state["step"]) == STEPS[system]
    if avatar.own is not None:
        assert len(avatar.own) == len(avatar.points)
        assert avatar.own.abs().amin(0).max() > 0, "points learnt nothing of their own"
    assert (fit.table.expression != start.table.expression).any(), "poses were not trained"
    if system != "pointavatar":
        moved = avatar.edits.slots.source - start.avatar.edits.slots.source
        assert moved.abs().min() > 0, "tables were not trained"
        latents = [avatar.edits(torch.tensor(i)).latent for i in range(2)]
        assert torch.equal(latents[0], avatar.edits.as_photographed().latent)
        assert not torch.equal(*latents)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = instantiate(config(system, *GROWTH[system]))
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert again.method.people == tuple(NAMES[: len(data.subjects)])
    pose = fit.table(torch.tensor(0))
    camera = data.train_frames[[0]].camera[0]
    with torch.no_grad():
        for one, other in zip(*(f.render(pose, camera) for f in (fit, again)), strict=True):
            assert torch.equal(one, other)


def test_points_stay_in_the_last_steps():
    """Without ``rest`` they would change after each epoch of four steps, also after the last."""
    fit, _, _ = fitted("perse", 12, "system.schedule.rest=0.5")
    assert fit.density.rests_after == 6 and len(fit.avatar.points) == 100


class OneFrame(TinyHeads):
    """Every step sees the same frame, so the order of frames after a resume does not matter."""

    def train_dataloader(self):
        return FrameLoader(self.train_frames, [[len(self.train_frames) - 1]] * 6)


class StopsAt(lightning.Callback):
    """Ends a training after a step, before its last one."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.slow
def test_a_training_that_is_gone_on_with_changes_points_as_an_unbroken_one(tmp_path):
    """It is stopped within an epoch; later the points change once more and then stay."""

    def trained(callbacks=(), start=None):
        lightning.seed_everything(0, verbose=False)
        fit = instantiate(config("perse", *GROWTH["perse"]))
        trainer = lightning.Trainer(
            max_steps=12, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            callbacks=list(callbacks), default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(fit, datamodule=OneFrame(TinyHead()), ckpt_path=start, weights_only=True)
        return fit, trainer

    whole, _ = trained()
    part, trainer = trained([StopsAt(6)])
    assert trainer.global_step == 6 and part.density.seen is not None
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    resumed, trainer = trained(start=tmp_path / "part.ckpt")
    assert trainer.global_step == 12 and len(resumed.avatar.points) > len(part.avatar.points)
    states = whole.avatar.state_dict(), resumed.avatar.state_dict()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_steps_of_perse_equal_plain_ones(monkeypatch):
    """Points change twice, and each time the steps are captured again."""
    captured = []
    begin = StepGraph.__init__
    monkeypatch.setattr(StepGraph, "__init__", lambda *a, **k: captured.append(begin(*a, **k)))
    graph, plain, again = (
        fitted("perse", 11, "renderer=auto", "system.schedule.rest=0.2",
               f"system.cuda_graph={graph}", accelerator="gpu")[0]
        for graph in (True, False, False)
    )  # fmt: skip
    # One capture for the first points and one after each of the two changes.
    assert len(captured) == 3
    points = [fit.avatar.points.detach() for fit in (graph, plain, again)]
    assert len(points[0]) == len(points[1]) > 60
    found, noise = ((p - points[1]).abs().mean() for p in (points[0], points[2]))
    assert found < 3 * noise + 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_steps_of_additions_that_are_apart_equal_plain_ones(tmp_path, monkeypatch):
    captured = []
    begin = StepGraph.__init__
    monkeypatch.setattr(StepGraph, "__init__", lambda *a, **k: captured.append(begin(*a, **k)))
    _, trainer, _ = fitted("perse", 2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    graph, plain, again = (
        fitted("perse", 6, "renderer=auto", f"system.method.start={tmp_path}",
               "density.every=1000", "avatar.lora_apart=true", f"system.cuda_graph={graph}",
               lora=True, people=3, accelerator="gpu")[0]
        for graph in (True, False, False)
    )  # fmt: skip
    assert captured
    learnt = [
        torch.cat([value.flatten() for value in lora_state(fit.avatar).values()])
        for fit in (graph, plain, again)
    ]
    found, noise = ((value - learnt[1]).abs().mean() for value in (learnt[0], learnt[2]))
    assert found < 3 * noise + 1e-5


@pytest.mark.slow
def test_edits_of_a_run_are_drawn_and_interpolated(tmp_path):
    fit, trainer, data = fitted("perse", 3, folder=tmp_path)
    run = tmp_path / "run"
    trainer.save_checkpoint(run / "last.ckpt")
    head = {"_target_": "tiny_heads.TinyHead"}
    OmegaConf.save(
        {"system": config("perse", *GROWTH["perse"]), "trainer": {},
         "data": {"_target_": "tiny_heads.TinyHeads", "body": head}},
        run / "config.yaml",
    )  # fmt: skip
    options = OmegaConf.create({"run": str(run), "frame": 0, "device": "cpu"})
    strengths = {"edits": None, "mix": None, "strengths": [0.0, 1.0]}
    sheet = cv2.imread(str(edit(OmegaConf.merge(options, strengths), tmp_path)))
    # One edit at two strengths, with margins of 28 pixels for names.
    assert sheet.shape == (SIDE + 28, 2 * SIDE + 28, 3)
    pair = {"start": NAMES[0], "end": NAMES[1], "num_images": 3, "lpips_net": "alex"}
    interpolate(OmegaConf.merge(options, pair), tmp_path)
    first, last = (cv2.imread(str(tmp_path / f"{i}.png")) for i in (0, 2))
    assert (first == sheet[28:, 28 : 28 + SIDE]).all() and (last == sheet[28:, 28 + SIDE :]).all()
    with torch.no_grad():
        seen = fit.table(torch.tensor(0)), data.train_frames[[0]].camera[0]
        color, alpha = fit.render(*seen, view=View(subject=torch.tensor(1)))
    assert (to_uint8(color + 1 - alpha)[..., ::-1] == last).all()
    words = NAMES[1].split("_", 2)[2]
    mixed = OmegaConf.merge(options, strengths, {"mix": {"hat": words}})
    assert (cv2.imread(str(edit(mixed, tmp_path)))[28:, 28:] == sheet[28:, 28:]).all()
    for wrong, message in (
        (
            {"mix": {"beard": "full"}},
            r"attribute beard has no edit in the run: it has edits of hat",
        ),
        ({"mix": {"hat": "tall"}}, r"hat=tall: no edit of this name; choose 0001_hat"),
        ({"edits": ["hat_blue"]}, r"hat_blue is no edit of the run: choose of 9999_source, 0001"),
        ({"edits": [NAMES[0]]}, r"the person as photographed is no edit"),
        ({"strengths": [2]}, r"strengths=2: give a number at least 0, at most 1"),
        ({"strengths": []}, r"strengths=\[\]: give shares"),
    ):
        with pytest.raises(UserError, match=message):
            edit(OmegaConf.merge(options, strengths, wrong), tmp_path)
    for wrong, message in (
        ({"num_images": 1}, r"num_images=1: give a whole number at least 3"),
        ({"start": "hat_blue"}, r"hat_blue is no edit of .*: choose of 9999_source, 0001_hat"),
        ({"end": NAMES[0]}, r"give two edits of one attribute"),
        ({"frame": 99}, r"frame=99: the run has frames 0 to 5"),
    ):
        with pytest.raises(UserError, match=message):
            interpolate(OmegaConf.merge(options, pair, wrong), tmp_path)


def test_points_and_colours_follow_the_root(tmp_path):
    """Turning the root turns the points and the Gaussians."""
    fit, _, _ = fitted("perse", 1)
    pose = fit.table(torch.tensor(0))
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    rotations = pose.rotations.clone()
    rotations[0] = turn @ rotations[0]
    turned = type(pose)(rotations, pose.expression, pose.trans)
    with torch.no_grad():
        one, other = fit.avatar(pose), fit.avatar(turned)
    posed = fit.avatar.template.pose(pose.rotations, pose.expression, one.who.betas)
    joint = posed.root / fit.avatar.template.scale
    moved = (one.points.means - pose.trans - joint) @ turn.T + joint + pose.trans
    assert torch.allclose(moved, other.points.means, atol=1e-5)
    assert torch.equal(one.drawn.rgb, other.drawn.rgb)


@pytest.mark.parametrize("seeded", [False, True])
def test_what_is_drawn_before_training_does_not_depend_on_a_test(seeded):
    """Lightning's DDP seeds at each test and at each training; one process goes on."""
    lightning.seed_everything(0, verbose=False)
    fit = instantiate(config("pointavatar"))
    fit.trainer = SimpleNamespace(datamodule=TinyHeads(TinyHead(), people=1))
    drawn = []
    fit.method.see_frames = lambda *_: drawn.append(torch.rand(4))
    fit.setup("test")
    expected = torch.rand(4)
    if seeded:
        lightning.seed_everything(0, verbose=False)
    fit.setup("fit")
    fit.setup("fit")
    assert torch.equal(drawn[0], expected)
    assert not torch.equal(drawn[1], expected), "a second training goes on from the first"


def test_edits_that_are_not_attributes_are_named():
    fit = instantiate(config("pegasus"))
    fit.method.people = ("9999_source", "0001_wings_large")
    fit.method.build(TinyHead().zero_identity())
    _, edit = TinyHeads(TinyHead()).subjects
    edit.name = "0001_wings_large"
    with pytest.raises(UserError, match=r"attribute wings is unknown: choose of source, hair, hat"):
        fit.method.initialise(edit)


@pytest.mark.parametrize(
    ("system", "override", "message"),
    [
        ("perse", "avatar.features=30", r"avatar.features=30: the encoder gives 32"),
        ("perse", "system.method.background=plaid", r"background=plaid is unknown"),
        ("perse", "system.method.believed=nowhere", r"believed=nowhere is unknown"),
        ("perse", "avatar.outline_colors=1.0", r"outline_colors=1.0: .* set avatar.outline_steps"),
        ("perse", "system.schedule.rest=1.0", r"system.schedule.rest=1.0: give a share"),
    ],
)
def test_wrong_options_of_heads(system, override, message):
    with pytest.raises(Exception, match=message) as caught:
        instantiate(config(system, override))
    assert isinstance(caught.value.__cause__ or caught.value, UserError)


def test_additions_that_are_apart_need_a_run_to_start_from():
    with pytest.raises(Exception, match=r"lora_apart=true: .* set system.method.start=RUN"):
        instantiate(config("perse", "avatar.lora_apart=true", lora=True))


def test_a_run_starts_from_another_and_low_rank_additions_alone_learn(tmp_path):
    """Edits are taken over by name, and only the low-rank additions change."""
    first, trainer, _ = fitted("perse", 6, folder=tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    start = f"system.method.start={tmp_path}"
    later, trainer, _ = fitted("perse", 3, start, "density.every=1000", lora=True)
    old, new = first.avatar.state_dict(), later.avatar.state_dict()
    additions = lora_state(later.avatar)
    assert len(later.avatar.points) == len(first.avatar.points) > 60
    for key, value in old.items():
        if key not in ("steps", "edits.partly"):
            assert torch.equal(value, new[key]), key
    ups = [value for key, value in additions.items() if key.endswith("up.weight")]
    assert all(value.abs().max() > 0 for value in ups), "a layer's addition was not trained"
    pose, view = first.table(torch.tensor(0)), View(subject=torch.tensor(1))
    with torch.no_grad():
        before = first.avatar(pose, view).points.means
        with without_additions(later.avatar):
            assert torch.equal(before, later.avatar(pose, view).points.means)
        assert not torch.equal(before, later.avatar(pose, view).points.means)
    # What the first additions learnt would be lost if others were apart.
    trainer.save_checkpoint(tmp_path / "later" / "last.ckpt")
    start = f"system.method.start={tmp_path / 'later'}"
    with pytest.raises(UserError, match=r"start=.*later: .* start from the run before it"):
        fitted("perse", 1, start, "avatar.lora_apart=true", lora=True, people=3)


@pytest.mark.slow
def test_additions_that_are_apart_leave_all_but_their_edit_alone(tmp_path):
    first, trainer, _ = fitted("perse", 2, folder=tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    start = f"system.method.start={tmp_path}", "density.every=1000", "loss.keep.weight=0.0"
    apart, trainer, _ = fitted(
        "perse", 3, *start, "avatar.lora_apart=true", lora=True, people=3, folder=tmp_path
    )
    always, _, _ = fitted("perse", 3, *start, lora=True, people=3)
    assert apart.avatar.edits.added.tolist() == [0, 0, 1]
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    again, _, _ = fitted("perse", 0, start[0], "avatar.lora_apart=true", lora=True, people=3)
    again.avatar.set_size(apart.avatar.size())
    again.load_state_dict(torch.load(tmp_path / "later.ckpt", weights_only=False)["state_dict"])
    pose = first.table(torch.tensor(0))

    def points(system, number):
        with torch.no_grad():
            return system.avatar(pose, View(subject=torch.tensor(number))).points.means

    def without(system, number):
        with without_additions(system.avatar):
            return points(system, number)

    for other in (0, 1):
        assert torch.equal(points(apart, other), without(apart, other))
        assert not torch.equal(points(always, other), without(always, other))
    assert not torch.allclose(points(apart, 2), without(apart, 2))
    for number in range(3):
        assert torch.equal(points(apart, number), points(again, number))
    with pytest.raises(Exception, match=r"set avatar.lora=true"):
        fitted("perse", 1, "avatar.lora_apart=true")


def learnt_apart(steps, folder):
    """A system that learns a new hat by additions of its own, after as many steps without it."""
    _, trainer, _ = fitted("perse", steps, folder=folder)
    trainer.save_checkpoint(folder / "last.ckpt")
    system, _, data = fitted(
        "perse", steps, f"system.method.start={folder}", "density.every=1000",
        "loss.keep.weight=0.0", "avatar.lora_apart=true", lora=True, people=3, learn=2,
    )  # fmt: skip
    return system, data


def test_where_a_new_edit_is_not_believed_the_person_is_the_truth(tmp_path):
    """Of a hat's picture the hat and what is behind the head are believed."""
    system, data = learnt_apart(1, tmp_path)
    frame = data.train_frames.frames[-1]
    pose, camera = system.table(frame.index[0]), frame.camera[0]
    with torch.no_grad():
        step, unmarked = (
            system.method.observe(one, pose, {"points": frozenset({"rgb"})})
            for one in (frame, replace(frame, others={}))
        )
        rgb, alpha = system.render(pose, camera)
    person = rgb + step.background * (1 - alpha)
    assert torch.equal(step.unedited, person)
    assert unmarked.unedited is None, "nothing reads the person where all is believed"
    system.method.believed = "everywhere"
    step_everywhere = system.method.observe(frame, pose, {"points": frozenset({"rgb"})})
    assert step_everywhere.unedited is None, "the person is drawn and not read"
    marked, labelled = (replace(frame, others={n: frame.mask}) for n in ("edit", "labels"))
    assert system.frame_kind(marked) != system.frame_kind(labelled), "one CUDA graph for both"
    hat, mask = frame.others["edit"][0], frame.mask[0]
    photograph = frame.image[0] * mask + step.background * (1 - mask)
    outside = torch.maximum(hat, 1 - mask)
    right = photograph * outside + person * (1 - outside)

    def loss(image, **changes):
        render = Render({"rgb": image}, torch.ones_like(mask))
        return float(
            HeadImage(weight=1.0, ssim=0.25)(replace(step, renders={"points": render}, **changes))
        )

    faceless = torch.where(outside > 0.05, photograph, step.background)
    assert loss(right) < 1e-5 < 1e-2 < loss(faceless)
    assert loss(photograph) > 1e-2, "the picture's face is not believed"
    assert loss(faceless, unedited=None) < 0.1 * loss(faceless), "nothing else holds the face"


@pytest.mark.parametrize(("believed", "face"), [("edited", 0.0), ("everywhere", 1.0)])
def test_where_a_picture_between_two_edits_is_believed(believed, face):
    """On its face it may not be, on the hat and beside the head it is; a photograph always is."""
    method = instantiate(config("perse", f"system.method.believed={believed}")).method
    data = TinyHeads(TinyHead(), people=3)
    data.subjects[2].name = "0002_hat_between_0_1_1of2"
    method.people = tuple(subject.name for subject in data.subjects)
    method.build(TinyHead().zero_identity())
    method.avatar.see_expressions(torch.zeros(3, 2))
    for subject in data.subjects:
        method.initialise(subject)
    pose = matrix_pose(method.body, data.train_frames.states[0])
    photograph, made = (data.train_frames.frames[row] for row in (FRAMES, 2 * FRAMES))
    shown = {"points": frozenset({"rgb"})}
    believed_of = [method.observe(frame, pose, shown).believed() for frame in (photograph, made)]
    assert (believed_of[0] == 1).all()
    hat, mask = made.others["edit"][0], made.mask[0]
    outside = torch.maximum(hat, 1 - mask)
    assert torch.equal(believed_of[1], outside + (1 - outside) * face)
    assert (outside < 0.1).any(), "no face is seen"


def test_an_edit_that_was_trained_among_the_others_has_no_scores_from_before():
    fit, _, data = fitted("perse", 1)
    found = measure_new_edit(None, fit, data.test_frames)
    assert set(found) == {"new_error", "new_size"}
    sizes = []
    for edited, plain in zip(
        data.test_frames.frames[FRAMES:], data.test_frames.frames, strict=False
    ):
        one, other = (f.image[0] * f.mask[0] + 1 - f.mask[0] for f in (edited, plain))
        apart = (one - other).abs().mean(0)
        sizes.append(apart[apart > 1 / 255].mean())
    assert found["new_size"] == pytest.approx(float(torch.stack(sizes).mean()), rel=1e-5)
    assert found["new_error"] > 0


@pytest.mark.slow
def test_an_edit_that_additions_learn_keeps_the_face(tmp_path):
    """Its pictures are believed where they show the hat and behind the head alone."""
    later, data = learnt_apart(24, tmp_path)
    learnt, moved = [], []
    for frame in data.train_frames.frames[-FRAMES:]:
        hat, pose = frame.others["edit"][0], later.table(frame.index[0])
        with torch.no_grad():
            plain, new = (
                rgb + 1 - alpha
                for number in (0, 2)
                for rgb, alpha in [
                    later.render(pose, frame.camera[0], view=View(subject=torch.tensor(number)))
                ]
            )
        truth, face = frame.image[0], frame.mask[0] * (1 - hat)
        before, now = (((image - truth).abs() * hat).sum() for image in (plain, new))
        learnt.append(now / before)
        moved.append(((new - plain).abs() * face).sum() / (3 * face.sum()))
    assert torch.stack(learnt).mean() < 0.85
    # Without the person as the truth of the rest, the face fades: 0.12.
    assert torch.stack(moved).mean() < 0.07


def test_a_start_of_other_settings_is_named(tmp_path):
    _, trainer, _ = fitted("perse", 1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"system.method.start=.*first difference: "):
        fitted("perse", 1, f"system.method.start={tmp_path}", "avatar.code=5")
    with pytest.raises(UserError, match=r"system.method.start=.*: no last.ckpt there"):
        fitted("perse", 1, f"system.method.start={tmp_path / 'gone'}")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_start_whose_points_move_otherwise_is_refused(recorded, tmp_path):
    """Of a checkpoint from before they recorded it the points are known to have moved alone."""
    bases, start = f"avatar.model_bases={recorded}", f"system.method.start={tmp_path}"
    _, trainer, _ = fitted("perse", 1, bases)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    if not recorded:
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["persona"]["flags"]
        torch.save(checkpoint, path)
    fitted("perse", 0, start, bases)
    has = str(recorded).lower()
    with pytest.raises(UserError, match=f"start=.*: that run has avatar.model_bases={has}, which"):
        fitted("perse", 0, start, f"avatar.model_bases={not recorded}")
