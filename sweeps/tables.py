"""What a sweep says in words: results.csv, a line a run, and index.html, which links every run."""

import csv
import html
import json
import shlex
from urllib.parse import quote

from recording.files import write, write_text
from sweeps.runs import FAILED, FINISHED, place, report, status


def results(folder, runs):
    """One dict a run, in their order: how it went, in numbers and words; None where it did not come that far."""
    rows = []
    for run in runs:
        home, said = place(folder, run.name), report(folder, run.name)
        rows.append(
            {
                "index": run.index,
                **{flag.removeprefix("--"): text for flag, text in run.values.items()},
                "status": status(folder, run.name),
                "seconds": said.get("seconds"),
                "grad_norm": last_mean(home, "metrics.jsonl", "grad_norm"),
                "clip_score": last_mean(home, "scores.jsonl", "clip_score"),
                "folder": home and home.relative_to(folder).as_posix(),
                "error": said.get("error"),
            }
        )
    return rows


def last_mean(home, name, key):
    """The mean over the particles in the last line of a .jsonl file, or None."""
    try:
        values = json.loads((home / name).read_text(encoding="utf-8").splitlines()[-1])[key]
        return sum(values) / len(values)
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):  # Not every run has every file.
        return None


def save_csv(path, rows):
    def writer(beside):
        with open(beside, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    write(path, writer)


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #666; --line: #ddd; --ground: #fff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a0a0a0; --line: #3a3a3a; --ground: #161616; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 1400px; margin: 0 auto;
  padding: 16px; overflow-wrap: anywhere; }
h1 { font-size: 1.4em; margin: 0; } p { margin: .4em 0 1em; color: var(--soft); }
figure { margin: 0 0 24px; overflow-x: auto; } figure img { display: block; max-width: 100%; border-radius: 6px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th { color: var(--soft); font-weight: normal; white-space: nowrap; }
td.text { min-width: 5em; max-width: 24em; overflow-wrap: anywhere; }
td img { display: block; width: 64px; height: 64px; object-fit: cover; image-rendering: pixelated; border-radius: 4px; }
td.failed { color: var(--bad); min-width: 15em; } a { color: inherit; }
code, pre { font: 13px/1.5 ui-monospace, monospace; } pre { white-space: pre-wrap; margin: 4px 0 0; min-width: 16em; }
summary { cursor: pointer; color: var(--soft); white-space: nowrap; }
"""


def save_page(path, runs, rows, command, summary):
    """index.html: the figure, and a table of the runs. command: the words of the sweep's own command."""
    escape = html.escape
    swept = [flag.removeprefix("--") for flag in runs[0].values]
    scored = any(row["clip_score"] is not None for row in rows)
    heads = ["", *swept, "status", "seconds", "gradient norm", *(["CLIP score"] if scored else []), ""]
    lines = []
    for run, row in zip(runs, rows, strict=True):
        cells = [
            f"<td>{thumbnail(path.parent, row)}</td>",
            *(f'<td class="text">{escape(row[flag])}</td>' for flag in swept),
        ]
        if row["status"] == FAILED:
            cells.append(f'<td class="text failed">failed: {escape(row["error"] or "")}</td>')
        else:
            cells.append(f"<td>{escape(row['status'])}</td>")
        cells += [
            f"<td>{number(row[key])}</td>" for key in ("seconds", "grad_norm", *(["clip_score"] if scored else []))
        ]
        repeat = escape(shlex.join(["python", "sds2d.py", *run.arguments]))
        cells.append(f"<td><details><summary>its command</summary><pre>{repeat}</pre></details></td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    text = f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(path.parent.absolute().name)}</title>
<style>{STYLE}</style>
<h1>{escape(path.parent.absolute().name)}</h1>
<p>{escape(summary)} · <a href="results.csv">results.csv</a></p>
<figure><a href="figure.png"><img src="figure.png" alt="the runs, side by side"></a></figure>
<div class="wide"><table>
<tr>{"".join(f"<th>{escape(head)}</th>" for head in heads)}</tr>
{chr(10).join(lines)}
</table></div>
<details><summary>the command of the sweep</summary><pre>{escape(shlex.join(["python", "sweep.py", *command]))}</pre></details>
</html>
"""
    write_text(path, text)


def thumbnail(folder, row):
    """The run's first picture, or its number, as a link to its page, else to what else it left."""
    if row["folder"] is None:
        return str(row["index"])
    home = folder / row["folder"]
    names = ["index.html", "final.png"] if row["status"] == FINISHED else ["error.txt"]
    target = next((name for name in names if (home / name).is_file()), "")
    link = html.escape(quote(f"{row['folder']}/{target}"))
    inside = f"run {row['index']}"
    if row["status"] == FINISHED:
        inside = f'<img src="{html.escape(quote(row["folder"]))}/final_00.png" alt="{inside}">'
    return f'<a href="{link}">{inside}</a>'


def number(value):
    return "" if value is None else f"{value:.4g}"
