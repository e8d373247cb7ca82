"""Accessibility, layout shift and console errors of every page: `python -m dashboard.audit`.

It serves a workspace, such as that of `puma demo`, and lets Lighthouse open every page in a
headless Chromium as a desktop would, in the light and the dark theme. The figures go into the
section "lighthouse" of a JSON file, beside those of pages that are not audited now. It fails if a
page misses a limit. Needs Chromium, and Node.js
18.16 or newer: npx downloads Lighthouse.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dashboard.pages import PAGES, address
from dashboard.screenshots import FLAGS, QUERIES, ROOT, THEMES, serving

LIGHTHOUSE = "lighthouse@12.8.2"
# The share of the window times the share of its size that contents move by while the page loads.
MAX_SHIFT = 0.1
AUDITS = ("cumulative-layout-shift", "errors-in-console")
# Chromium's setting of what a page is told about the preferred colours.
SCHEMES = {"dark": 0, "light": 1}
SECONDS = 180


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit the pages given on the command line and write the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--workspace", default=os.environ.get("PUMA_WORKSPACE", "workspace"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/dashboard.json")
    parser.add_argument("--pages", nargs="*", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--themes", nargs="*", default=list(THEMES), choices=list(THEMES))
    args = parser.parse_args(arguments)
    if shutil.which("npx") is None:
        raise SystemExit("npx was not found; install Node.js 18.16 or newer.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "workspace"
        # The socket of a what-if process is not a file to copy.
        shutil.copytree(args.workspace, copy, ignore=shutil.ignore_patterns("whatif"))
        with serving(copy) as url:
            for name in args.pages:
                for theme in args.themes:
                    link = f"{url}/{address(name)}{QUERIES.get(name, '')}"
                    rows.append({"page": name, "theme": theme} | figures(lighthouse(link, theme)))
                    print(json.dumps(rows[-1]), flush=True)
    written = json.loads(args.out.read_text()) if args.out.exists() else {}
    merged = with_rows(written.get("lighthouse", {}).get("rows", []), rows)
    date = datetime.now(UTC).date().isoformat()
    written["lighthouse"] = {"date": date, "version": LIGHTHOUSE, "preset": "desktop"} | {
        "rows": merged
    }
    args.out.write_text(json.dumps(written, indent=1) + "\n")
    missed = [f"{row['page']} ({row['theme']})" for row in rows if misses_limits(row)]
    if missed:
        raise SystemExit(f"A limit is missed on {', '.join(missed)}.")


def lighthouse(url: str, theme: str) -> dict[str, Any]:
    """Return Lighthouse's report of a page."""
    flags = [*FLAGS, "--headless=new", f"--blink-settings=preferredColorScheme={SCHEMES[theme]}"]
    command = ["npx", "--yes", LIGHTHOUSE, url, "--quiet", "--preset=desktop", "--output=json"]
    command += ["--only-categories=accessibility", f"--only-audits={','.join(AUDITS)}"]
    command += [f"--chrome-flags={' '.join(flags)}"]
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or ""
    done = subprocess.run(
        command,
        env=os.environ | {"CHROME_PATH": chromium},
        stdout=subprocess.PIPE,
        timeout=SECONDS,
    )
    if done.returncode:
        raise SystemExit(f"Lighthouse could not open {url}.")
    return json.loads(done.stdout)


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Return a page's accessibility (0 to 100), layout shift, console errors and failed audits."""
    audits = report["audits"]
    errors = audits["errors-in-console"].get("details", {}).get("items", [])
    failed = [
        name
        for reference in report["categories"]["accessibility"]["auditRefs"]
        if audits[name := reference["id"]]["score"] == 0 and reference["weight"]
    ]
    return {
        "accessibility": round(100 * report["categories"]["accessibility"]["score"]),
        "layout_shift": round(audits["cumulative-layout-shift"]["numericValue"], 3),
        "console_errors": [item.get("description", "") for item in errors],
        "failed_audits": failed,
    }


def with_rows(
    published: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return published figures with newer ones in place of theirs, in the order of the pages."""
    by_place = {(row["page"], row["theme"]): row for row in (*published, *rows)}
    places = ((page, theme) for page in PAGES for theme in THEMES)
    return [by_place[place] for place in places if place in by_place]


def misses_limits(row: dict[str, Any]) -> bool:
    """Return whether a page misses a limit."""
    return (
        row["accessibility"] < 100
        or row["layout_shift"] >= MAX_SHIFT
        or bool(row["console_errors"])
    )


if __name__ == "__main__":
    main()
