"""Train on a folder of photos, one folder a class, from a program of your own.

python examples/train.py photos 5
"""

import sys

import pupila


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    photos, minutes = sys.argv[1:]
    try:
        run = pupila.train(photos, minutes=float(minutes))
    except pupila.PupilaError as error:  # one sentence that names the thing and the fix
        raise SystemExit(str(error)) from None
    print(f"{run.model}: right on {run.accuracy:.0%} of the pictures held out of training; {run.report} says more")


if __name__ == "__main__":
    main()
