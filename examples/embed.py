"""Use a model within a program of your own: no server, no PyTorch, one file.

python examples/embed.py runs/photos/model.onnx horse.jpg dog.jpg
"""

import sys
from pathlib import Path

from pupila import Predictor
from pupila.errors import ImageError
from pupila.predictor import predict_files


def main() -> None:
    model, *paths = sys.argv[1:]
    predictor = Predictor.load(Path(model))  # verified against its golden set; may be shared by threads
    for path, answer in predict_files(predictor, [Path(path) for path in paths], top=3):
        if isinstance(answer, ImageError):
            print(f"{path}: {answer}")
        elif answer.unknown:
            print(f"{path}: none of {', '.join(predictor.manifest.classes)}")
        else:
            print(f"{path}: " + ", ".join(f"{choice.category} {choice.confidence:.0%}" for choice in answer.top))


if __name__ == "__main__":
    main()
