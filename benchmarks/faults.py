"""The fault campaign: damaged copies of every file that a user gives, each read in a process of its own with 10 s and
1 GB.

    make faults                                       150 damages per format, about ten minutes on one core
    python benchmarks/faults.py --only picks --count 30

Prints a table of outcomes, every outcome that is not asked for, and how results that were taken without a word came
about. ``--docs`` writes the table into docs/reliability.md. The formats are in tests/fault_campaign/fault_formats.py,
the damage in fault_campaign.py beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/fault_campaign")]

from fault_campaign import Outcome, campaign, table  # noqa: E402
from fault_formats import FORMATS  # noqa: E402

PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- table of make faults -->\n", "<!-- end of the table -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=150, help="damages per format")
    parser.add_argument("--only", default="", help="formats with this in their name")
    parser.add_argument("--keep", type=Path, help="file of outcomes: those in it are not tried again")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    given = parser.parse_args()
    kept = json.loads(given.keep.read_text()) if given.keep and given.keep.exists() else {}
    for name, form in FORMATS.items():
        if given.only in name and name not in kept:
            print(f"{name} ...", file=sys.stderr, flush=True)
            kept[name] = [[number, outcome.kind, outcome.detail] for number, outcome in campaign(form, given.count)]
            if given.keep:
                given.keep.write_text(json.dumps(kept))
    results = {name: [(n, Outcome(kind, detail)) for n, kind, detail in kept[name]] for name in FORMATS if name in kept}
    print(table(results))
    wrong = 0
    for name, outcomes in results.items():
        for number, outcome in outcomes:
            if outcome.kind in ("other exception", "over the limits"):
                wrong += 1
                print(f"{name} {number}: {outcome.kind}: {outcome.detail}")
        silent = Counter(o.detail for _, o in outcomes if o.kind == "other result")
        if silent:
            print(f"{name}: taken without a word: {', '.join(f'{k} {v}' for k, v in silent.most_common())}")
    if given.docs:
        text = PAGE.read_text()
        PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table(results) + text[text.index(END) :])
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
