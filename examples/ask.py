"""Ask a server what is on some pictures. Needs nothing but Python and pupila/client.py.

python examples/ask.py http://127.0.0.1:3000 horse.jpg dog.jpg
"""

import sys

from pupila.client import Client, ServerError


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    url, *paths = sys.argv[1:]
    try:
        with Client(url) as client:  # it waits and asks again when the server is busy
            answers = client.predict(*paths, top=3)
    except ServerError as error:
        for part in error.parts:
            print(f"{paths[part['index']]}: {part['message']}")
        raise SystemExit(f"{error.code}: {error}") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    except OSError as error:  # a file, which has a name, or the server
        raise SystemExit(f"{error.filename or url}: {error.strerror or error}") from None
    for path, answer in zip(paths, answers, strict=True):
        choices = ", ".join(f"{category} {confidence:.0%}" for category, confidence in answer.top)
        print(f"{path}: {'none of the classes; nearest: ' if answer.unknown else ''}{choices}")


if __name__ == "__main__":
    main()
