"""Use a model within a program of your own: no server, no PyTorch, one file.

python examples/embed.py runs/photos/model.onnx horse.jpg dog.jpg
"""

import sys

import pupila


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    try:
        model = pupila.load(sys.argv[1])  # verified against its golden set; may be shared by threads
    except pupila.ModelError as error:  # one sentence that names the file and the fix
        raise SystemExit(str(error)) from None
    for path in sys.argv[2:]:
        try:
            answer = model.predict(path, top=3)
        except pupila.ImageError as error:
            print(error)
            continue
        choices = ", ".join(f"{choice.category} {choice.confidence:.0%}" for choice in answer.top)
        print(f"{path}: {'none of the classes; nearest: ' if answer.unknown else ''}{choices}")


if __name__ == "__main__":
    main()
