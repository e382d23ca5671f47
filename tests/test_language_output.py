"""In Portuguese no command and no page has English in it: they are run, and what they show is read word by word."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from data_kit import scene
from PIL import Image
from server_kit import wait_for_url
from training_kit import colours

import pupila
from pupila.cli import main

ENGLISH = re.compile(
    r"\b(?:the|of|and|with|without|is|are|was|were|be|been|has|have|had|this|that|these|those|to|from|on|by|it|its"
    r"|not|than|at|an|or|if|they|them|all|any|each|every|some|both|other|another|there|here|where|when|which|what|why"
    r"|how|so|but|only|too|very|more|most|less|few|first|second|last|next|then|again|before|after|between|within|into"
    r"|out|over|under|can|cannot|may|must|should|will|would|does|do not|one|two|you|your|give|choose|check"
    r"|pictures?|class|files?|folders?|names?|labels?|epoch|accuracy|weights?|training|trained|validation"
    r"|width|height|size|smallest|largest|median|format|colours|right|wrong|answers?|unknown|minutes?|seconds?"
    r"|left|runs?|best|better|kept|stopped|failed|wrote|written|server|keys?|requests?|version|model)\b",
    re.IGNORECASE,
)
"""Words of English that Portuguese, file names, options and keys of recipes in these tests do not have."""
CODE = "|".join([
    r"^Uso: .*|\bpupila \w+.*",  # commands
    r"`[^`]*`|'[^']*'|\b[A-Z]{2,}\b|\bX-[\w-]+",
    r"--[\w-]+|\w+ = \S+|\S*[/=_]\S*|\w+,\w+",  # options, keys and their values
    r"\S+\.\w{2,5}\b|\bruns\b|^best |bundled \w+",  # names of files, folders, recipes and weights
])  # fmt: skip
"""What is no language: code, names in quotes, commands, keys with their values, paths, options."""
CLASSES = ("cachorro", "gato", "pato")
SMALL = ["--weights", "bundled", "--recipe", "quick", "--epochs", "2"]
SMALL += [word for pair in ("network_size=32", "batch_size=16", "export=float32") for word in ("--set", pair)]


def left_over(text: str) -> list[str]:
    """Return the lines that have English in them; code, options, paths and assignments are no language."""
    plain = re.sub(CODE, " ", text, flags=re.MULTILINE)
    return [line for line, bare in zip(text.splitlines(), plain.splitlines(), strict=True) if ENGLISH.search(bare)]


def text_of(page: Path) -> str:
    """Return what a page shows, and what a screen reader says of its pictures, one element a line."""
    text = re.sub(r"<(style|title)>.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    shown = re.sub(r'<img [^>]*alt="([^"]*)"[^>]*>', r"\n\1\n", text)
    return html.unescape(re.sub(r"<[^>]*>", "\n", shown))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with what can be wrong with photos: a leak, copies, one colour, odd and broken files."""
    folder = tmp_path_factory.mktemp("idioma")
    data = colours(60, classes=CLASSES)
    for number, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / "fotos" / ("test" if number > 44 else "train") / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    train, test = folder / "fotos" / "train", folder / "fotos" / "test"
    for number, path in enumerate((train / "gato", train / "pato", test / "gato")):
        scene(7).save(path / f"igual{number}.png")
    Image.new("RGB", (40, 40), "red").save(train / "gato" / "lisa.png")
    Image.new("RGB", (9, 12), "red").save(train / "gato" / "mini.png")
    Image.new("CMYK", (40, 40), "red").save(train / "pato" / "tons.jpg")
    scene(8).save(train / "pato" / "outra.png", format="JPEG")
    (train / "pato" / "curta.png").write_bytes((train / "pato" / "igual1.png").read_bytes()[:300])
    (train / "pato" / "texto.jpg").write_text("nada")
    return folder


