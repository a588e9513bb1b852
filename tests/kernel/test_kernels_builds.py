"""The second gate: every kernel built for sm_90, 89, 80 and 75 without a GPU, against the committed table and hard limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_here import triton

from kernels.bench import builds
from kernels.triton_kernels.ahead_of_time import read_table

ROOT = Path(__file__).parents[2]
COMPILER = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
    "PYTHONPATH": "."
}  # compiled, not interpreted: another process
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
pytestmark = pytest.mark.skipif(not TOOLS.exists(), reason="this Triton has no NVIDIA tools")


def compiled(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=COMPILER, capture_output=True, text=True)


@pytest.mark.timeout(600)
@pytest.mark.long
@pytest.mark.parametrize("sm", ["90", "89", "80", "75"])
def test_all_builds_are_as_in_the_table(sm, tmp_path):
    """Fails on a spill, on too much shared memory, on a lost wgmma, and on any other change of the table."""
    done = compiled("-m", "kernels.bench", "builds", "--sm", sm, "--out", str(tmp_path))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = read_table(tmp_path / "ahead_of_time.csv")
    assert {row["sm"] for row in rows} == {sm} and len(rows) >= 20
    for row in rows:
        assert row["spilled"] == "0" and int(row["shared"]) <= int(row["limit"]), row


def test_the_gate_sees_a_planted_spill():
    """`acc += dot * scale` on top of a full accumulator; the same kernel with the multiplication inside of it does not spill."""
    done = compiled("-m", "tutorials.built_by_hand")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["inside the accumulator"]["spilled"] == 0 < result["beside the accumulator"]["spilled"], result
    assert result["comparisons"]["per weight"] > 2 * result["table of 16"]["per weight"] > 2 * 8, result
    assert result["table of 256 pairs"]["per weight"] < 8, result


VALUES = "3.7.1 expand_kernel x 90 8 3 180 0 1000 232448 5 0 0 900 100"
ROW = dict(zip(builds.HEADER, [*VALUES.split(), ""], strict=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"spilled": "528"}, "528 bytes spilled"),
        ({"shared": "262144"}, "262144 bytes of shared memory, 232448 are there"),
        ({"wgmma": "0", "mma": "64"}, "no wgmma"),
        ({"kernel": "expand_persistent_kernel"}, "no bulk tensor copies"),
        ({"kernel": "gemv_kernel", "per_weight": "9.10"}, "9.10 instructions per weight"),
    ],
)
def test_what_the_gate_refuses(change, text):
    assert builds.problems(ROW) == []
    assert text in " ".join(builds.problems(ROW | change))


def test_the_gate_compares_with_the_table_of_this_triton():
    own = ROW | {"triton": triton.__version__}
    assert builds.differences([own], [own]) == []
    assert "registers 180 → 200" in builds.differences([own | {"registers": "200"}], [own])[0]
    assert "not in the table" in builds.differences([own, own | {"variant": "new"}], [own])[0]
    assert "in the table, not built" in builds.differences([], [own])[0]
    other = own | {"triton": "0.0", "registers": "10"}
    assert builds.differences([own], [other]) == []  # another compiler: the limits alone


def test_the_table_holds_what_is_claimed_of_hopper():
    """wgmma in the GEMMs, bulk copies in the persistent one, at most 8 instructions per weight in the NF4 loops."""
    rows = [row for row in read_table() if row["sm"] == "90"]
    assert all(int(row["wgmma"]) >= 5 for row in rows if row["kernel"] == "gemm_kernel")
    weights = [float(row["per_weight"]) for row in rows if row["per_weight"] and "blocks of" not in row["variant"]]
    assert len(weights) == 6 and max(weights) <= 8
    assert all(row["spilled"] == "0" for row in rows)
