"""`python -m tests.chaos`: make things go wrong, and see that nothing is lost."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Mode, Order, describe, run, say

SIZES: dict[Mode, tuple[int, int]] = {"scaled": (50, 100), "laptop": (25, 50)}
"""Faults and jobs of a run that asks for no others."""


def main() -> int:
    """Run one mode or both; return 1 if anything was lost, doubled or damaged."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--mode", choices=list(SIZES), help="both, one after the other, if none is named")
    parser.add_argument("--faults", type=int, help="50 in scaled mode, 25 in laptop mode")
    parser.add_argument(
        "--jobs",
        type=int,
        help="that are to be run at least, without the parents of trainings; "
        "100 in scaled mode, 50 in laptop mode; more are sent as long as there are faults left",
    )
    parser.add_argument("--seed", type=int, default=1, help="draws errands and faults; timing differs anyway")
    parser.add_argument("--keep", action="store_true", help="leave data folder and log of the service")
    given = parser.parse_args()
    modes: list[Mode] = [given.mode] if given.mode else list(SIZES)
    are_good = [_run(mode, given) for mode in modes]
    return 0 if all(are_good) else 1


def _run(mode: Mode, given: argparse.Namespace) -> bool:
    faults, jobs = SIZES[mode]
    order = Order(mode, given.faults or faults, given.jobs or jobs, given.seed)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{mode}-"))
    say(f"{order.mode} mode, seed {order.seed}: {order.faults} faults, {order.jobs} jobs, in {folder}")
    outcome = run(order, folder, say)
    for line in describe(outcome):
        say(line)
    figures, is_good = json.dumps(outcome.figures()), outcome.is_good
    if given.keep or not is_good:
        say(f"data and log of the service are in {folder}")
    else:
        shutil.rmtree(folder)
    say(figures)
    return is_good


if __name__ == "__main__":
    sys.exit(main())