def run(folder: Path, line: str) -> tuple[int, str]:
    """Run one command in Portuguese and return its exit code and all that it prints; `serve` in its own process."""
    if line.startswith("serve"):
        done = subprocess.run(
            [sys.executable, "-m", "pupila", *line.split()], env={**os.environ, "PUPILA_LANG": "pt_BR"},
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PUPILA_LANG", "pt_BR")
        patch.setenv("PUPILA_CACHE", str(folder / "cache"))
        done = CliRunner(env={"COLUMNS": "200"}).invoke(main, line.split())
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The same folder with two trainings of these photos, and a sweep."""
    lines = [
        f"train fotos {' '.join(SMALL)} --name a", f"train fotos {' '.join(SMALL)} --name a --seed 1",
        f"sweep fotos {' '.join(SMALL)} --grid lr=0.01,0.001 --name s".replace("--weights ", "--set weights=")
        .replace("--epochs ", "--set epochs="),
    ]  # fmt: skip
    for line in lines:
        code, output = run(folder, line)
        assert code == 0, output
        assert left_over(output) == [], line
        assert not re.search(r"\s[01]\.\d{3}\b", output), "a figure of a table has a decimal point"
    return folder


WORKS = [
    "data fotos --report dados.html",
    "data fotos --organise novas",
    "train fotos --explain --weights none",
    "train fotos --explain --recipe quick --set balance=loss",
    "evaluate runs/a/model.onnx fotos --report notas",
    "evaluate runs/a/model.onnx fotos --split train",
    "evaluate runs/a/model.onnx fotos --split all",
    "compare runs/a/model.onnx runs/a-2/model.onnx fotos --report dois.html",
    "compare runs/a/model.onnx runs/a-2/model.onnx fotos --split train --report dois-treino.html",
    "compare --runs runs --report treinos.html",
    "inspect runs/a/model.onnx",
    "predict runs/a/model.onnx fotos/test",
    "predict runs/a/model.onnx fotos/test --out tabela.csv",
    "predict runs/a/model.onnx fotos/test --sort-into pastas",
    "predict runs/a/model.onnx fotos/test --sort-into pastas --apply",
    "mislabelled fotos achados --weights bundled",
    "models list runs/a/model.onnx",
    "keys new loja --rate 5 --add chaves.txt",
    "keys new loja",
    "keys list chaves.txt",
    "recipes",
    "recipes --keys",
    "reproduce runs/a",
]


@pytest.mark.parametrize("line", WORKS)
def test_what_a_command_prints_and_its_pages_are_in_portuguese(trained: Path, line: str) -> None:
    before = set(trained.rglob("*.html"))
    _, output = run(trained, line)
    assert "Traceback" not in output and output
    assert left_over(output) == []
    for page in set(trained.rglob("*.html")) - before:
        assert left_over(text_of(page)) == [], page.name


FAILS = [
    "data nada",
    "train fotos --recipe quik",
    "train fotos --set learnin_rate=1 --set epochs=0",
    "train fotos --weights nada.pth",
    "train fotos --labels nada.csv",
    "train fotos --name ../x",
    "train fotos --epochs x",
    "train --resume",
    "train fotos --resume",
    "trian fotos",
    "sweep fotos --grid seed=1,2",
    "evaluate runs/a/model.onnx nada",
    "evaluate runs/a/model.onnx digits",
    "compare runs/a/model.onnx fotos",
    "compare --runs fotos",
    "inspect nada.onnx",
    "inspect chaves.txt",
    "predict runs/a/model.onnx",
    "predict runs/a/model.onnx nada.jpg fotos/train/pato/texto.jpg fotos/train/pato/curta.png",
    "predict http://127.0.0.1:9/",
    "predict fotos --out x.csv --sort-into y",
    "predict fotos --out x.txt",
    "models rollback runs/a/model.onnx",
    "models activate runs/a/model.onnx 1234",
    "keys list nada.txt",
    "keys new a/b",
    "feedback show nada",
    "drift runs/a/model.onnx nada",
    "reproduce nada",
    "recipes nada",
    "serve nada.onnx",
    "serve --host http://127.0.0.1:80",
    "serve --port 99999",
    "serve --tls-key chave.pem",
    "serve --api-keys nada.txt",
    "serve --access-log nada/log",
]


@pytest.mark.parametrize("line", FAILS)
def test_what_a_command_says_when_it_fails_is_in_portuguese(trained: Path, line: str) -> None:
    code, output = run(trained, line)
    assert code in (1, 2) and "Traceback" not in output
    assert left_over(output) == []


def test_server_and_what_it_keeps_are_in_portuguese(trained: Path) -> None:
    command = [sys.executable, "-m", "pupila", "serve", "runs/a/model.onnx", "--port", "0", "--workers", "1"]
    log = trained / "servidor.log"
    with log.open("w") as out, subprocess.Popen(
        [*command, "--feedback-dir", "respostas"], cwd=trained, stdout=out, stderr=out,
        env={**os.environ, "PUPILA_LANG": "pt_BR"},
    ) as process:  # fmt: skip
        url = wait_for_url(process, log, "Escutando em")
        with pupila.Client(url) as client:
            client.predict(sorted(trained.glob("fotos/test/*/*.png")))
        process.terminate()
    assert left_over(log.read_text()) == []
    for line in ("show respostas", *(f"delete respostas{more}" for more in (" --request nada", "", " --everything"))):
        _, output = run(trained, f"feedback {line}")
        assert output and left_over(output) == [], line


def test_each_sentence_about_leaks_is_a_paragraph_of_its_own(trained: Path) -> None:
    run(trained, "data fotos --report vazamentos.html")
    text = text_of(trained / "vazamentos.html")
    assert "\nVAZAMENTO: 1 de 16 imagens de teste" in text and "\nDentro de uma mesma parte, há 2 pares" in text


def test_reports_of_trainings_and_sweeps_are_in_portuguese(trained: Path) -> None:
    pages = list(trained.glob("runs/**/*.html"))
    assert len(pages) >= 4
    for page in pages:
        assert left_over(text_of(page)) == [], page.name
