"""Mutation testing: mutate one place of the core files at a time, and see whether the tests of that file fail.

    python tests/mutation/mutate.py                              100 mutants, about 25 minutes
    python tests/mutation/mutate.py --files multitask/ --seed 3  of some files
    python tests/mutation/mutate.py --only loralib/variants/config.py:40  every mutant of one line (or line:column)

The seed and the tree decide which mutants there are: the places of all core files (`mutation_table.py`) in the order of a hash
of the seed and their line, and one of the mutations of each place (`mutations.py`). The mutants in `equivalent_mutants.json` are
passed over. Each other one is written to a copy of the tree, and its test files run one after the other until one fails
(`forked_tests.py`). The test that fails then has to pass on the unchanged copy.
"""

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import forked_tests
from mutation_table import PACKAGES, ROOT, core_files, files_that_test
from mutations import Mutation, is_another_program, mutations

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
REPORT = ROOT / "build" / "mutation" / "mutants.jsonl"


@dataclass(frozen=True)
class Mutant:
    module: str
    path: str
    mutation: Mutation

    @property
    def tests(self) -> list[str]:
        return files_that_test(self.module)

    @property
    def place(self) -> str:
        return f"{self.path}:{self.mutation.line}:{self.mutation.column}"

    def random_number(self, seed: int) -> int:
        """The same for all mutants of a place. It depends on the place's line alone: changes elsewhere keep the choice."""
        lines = (ROOT / self.path).read_text().splitlines()[: self.mutation.line]
        words = f"{seed} {self.module} {self.mutation.column} {lines.count(lines[-1])} {lines[-1]}"
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest())

    def source(self) -> str:
        return self.mutation.apply((ROOT / self.path).read_text())

    def mutated_line(self) -> str:
        return self.source().splitlines()[self.mutation.line - 1].strip()

    def __str__(self) -> str:
        return f"{self.place}  `{self.mutation.old}` → `{self.mutation.new}`"


def all_places() -> list[list[Mutant]]:
    """For each place of each core file its mutants, in the order of the files."""
    return [
        [Mutant(module, path.relative_to(ROOT).as_posix(), result) for result in place]
        for module, path in core_files().items()
        for place in mutations(path.read_text())
    ]


def known_equivalent() -> dict[tuple[str, str], str]:
    """The reason for each mutant that cannot change behaviour, by its module and its mutated line."""
    return {(entry["module"], entry["mutated"]): entry["reason"] for entry in json.loads(EQUIVALENT.read_text())}


def draw_mutants(count: int, seed: int, prefix: str) -> tuple[list[Mutant], list[Mutant]]:
    """`count` random mutants that are not known to be equivalent, and the equivalent ones that were drawn too."""
    known = known_equivalent()
    chosen, passed_over = [], []
    places = [place for place in all_places() if place[0].path.startswith(prefix)]
    for place in sorted(places, key=lambda place: place[0].random_number(seed)):
        mutant = place[place[0].random_number(seed) % len(place)]
        if len(chosen) == count:
            break
        if is_another_program(mutant.source(), (ROOT / mutant.path).read_text()):
            (passed_over if (mutant.module, mutant.mutated_line()) in known else chosen).append(mutant)
    return chosen, passed_over


def named_mutants(names: list[str]) -> list[Mutant]:
    """Every mutant of the given `file:line` or `file:line:column`."""
    every = [mutant for place in all_places() for mutant in place]
    chosen = [m for m in every if {m.place, m.place.rpartition(":")[0]} & set(names)]
    return [m for m in chosen if is_another_program(m.source(), (ROOT / m.path).read_text())]


def as_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def killed_before(mutants: list[Mutant]) -> list[dict]:
    """The rows of the last report about those of the mutants that were killed."""
    wanted = {(m.place, m.mutation.new, m.mutated_line()) for m in mutants}
    rows = [json.loads(line) for line in REPORT.read_text().splitlines()] if REPORT.exists() else []
    return [row for row in rows if row["result"] != "survived" and (row["place"], row["new"], row["mutated"]) in wanted]


def run_mutants(mutants: list[Mutant], workers: list[forked_tests.Worker]) -> Iterator[dict]:
    """A row for each mutant, as they end. SystemExit if a test that fails also fails without the mutation."""
    jobs = [forked_tests.Job(tuple(m.tests), m.path, m.source()) for m in mutants]
    by_job = dict(zip(map(id, jobs), mutants, strict=True))
    for job, outcome in forked_tests.run(jobs, workers):
        if outcome.result.startswith("FAILS"):
            raise SystemExit(f"{outcome.test} fails without any mutation: repair it first\n{outcome.output}")
        mutant = by_job[id(job)]
        row = {"place": mutant.place, "old": mutant.mutation.old, "new": mutant.mutation.new, "result": outcome.result}
        yield row | {"test": outcome.test, "seconds": round(outcome.seconds, 1), "mutated": mutant.mutated_line()}


def show(number: int, count: int, row: dict) -> None:
    end = "SURVIVED" if row["result"] == "survived" else f"{row['result']} {row['test']}"
    print(f"{number:3}/{count}  {row['place']}  `{row['old']}` → `{row['new']}`  {end}  {row['seconds']} s", flush=True)


def summary(rows: list[dict]) -> str:
    killed, total = Counter(), Counter()
    for row in rows:
        package = row["place"].split("/")[0]
        total[package] += 1
        killed[package] += row["result"] != "survived"
    lines = [f"  {package:10} {killed[package]:3}/{total[package]}" for package in PACKAGES if total[package]]
    return "\n".join([*lines, f"killed {sum(killed.values())}/{len(rows)}"])


def read_settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default="", help="the start of a path: only files below it")
    parser.add_argument("--only", nargs="+", metavar="FILE:LINE", help="every mutant of these lines, also the equivalent ones")
    parser.add_argument("--resume", action="store_true", help="keep the killed mutants of the last report, and run the others")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    return parser.parse_args()


def main() -> None:
    settings = read_settings()
    drawn = draw_mutants(settings.count, settings.seed, settings.files)
    mutants, passed_over = (named_mutants(settings.only), []) if settings.only else drawn
    if settings.list or not mutants:
        print(*mutants, *(f"equivalent: {m}" for m in passed_over), f"{len(mutants)} mutants", sep="\n")
        return
    start, rows = time.monotonic(), killed_before(mutants) if settings.resume else []
    known = {(row["place"], row["new"]) for row in rows}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with forked_tests.copies(settings.workers) as workers, REPORT.open("w") as report:
        report.writelines(as_line(row) for row in rows)
        for row in run_mutants([m for m in mutants if (m.place, m.mutation.new) not in known], workers):
            rows.append(row)
            print(as_line(row), end="", file=report, flush=True)
            show(len(rows), len(mutants), row)
    print(f"{len(passed_over)} equivalent mutants passed over; {(time.monotonic() - start) / 60:.0f} minutes; rows in {REPORT}")
    print(summary(rows))
    sys.exit(any(row["result"] == "survived" for row in rows))


if __name__ == "__main__":
    main()
