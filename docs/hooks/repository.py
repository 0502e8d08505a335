"""MkDocs hook: pages of the repository outside docs/ join the site, and so does the API.

The site's addresses are those of the repository with docs/ taken off, so that a link that works in
the repository works in the site: README.md may point to docs/photo.md, which may point to
../benchmarks/results/photo.md. MkDocs checks each link afterwards.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE", "benchmarks/results/*.md",
    "benchmarks/results/*.png",
)  # fmt: skip
"""What of the rest of the repository the pages point to."""
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#\s])")
"""Target of a Markdown link or image that is a path."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside docs/ and a page for each package of modules."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for package, modules in packages().items():
        text = f"# {package}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
        files.append(File.generated(config, f"api/{package}.md", content=text))
    return files


def packages() -> dict[str, list[str]]:
    """Each package of persona that holds modules, and their names."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "persona").rglob("*.py")):
        if path.stem != "__init__":
            package = ".".join(path.parent.relative_to(ROOT).parts)
            found.setdefault(package, []).append(f"{package}.{path.stem}")
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the API's pages into the navigation."""
    config.nav.append({"API": [f"api/{package}.md" for package in packages()]})
    return config


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns the repository's paths into the site's."""
    here = page.file.src_uri
    folder = posixpath.dirname(repository_path(here))

    def rewritten(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return LINK.sub(rewritten, markdown)


def repository_path(src_uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return src_uri if (ROOT / src_uri).is_file() else f"docs/{src_uri}"
