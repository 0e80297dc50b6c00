"""Measures the rows of docs/performance.md beside their peers in one run, and writes them into its table.

    python tools/bench/report.py [--device cuda] [--only knn video] [--out docs/performance.json]

Every script that SCRIPTS names measures in a process of its own, since what one leaves in memory slows another; one
that fails is said so, and its rows keep their last figures, as do those of a device that is not at hand: the table
shows the date of each. The JSON file holds what the table does, and grows by the rows that are new.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
# script -> devices that it measures on
SCRIPTS = {
    "jpeg_views": ("cpu",),
    "image_text": ("cpu",),
    "small_pictures": ("cpu",),
    "first_batch": ("cpu",),
    "video": ("cpu",),
    "log_mel": ("cpu",),
    "point_pairs": ("cpu",),
    "knn": ("cpu",),
    "probe": ("cpu",),
    "clip_loss": ("cpu", "cuda"),
    "training": ("cpu", "cuda"),
    "sparse_unet": ("cpu", "cuda"),
    "small_run": ("cuda",),
    "growth": ("cpu", "cuda"),
}
RUN = "import json, {0}\nfor row in {0}.rows({1}): print('ROW', json.dumps(row), flush=True)"


def machine(device: str) -> str:
    """Returns the name of the processor or GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def measure(script: str, device: str) -> list[dict[str, Any]]:
    """Runs a script, and prints and returns its rows as they come."""
    rows, given = [], f"device={device!r}" if "cuda" in SCRIPTS[script] else ""
    command = [sys.executable, "-c", RUN.format(script, given)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") if device == "cpu" else {}
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True, env=os.environ | one) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ROW "):
                rows.append(json.loads(line[4:]))
                print(line_of({**rows[-1], "device": device, "date": "now"}), flush=True)
    if process.returncode:
        print(f"{script} ended with {process.returncode}; its rows keep their last figures", flush=True)
    return rows


def number(value: float | None, unit: str) -> str:
    """Returns a figure in three digits."""
    return "" if value is None else f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def line_of(row: dict[str, Any]) -> str:
    """Returns a row of the table."""
    low, high = row.get("spread") or (None, None)
    spread = f" ({low:.2f} to {high:.2f})" if low is not None else ""
    ratio = f"{row['ratio']:.2f}{spread}" if row.get("ratio") is not None else ""
    peer = f"{row.get('against', '')} {number(row.get('peer'), row['unit'])}".strip()
    cells = [row["work"], number(row["ours"], row["unit"]), peer, ratio, row.get("bound") or "", row["date"]]
    return f"| {' | '.join(cells)} |"


def write(found: dict[str, dict[str, Any]]) -> None:
    """Writes the tables into the page, each between its two marks."""
    page = PAGE.read_text()
    for device in ("cpu", "cuda"):
        head = ["| work | mmssl | peer | peer / mmssl | bound | measured |", "|---|---|---|---|---|---|"]
        lines = [*head, *(line_of(row) for row in found.values() if row["device"] == device)]
        before, after = page.split(f"<!-- {device} -->\n")[0], page.split(f"<!-- end of {device} -->")[1]
        page = f"{before}<!-- {device} -->\n" + "\n".join(lines) + f"\n<!-- end of {device} -->{after}"
    PAGE.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=sorted(SCRIPTS), help="scripts, by default all")
    parser.add_argument("--out", type=Path, default=PAGE.with_suffix(".json"), help="JSON file of all rows")
    options = parser.parse_args()
    found = {row["device"] + " " + row["work"] + " " + row.get("against", ""): row for row in read(options.out)}
    given = {"device": options.device, "date": f"{datetime.date.today()}", "machine": machine(options.device)}
    for script in options.only or [name for name, devices in SCRIPTS.items() if options.device in devices]:
        for row in measure(script, options.device):
            found[f"{options.device} {row['work']} {row.get('against', '')}"] = {**row, **given}
        options.out.write_text(json.dumps(list(found.values()), indent=1) + "\n")  # what is measured is kept
    write(found)


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a former run."""
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return rows


if __name__ == "__main__":
    main()
