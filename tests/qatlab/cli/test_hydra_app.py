from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MISTAKES = (
    *("quant.weight.bits=four", "+model.dropuot=1", "solver.optimizer.lr=x", "target=d"),
    *("+quant.rules.a={name: a, weight: {bits: 2}}", "trainer.max_epochs=3", "distill=nowhere"),
)
CODE = """
import sys
from qatlab.cli.hydra_app import start, test, train

given = sys.argv[1:]
for main, words in [(train, [word]) for word in given] + [(train, ["mode=plan"]), (test, [])]:
    sys.argv[1:] = ["data=synthetic", *words]
    if main is test:
        sys.argv[1:] = ["run=nowhere"]
    try:
        start(main)
    except SystemExit as ended:
        assert ended.code == 1
    else:
        assert words == ["mode=plan"], words
unneeded = {"pytorch_lightning", "torchmetrics", "torchvision", "matplotlib", "plotly"}
assert "torch" in sys.modules
assert not unneeded & sys.modules.keys(), unneeded & sys.modules.keys()
"""


def test_mistakes_and_plans_do_not_import_what_trains(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *MISTAKES],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Error: ") == len(MISTAKES) + 1, done.stderr
