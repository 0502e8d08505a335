"""From a video to a motion's folder, with stand-ins for networks, and end to end (slow)."""

import numpy as np
import pytest
import torch

from persona.data.io import read_json
from persona.data.motion.load import load_motion
from persona.data.track import tracker as module
from persona.data.track.folder import NPZ
from persona.data.track.sightings import Sightings, nothing
from persona.data.track.tracker import Cut, Tracker
from persona.data.track.video import Video
from persona.errors import UserError
from persona.modules.detect import Detection, Detector
from persona.modules.detect.following import body_box, overlap

COUNT = 7


class Nobody(Detector):
    """Finds nobody."""

    def __call__(self, image, source="the image"):
        raise UserError(f"{source}: nobody found; give a photo")


class Somebody(Detector):
    """Finds two people and takes the second."""

    def __call__(self, image, source="the image"):
        told = (f"{source}: 2 people; number 2 from the left is taken",)
        return Detection(
            torch.ones(image.shape[:2]), torch.ones(133, 3) * torch.arange(1.0, 134)[:, None],
            torch.zeros(133, 4), told,
        )  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Seven frames of two shots: two frames, and five."""
    from persona.commands.video_file import write_video

    path = tmp_path_factory.mktemp("video") / "two shots.mp4"
    colors = [(20, 20, 20)] * 2 + [(200, 60, 60)] * 5
    write_video(path, [np.full((96, 64, 3), c, np.uint8) for c in colors], 10)
    return Video.open(path)


@pytest.fixture
def watched(body, monkeypatch):
    """Replaces ``Watcher``: the mean person in the T-pose, but nobody in a shot's second frame.

    Returns the list of frames that were looked at.
    """
    from persona.data.preprocess.fit_state import resting_keypoints

    points = resting_keypoints(body) @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    looked = []

    class Watcher:
        def __init__(self, video, camera, annotator, every):
            self.camera = camera

        def chunks(self, frames, box, advance):
            rows = []
            for index in frames:
                looked.append(index)
                pixels = self.camera.project(points + torch.tensor([0.0, 1.0, 4.0]))
                scores = torch.ones(133, 1)
                row = nothing()
                if index != frames.start + 1:
                    guess = torch.cat((points - points[[11, 12]].mean(0), scores), -1)
                    row = Sightings(torch.cat((pixels, scores), -1)[None], guess[None], row.joints,
                                    row.turn)  # fmt: skip
                rows.append(row)
            yield module_joined(rows)

    from persona.data.track.sightings import joined as module_joined

    monkeypatch.setattr(module, "Watcher", Watcher)
    return looked


def test_the_longest_shot_becomes_a_folder(body, video, watched, tmp_path, caplog):
    tracker = Tracker(body=body, detector=Somebody(), iterations=(2, 3))
    root = tmp_path / "me"
    tracked, motion = tracker.run(video, root)
    assert watched == [2, 3, 4, 5, 6] and tracked.frames == range(2, 7)
    told = "\n".join(tracked.notes)
    assert "is cut into 2 shots; the longest, frames 2 to 6, is followed" in told
    assert "2 people; number 2 from the left is taken" in told and "2 people" in caplog.text
    about = read_json(root / "motion.json")
    assert about["bridged"] == [[1, 1]] and about["fps"] == 10 and about["first_frame"] == 2
    files = sorted(p.name for p in (root / "smplx/params").iterdir())
    assert (
        files
        == [f"{i}.json" for i in range(5)]
        == sorted(p.name for p in (root / "cam_params").iterdir())
    )
    folder = load_motion(root, body, fps=None)
    assert folder.fps == 10 and len(folder) == 5
    amass = load_motion(root / "motion.npz", body, fps=None)
    assert len(amass) == len(motion) == 5
    torch.testing.assert_close(amass.pose.body, folder.pose.body, atol=1e-4, rtol=0)
    assert (root / "work").is_dir() and not tracker.is_done(video, root, Cut(1))
    assert tracker.is_done(video, root, Cut())
    tracker.finish(root)
    assert not (root / "work").exists()


def test_an_interrupted_run_goes_on(body, video, watched, tmp_path, monkeypatch):
    tracker, root = Tracker(body=body, detector=Somebody(), iterations=(1, 1)), tmp_path / "me"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_windows", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.run(video, root)
    assert not (root / "motion.npz").exists() and len(watched) == 5
    tracker.run(video, root)
    assert len(watched) == 5, "frames were looked at twice"
    other = Tracker(body=body, detector=Somebody(), iterations=(1, 2))
    other.run(video, root)
    assert len(watched) == 10, "other settings must begin again"
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert not other.is_done(video, root, Cut()), "another version made it"
    other.run(video, root)
    assert len(watched) == 15, "another version must begin again"


def test_parts_of_a_video(body, video, watched, tmp_path):
    tracker = Tracker(body=body, detector=Somebody(), iterations=(1, 1))
    tracked, _ = tracker.run(video, tmp_path / "me", Cut(0, 1))
    assert tracked.frames == range(0, 1), "one frame is a motion too"
    with pytest.raises(UserError, match=r"two shots.mp4: 7 frames can be read, none from start=9"):
        tracker.run(video, tmp_path / "me", Cut(9))


def test_another_motion_of_the_name_is_not_lost(body, video, tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / NPZ).write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"me: holds the motion of something else"):
        Tracker(body=body, detector=Somebody(), iterations=(1, 1)).run(
            video, tmp_path / "me", Cut(0, 1)
        )
    assert (tmp_path / "me" / NPZ).read_bytes() == b"somebody's"


def test_a_video_without_a_person(body, video, tmp_path):
    tracker = Tracker(body=body, detector=Nobody(), iterations=(1, 1))
    with pytest.raises(UserError, match=r"two shots.mp4: nobody found in 5 frames of it; give"):
        tracker.run(video, tmp_path / "me")


def test_boxes_of_people():
    points = torch.zeros(133, 3)
    assert body_box(points) is None
    points[5:9] = torch.tensor([[10, 20, 1], [30, 20, 1], [12, 60, 1], [28, 62, 1.0]])
    assert body_box(points) == (10, 20, 20, 42)
    assert overlap((0, 0, 10, 10), (5, 5, 10, 10)) == 0.25
    assert overlap((0, 0, 10, 10), (20, 0, 5, 5)) == 0


@pytest.mark.slow
def test_a_film_end_to_end(shared_data, body, tmp_path):
    """Mean error of joints below 9 cm on a rendered film with exact truth."""
    pytest.importorskip("mediapipe")
    from persona.commands.video_file import write_video
    from persona.data.people.film import FilmPlan, draw_film, plan_film
    from persona.data.people.scene import casting
    from persona.modules.detect import MediapipeDetector
    from persona.modules.perception.annotator import PerceptionAnnotator

    cast = casting(shared_data / "makehuman_cc0", body)
    film = plan_film(cast, FilmPlan("walk", seed=7000, num_frames=10))
    write_video(tmp_path / "v.mp4", draw_film(cast, film), film.plan.fps)
    tracker = Tracker(
        body=body, detector=MediapipeDetector(), annotator=PerceptionAnnotator(),
        iterations=(60, 200),
    )  # fmt: skip
    tracker.run(Video.open(tmp_path / "v.mp4"), tmp_path / "me")
    motion = load_motion(tmp_path / "me", body, fps=None)
    found = body(body.zero_identity(), motion.pose)[1] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    error = (found - found[:, :1]) - (film.joints - film.joints[:, :1])
    assert error[:, :22].norm(dim=-1).mean() < 0.09
