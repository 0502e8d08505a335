"""Exported files as other programs draw them: three.js and Spark in headless Chromium."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from persona.benchmark.browser import browsed, until
from persona.commands.export_loss import SUPERSAMPLE
from persona.errors import UserError
from persona.modules.cache import cache_folder
from persona.types import Camera

PACKAGES = {"three": "0.187.0", "@sparkjsdev/spark": "2.2.0"}
DOWN = ("ply", "ply_compressed", "splat", "sog")
"""Formats whose y axis points down, which a viewer turns about x."""
DRAWN = (*DOWN, "spz", "spz4", "glb", "mesh")
"""Formats that these programs read."""
READ_BY = {"mesh": "three.js", "spz4": "three.js", "glb": "three.js, drawn by Spark"}
"""Who reads a format, if not Spark alone."""
_PAGE = Path(__file__).with_name("assets") / "web_reader.html"
_START_S = 60.0


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each file."""

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def packages() -> Path:
    """Folder of the npm packages.

    Raises:
        UserError: they are not there in the versions that are tried.
    """
    folder = cache_folder() / "npm"
    wanted = " ".join(f"{name}@{version}" for name, version in PACKAGES.items())
    for name, version in PACKAGES.items():
        told = folder / "node_modules" / name / "package.json"
        if not told.is_file() or json.loads(told.read_text())["version"] != version:
            raise UserError(f"nobody: npm install --prefix {folder} {wanted}")
    return folder / "node_modules"


def web_picture(
    path: Path, kind: str, camera: Camera, seconds: float, blur: float
) -> Float[ndarray, "h w 3"]:
    """What three.js (meshes) or Spark (Gaussians) shows of a file, on white, in [0, 1].

    Spark moves no Gaussians by bones: those of ``glb`` are read, posed and skinned by three.js. It
    does not read version 4 of SPZ either, which three.js draws by itself. Meshes are drawn as
    finely as here, and averaged.

    Args:
        path: The file.
        kind: One of ``DRAWN``.
        camera: In the file's world, y up: metres.
        seconds: Time of the motion in files that hold one.
        blur: Spark's ``blurAmount``, pixels squared: the ``eps2d`` of the avatar's renderer.
            Spark's own is 0.3.

    Raises:
        UserError: no Chromium or packages, or the file is refused.
    """
    finer = SUPERSAMPLE if kind == "mesh" else 1
    size = camera.width, camera.height
    camera = camera.resize(camera.height * finer, camera.width * finer)
    given = {
        "view": camera.cam_from_world.flatten().tolist(), "focal": float(camera.focal_px[0]),
        "center": camera.center_px.tolist(), "size": [camera.width, camera.height],
        "kind": kind, "down": kind in DOWN, "seconds": seconds, "blur": blur,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "page"
        folder.mkdir()
        for file in (packages(), _PAGE, path.resolve()):
            (folder / file.name).symlink_to(file)
        with (
            _served(folder) as address,
            browsed(f"{address}/{_PAGE.name}", True, Path(scratch)) as tab,
        ):
            until(lambda: tab.value("!!window.drawn"), _START_S, f"{path}: the page does not start")
            image = tab.value(f"drawn({json.dumps(path.name)}, {json.dumps(given)})")
    content = np.frombuffer(base64.b64decode(image.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert picture is not None  # The browser has just encoded it.
    shown = np.asarray(picture[..., ::-1], np.float64) / 255
    return cv2.resize(shown, size, interpolation=cv2.INTER_AREA)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Address of a folder, at this computer alone: pages may not import modules from files."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
