"""Train on a folder of photos, one folder a class, from a program of your own.

python examples/train.py photos runs/photos --minutes 5

Needs pip install 'pupila[train]'.
"""

import argparse
from pathlib import Path

from pupila import PupilaError
from pupila.recipe import load_recipe
from pupila.training.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a folder of photos.")
    parser.add_argument("photos", help="a folder with one folder a class")
    parser.add_argument("run", type=Path, help="a new folder for the results")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--weights", default="auto", help="what to start from: auto, imagenet, bundled, none or a file")
    chosen = parser.parse_args()
    recipe = load_recipe("standard", [f"minutes={chosen.minutes}", f"weights={chosen.weights}"])
    try:
        trained = train(chosen.photos, recipe, chosen.run)
    except PupilaError as error:  # one sentence that names the thing and the fix
        raise SystemExit(str(error)) from None
    metrics = trained.exported.predictor.manifest.metrics
    print(f"{trained.model}: right on {metrics['accuracy']:.0%} of {metrics['n']} pictures held out of training")


if __name__ == "__main__":
    main()
