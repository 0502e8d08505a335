"""The page of a live viewer of an avatar, by viser."""

import socket
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from persona.commands.avatar_export import REST, rest_motion
from persona.commands.beside import Beside
from persona.commands.puppet import Puppet, covariances
from persona.data.motion.names import JOINTS
from persona.data.motion.procedural import BUILTIN
from persona.errors import UserError

NODE = "/avatar"
AXES = ("x", "y", "z")
NONE = "none"
WHITE_PIXEL = np.full((1, 1, 3), 255, np.uint8)


def check_port(host: str, port: int, option: str = "port") -> None:
    """Refuses a port that is not free.

    Args:
        host: Address to listen at.
        port: Port there.
        option: What chooses the port, for the message.

    Raises:
        UserError: another program listens there, or listening is not allowed.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(f"{option}={port}: {error.strerror}; choose another") from error


class Viewer:
    """Controls, and the avatar that they move.

    Args:
        viser: The module.
        puppet: What is moved.
        host: Address to listen at.
        port: Port there.
        beside: Frames of the subject, which can be compared with; None leaves them out.
    """

    def __init__(
        self, viser: ModuleType, puppet: Puppet, host: str, port: int, beside: Beside | None = None
    ) -> None:
        self.puppet, self.beside = puppet, beside
        self.server = viser.ViserServer(host=host, port=port, verbose=False)
        self.server.scene.set_up_direction("+y")
        self.dirty, self.last = True, time.perf_counter()
        self.time = 0.0
        self._add_motion()
        self._add_joints()
        self._add_face()
        if puppet.lights is not None:
            self._add_light()
        if beside is not None:
            self._add_truth(beside)

    def _changed(self, *_: object) -> None:
        self.dirty = True

    def _add_motion(self) -> None:
        gui = self.server.gui
        with gui.add_folder("motion"):
            self.chosen = gui.add_dropdown("built in", (REST, *BUILTIN), initial_value=REST)
            upload = gui.add_upload_button("load a file")
            self.play = gui.add_checkbox("play", initial_value=True)
            self.frame = gui.add_slider("frame", 0, 1, 1, 0)
            self.told = gui.add_markdown("")
        self.chosen.on_update(lambda _: self.take(self.chosen.value))
        upload.on_upload(lambda event: self.take_file(event.target.value))
        self.frame.on_update(self._changed)
        self._fit_slider()

    def _add_joints(self) -> None:
        gui = self.server.gui
        with gui.add_folder("joint", expand_by_default=False):
            self.joint = gui.add_dropdown("joint", JOINTS, initial_value="left_elbow")
            self.turns = [gui.add_slider(axis, -180, 180, 1, 0) for axis in AXES]
            reset = gui.add_button("reset all")
        for slider in self.turns:
            slider.on_update(lambda _: self.turn())
        self.joint.on_update(lambda _: self.show_turn())
        reset.on_click(lambda _: self.reset())

    def _add_face(self) -> None:
        gui = self.server.gui
        self.face: dict[str, Any] = {}
        with gui.add_folder("face", expand_by_default=False):
            for name in self.puppet.expressions:
                self.face[name] = gui.add_slider(name, 0.0, 1.0, 0.01, 0.0)
                self.face[name].on_update(lambda _: self.pull_face())

    def _add_light(self) -> None:
        gui = self.server.gui
        with gui.add_folder("light", expand_by_default=False):
            self.light = [
                gui.add_slider("turned, degrees", -180, 180, 1, 0),
                gui.add_slider("brightness", 0.2, 3.0, 0.05, 1.0),
            ]
        for slider in self.light:
            slider.on_update(lambda _: self.shine())

    def _add_truth(self, beside: Beside) -> None:
        gui = self.server.gui
        with gui.add_folder("truth beside render", expand_by_default=False):
            self.compared = gui.add_dropdown("frame", (NONE, *beside.frames.names))
            self.pair = gui.add_image(WHITE_PIXEL)
        self.shown = NONE

    def take(self, motion: str) -> None:
        """Plays another motion; the page says if it cannot be read."""
        try:
            if motion == REST:
                self.puppet.motion = rest_motion(self.puppet.system.body)
            else:
                self.puppet.load(motion)
            self.told.content = ""
        except UserError as error:
            self.told.content = str(error)
        self.time = 0.0
        self._fit_slider()

    def take_file(self, file: Any) -> None:
        """Plays a motion file that was dropped in."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file.name).name
            path.write_bytes(file.content)
            self.take(str(path))

    def _fit_slider(self) -> None:
        self.frame.max = max(len(self.puppet.motion) - 1, 1)
        self.frame.value = 0
        self.dirty = True

    def shine(self) -> None:
        """Changes the light to what its sliders say."""
        degrees, brightness = (float(slider.value) for slider in self.light)
        self.puppet.light = degrees, brightness
        self.dirty = True

    def turn(self) -> None:
        """Turns the chosen joint to the angles of its sliders."""
        x, y, z = (float(slider.value) for slider in self.turns)
        self.puppet.turns[self.joint.value] = x, y, z
        self.dirty = True

    def show_turn(self) -> None:
        """Sets the sliders to the chosen joint's angles."""
        found = self.puppet.turns.get(self.joint.value, (0.0, 0.0, 0.0))
        for slider, value in zip(self.turns, found, strict=True):
            slider.value = value

    def pull_face(self) -> None:
        """Sets the face to its sliders."""
        values = {name: float(slider.value) for name, slider in self.face.items()}
        self.puppet.face = {name: value for name, value in values.items() if value}
        self.dirty = True

    def reset(self) -> None:
        """Resets all joints."""
        self.puppet.turns.clear()
        self.show_turn()
        self.puppet.turns.clear()  # Moving the sliders stored turns of zero.
        self.dirty = True

    def compare(self) -> None:
        """Draws the frame that was chosen beside the truth, if another one is shown."""
        if self.beside is not None and self.compared.value != self.shown:
            self.shown = self.compared.value
            none = self.shown == NONE
            self.pair.image = WHITE_PIXEL if none else self.beside.picture(self.shown)

    def step(self) -> None:
        """Advances the motion, and redraws the avatar if anything has changed."""
        self.compare()
        now = time.perf_counter()
        motion = self.puppet.motion
        if self.play.value and len(motion) > 1:
            self.time = (self.time + (now - self.last) * motion.fps) % len(motion)
            self.frame.value = int(self.time)
            self.dirty = True
        else:
            self.time = float(self.frame.value)
        self.last = now
        if not self.dirty:
            return
        self.dirty = False
        splats = self.puppet.splats(int(self.time))
        self.server.scene.add_gaussian_splats(
            NODE, splats.means, covariances(splats), splats.rgb, splats.opacities[:, None]
        )
