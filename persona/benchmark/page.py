"""One self-contained web page of a benchmark: tables, sliders, curves; no network."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

JPEG_QUALITY = 88


@dataclass(frozen=True)
class Gallery:
    """The pictures of one subject."""

    subject: str
    frames: Sequence[str]
    pictures: dict[str, list[UInt8[ndarray, "h w 3"]]]
    """A picture a frame, per method; truth first."""
    curves: Path


def jpeg_uri(image: UInt8[ndarray, "h w 3"]) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def table_html(table: Sequence[Sequence[str]]) -> str:
    """A table, first row the header."""
    header, *rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def with_code(text: str) -> str:
    """A line of the report as HTML: what stands between backticks is code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def page(
    title: str,
    facts: Sequence[str],
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]],
    galleries: Sequence[Gallery],
) -> str:
    """The whole page.

    Args:
        title: of the page.
        facts: lines under the title: command, commit, machine, protocol.
        tables: heading and content of each.
        galleries: one per subject.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{with_code(line)}</p>" for line in facts)]
    for heading, table in tables:
        parts.append(f"<h2>{html.escape(heading)}</h2>{table_html(table)}")
    data = {}
    for gallery in galleries:
        data[gallery.subject] = {
            "frames": list(gallery.frames),
            "pictures": {k: [jpeg_uri(i) for i in v] for k, v in gallery.pictures.items()},
        }
        curve = base64.b64encode(gallery.curves.read_bytes()).decode()
        name = html.escape(gallery.subject)
        parts.append(
            f'<h2>{name}</h2><div class="viewer" data-subject="{name}"></div>'
            f'<img class="curves" alt="per-frame numbers of {name}" '
            f'src="data:image/png;base64,{curve}">'
        )
    # "</" would end the script early, in whatever a subject is called.
    script = SCRIPT.replace("GALLERIES", json.dumps(data).replace("</", "<\\/"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{STYLE}</style></head><body>{''.join(parts)}"
        f"<script>{script}</script></body></html>\n"
    )


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left }
p { margin: .2rem 0; color: #444 }
.pair { position: relative; display: inline-block; margin: .5rem 0 }
.pair img { display: block; height: 30rem; image-rendering: pixelated }
.pair img + img { position: absolute; left: 0; top: 0 }
.viewer input { width: 22rem; display: block }
.curves { max-width: 100% }
"""

SCRIPT = """
const galleries = GALLERIES;
function select(names, chosen, change) {
  const box = document.createElement("select");
  names.forEach((name, i) => box.add(new Option(name, i, i === chosen, i === chosen)));
  box.onchange = change;
  return box;
}
for (const viewer of document.querySelectorAll(".viewer")) {
  const gallery = galleries[viewer.dataset.subject], methods = Object.keys(gallery.pictures);
  const show = () => {
    left.src = gallery.pictures[methods[a.value]][frame.value];
    right.src = gallery.pictures[methods[b.value]][frame.value];
    right.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
  };
  const a = select(methods, 0, show), b = select(methods, Math.min(1, methods.length - 1), show);
  const frame = select(gallery.frames, 0, show);
  const slider = Object.assign(document.createElement("input"),
    {type: "range", min: 0, max: 100, value: 50, oninput: show});
  const pair = document.createElement("div"), left = new Image(), right = new Image();
  pair.className = "pair";
  pair.append(left, right);
  viewer.append("left ", a, " right ", b, " frame ", frame, slider, pair);
  show();
}
"""
