"""What mkdocs needs beside the pages: files of the repository that they link to are copied into the site."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\]\((?:\.\./)+([\w./-]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds each file that a page names outside of docs/, below `files/`."""
    from mkdocs.structure.files import File

    named = {name for page in Path(config.docs_dir).glob("*.md") for name in OUTSIDE.findall(page.read_text())}
    for name in sorted(named):
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links such as ../benchmarks/results/x.json lead to the copies."""
    return OUTSIDE.sub(r"](files/\1)", markdown) if "/" not in page.file.src_uri else markdown
