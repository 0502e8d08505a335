"""Measures how many frames per second an exported page draws in a real browser.

Run ``python benchmarks/viewer.py PAGE.html [--size 480x640] [--seconds 10] [--software]``: plays
the page of ``format=html`` in headless Chromium. Prints what drew it, the pictures per second that
the browser showed while the motion played, and the times of the page's thread, of the worker that
sorts, and of a picture that is drawn and read back. ``--software`` keeps Chromium from any GPU.
Needs Chromium and ``pip install ".[viewer]"`` (websockets).
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from persona.benchmark.browser import PageRate, page_rate
from persona.cli import one_line_errors


@one_line_errors
def main() -> None:
    """Prints a line for every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--size", default="480x640", help="width x height of the picture, pixels")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--software", action="store_true", help="draw without a GPU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        rate: PageRate = page_rate(
            options.page, options.size, options.seconds, options.software, Path(profile)
        )
    console = Console()
    console.print(f"drawn by {rate.drawn_by}", highlight=False)
    console.print(f"{rate.frames_per_s:.1f} frames/s at {options.size}, {rate.count} Gaussians")
    console.print(
        f"page's thread {rate.host_ms:.1f} ms a frame, worker {rate.order_ms:.1f} ms an order, "
        f"drawn and read back {rate.whole_ms:.1f} ms"
    )


if __name__ == "__main__":
    main()
