"""What a benchmark found, on the terminal and as a file."""

import json
from pathlib import Path
from typing import Any


def tell(report: dict[str, Any], out: Path | None) -> None:
    """Prints a report as JSON and writes it to `out`, where that is given."""
    text = json.dumps(report, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
