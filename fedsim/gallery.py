"""Figures of papers: which scripts there are, what has come of them, and a page that shows it."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fedsim.errors import ScenarioError, nearest

PAGE = "figures.html"
EVERY = "all"
OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")
"""The last is a script's that has not come to its end."""


@dataclass(frozen=True)
class Script:
    """One figure: a script that computes its runs, judges and draws."""

    path: Path
    title: str
    setting: str
    """Whose setting it is, and what deviates from the paper's."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.path.stem

    @property
    def paper(self) -> str:
        """The first word of its name: several figures of one paper share it."""
        return self.name.partition("_")[0]

    async def run(self, out: Path, cores: int, *options: str) -> Result:
        """Compute it in a process of its own, which has so many cores and ends with this one; what it says goes into a
        file beside its picture."""
        out.mkdir(parents=True, exist_ok=True)
        (told := out / f"{self.name}.json").unlink(missing_ok=True)
        words = [sys.executable, str(self.path), "--out", str(out), "--workers", str(cores), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}  # threads of others would wait for one another
        with (out / f"{self.name}.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(*words, stdout=log, stderr=log, env=environment)
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.terminate()
        return Result(self, json.loads(told.read_text())["verdicts"] if told.exists() else None)


@dataclass(frozen=True)
class Result:
    """What has come of a script; None: it did not come to its end."""

    script: Script
    verdicts: Sequence[dict[str, str]] | None

    @property
    def counts(self) -> Counter[str]:
        """How many claims had which outcome."""
        return Counter(["ERROR"] if self.verdicts is None else [one["outcome"] for one in self.verdicts])

    @property
    def sound(self) -> bool:
        """Whether nothing has failed."""
        return not (self.counts["FAIL"] or self.counts["ERROR"])

    def json(self) -> dict[str, Any]:
        """As plain data."""
        return {"figure": self.script.name, "verdicts": self.verdicts, "counts": dict(self.counts)}


def scripts(folder: Path) -> list[Script]:
    """All in a folder, read without running them. ScenarioError if there are none."""
    found = [one for path in sorted(folder.glob("*.py")) if (one := _script(path)) is not None]
    if not found:
        raise ScenarioError(f"{folder}: there are no figures here; expected the folder of scripts: --plots FOLDER")
    return found


def _script(path: Path) -> Script | None:
    """None if it is no figure: a figure says `FIGURE = Figure(title, setting)`."""
    for node in ast.parse(path.read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "FIGURE"
            and isinstance(node.value, ast.Call)
        ):
            return Script(path, *map(ast.literal_eval, node.value.args[:2]))
    return None


def chosen(known: Sequence[Script], names: Sequence[str]) -> list[Script]:
    """Those that are asked for: figures, papers, or all. ScenarioError, with the nearest name, where there is none."""
    words = {word for one in known for word in (one.name, one.paper)} | {EVERY}
    for name in names:
        if name not in words:
            raise ScenarioError(f"there is no figure or paper {name!r}; {nearest(name, words)}")
    return [one for one in known if {one.name, one.paper, EVERY} & set(names)]


def compute(
    wanted: Sequence[Script], out: Path, options: Sequence[str], workers: int, finished: Callable[[str, int, int], None]
) -> list[Result]:
    """As many at a time as there are workers, which they share; the page is there from the first on, and grows."""
    abreast = min(workers, len(wanted))
    return asyncio.run(_computed(wanted, out, workers // abreast, options, asyncio.Semaphore(abreast), finished))


async def _computed(
    wanted: Sequence[Script], out: Path, cores: int, options: Sequence[str], free: asyncio.Semaphore,
    finished: Callable[[str, int, int], None],
) -> list[Result]:  # fmt: skip
    results: dict[str, Result] = {}

    async def one(script: Script) -> None:
        async with free:
            results[script.name] = await script.run(out, cores, *options)
        (out / PAGE).write_text(page(in_order()), encoding="utf-8")
        finished(script.name, len(results), len(wanted))

    def in_order() -> list[Result]:
        return [results[script.name] for script in wanted if script.name in results]

    await asyncio.gather(*map(one, wanted))
    return in_order()


def page(results: Sequence[Result]) -> str:
    """Pictures with their settings and verdicts, as HTML that opens offline beside them."""
    parts = "\n".join(map(_part, results))
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Figures</title>\n'
        "<style>body{font:15px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
        ".PASS{color:#00674c}.FAIL,.ERROR{color:#b00020}.INCONCLUSIVE{color:#7a5c00}</style>\n"
        f"<h1>Figures</h1>\n{parts}\n</html>\n"
    )


def _part(result: Result) -> str:
    script = result.script
    lines = [
        f'<li><b class="{one["outcome"]}">{one["outcome"]}</b> {escape(one["claim"])}: {escape(one["figures"])}</li>'
        for one in result.verdicts or []
    ]
    if result.verdicts is None:
        lines = [
            f'<li><b class="ERROR">ERROR</b> it did not come to its end: see <a href="{script.name}.log">log</a></li>'
        ]
    return (
        f'<h2 id="{script.name}">{escape(script.title)}</h2>\n<p>{escape(script.setting)}</p>\n'
        f'<a href="{script.name}.pdf"><img src="{script.name}.png" alt="{escape(script.title)}"></a>\n'
        f"<ul>\n{chr(10).join(lines)}\n</ul>"
    )
