"""`python -m tutorials capstone FOLDER`: read the runs and the report of a study, and list what is missing."""

from pathlib import Path

from tutorials.capstone.checks import CHECKS, training_minutes
from tutorials.capstone.figures import summary
from tutorials.capstone.runs import collect, read_runs, study_of

REPORT = "report.md"
MINUTES = 30.0


def problems(folder: Path, minutes: float = MINUTES) -> dict[str, list[str]]:
    """{name of a check: what is missing}, in the order of the checks."""
    path = folder / REPORT
    report = path.read_text() if path.is_file() else ""
    study = study_of(read_runs(folder))
    return {name: check(study, report, minutes) for name, check in CHECKS.items()}


def command(folder: Path, minutes: float, gather: bool) -> int:
    if gather:
        print(f"wrote {collect(folder)}")
    results = problems(folder, minutes)
    for name, missing in results.items():
        print(f"{'ok     ' if not missing else 'missing'} {name}")
        for sentence in missing:
            print(f"        - {sentence}")
    print(*summary(study_of(read_runs(folder))), sep="\n")
    print(f"training: {training_minutes(study_of(read_runs(folder))):.1f} of {minutes:g} minutes")
    count = sum(not missing for missing in results.values())
    print(f"{count} of {len(results)} checks passed")
    return 0 if count == len(results) else 1
