"""Deletes rows from a trained model, and writes a receipt: what was done, and what is known of the result.

`python experiments/forget.py --dataset=npz:mine.npz --rows=requests.csv --method=camu --out=deletion`
`python experiments/forget.py verify deletion/receipt.json`
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/forget.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from camu_jax.data import DataError  # noqa: E402
from experiments import console  # noqa: E402
from experiments.deletion import case, options, verify, work  # noqa: E402


def forget(argv: Sequence[str] | None) -> int:
    """Deletes rows; returns the exit code."""
    return work.run(case.open_case(options.parse(argv)))


def check(argv: Sequence[str]) -> int:
    """Checks a receipt; returns the exit code."""
    return verify.run(console.parse(argv, verify.VerifyOptions(receipt=""), f"{options.PROG} verify"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["verify"]:
        return console.command(lambda: check(words[1:]), DataError)
    return console.command(lambda: forget(words), DataError)


if __name__ == "__main__":
    process.end(main())
