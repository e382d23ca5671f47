"""Use a model within a program of your own: no server, no PyTorch, one file.

python examples/embed.py runs/photos/model.onnx horse.jpg dog.jpg
"""

import sys
from pathlib import Path

from pupila import Predictor
from pupila.errors import ImageError, ModelError
from pupila.predictor import predict_files


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    model, *paths = sys.argv[1:]
    try:
        predictor = Predictor.load(Path(model))  # verified against its golden set; may be shared by threads
    except ModelError as error:  # one sentence that names the file and the fix
        raise SystemExit(str(error)) from None
    for path, answer in predict_files(predictor, [Path(path) for path in paths], top=3):
        if isinstance(answer, ImageError):
            print(f"{path}: {answer}")
        elif answer.unknown:
            print(f"{path}: none of {', '.join(predictor.manifest.classes)}")
        else:
            print(f"{path}: " + ", ".join(f"{choice.category} {choice.confidence:.0%}" for choice in answer.top))


if __name__ == "__main__":
    main()
