"""Ask a server what is on some pictures.

python examples/ask.py http://127.0.0.1:3000 horse.jpg dog.jpg
"""

import sys

import pupila


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    url, *paths = sys.argv[1:]
    try:
        with pupila.Client(url) as client:  # it waits and asks again when the server is busy
            answers = client.predict(paths, top=3)
    except pupila.ServerError as error:
        for part in error.parts:
            print(f"{paths[part['index']]}: {part['message']}")
        raise SystemExit(f"{error.code}: {error}") from None
    except pupila.PupilaError as error:
        raise SystemExit(str(error)) from None
    for path, answer in zip(paths, answers, strict=True):
        choices = ", ".join(f"{choice.category} {choice.confidence:.0%}" for choice in answer.top)
        print(f"{path}: {'none of the classes; nearest: ' if answer.unknown else ''}{choices}")


if __name__ == "__main__":
    main()
