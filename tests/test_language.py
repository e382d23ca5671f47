"""Messages in Portuguese: the catalogue is complete, finds every message again, and costs nothing in English."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from babel.messages.pofile import read_po
from click.testing import CliRunner
from PIL import Image

from pupila import _language
from pupila._arguments import counted
from pupila._language import FIELD, translated
from pupila.cli import main
from pupila.evaluation.pages.report import ProgressPage

ROOT = Path(__file__).parents[1]
ENTRIES = {entry.msgid: entry.msgstr for entry in _language.read_catalogue() if entry.msgid}
CODE = re.compile(r"`[^`]+`|(?<![\w-])--[a-z][a-z-]*|pupila (?:train|data|serve|predict|keys|inspect|recipes)\b")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("LC_") and key != "PUPILA_LANG"}
    return subprocess.run(
        [Path(sys.executable).with_name("pupila"), *map(str, arguments)],
        env={**plain, "LANG": "C.UTF-8", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


COUNTED = re.compile(r"\{\d+:,\} (?:\w+ )?(?:pictures|answers|files|classes|epochs|rows|pairs|trials|runs|minutes)\b")
ALWAYS_MANY = (
    "served pictures against", "fewer than", "pictures give steps", "shown in all",
    "pictures to train on", "cross-validated on features", "labels and {3:,} names", "names for {1:,} pictures",
    "holds over", "has over", "have over", "to over", "times through", "such pairs",
)  # fmt: skip
"""Parts of messages with limits, and with figures that are more than one."""


def test_what_may_be_one_is_written_in_the_singular_then() -> None:
    plurals = [text for text in ENTRIES if COUNTED.search(text) and not COUNTED.fullmatch(text)]
    assert [text for text in plurals if not any(part in text for part in ALWAYS_MANY)] == []
    assert (counted(1, "picture"), counted(1.0, "minute"), counted(2, "more class")) == (
        "1 picture", "1 minute", "2 more classes",
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def filled(template: str, kinds: dict[str, str]) -> str:
    """Put a sample into each field: a figure where the message has one, else a name."""

    def sample(field: re.Match[str]) -> str:
        if field[1] is None:
            return field[0][0]
        return "7.25" if kinds[field[1]] else f"name_{field[1]}"

    return FIELD.sub(sample, template)


def test_catalogue_has_every_message_of_the_sources_and_no_other() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from messages import messages
    finally:
        sys.path.pop(0)
    found = messages()
    missing, gone = set(found) - set(ENTRIES), set(ENTRIES) - set(found)
    assert not missing and not gone, f"run tools/messages.py and translate\nmissing: {missing}\ngone: {gone}"


def test_every_message_is_translated() -> None:
    assert [msgid for msgid, msgstr in ENTRIES.items() if not msgstr] == []
    with _language.CATALOGUE.open("rb") as file:
        assert [entry.id for entry in read_po(file) if entry.fuzzy] == []


def test_a_translation_keeps_the_fields_the_options_and_the_commands() -> None:
    wrong = []
    for msgid, msgstr in ENTRIES.items():
        fields = [sorted(field[1] or field[0] for field in FIELD.finditer(text)) for text in (msgid, msgstr)]
        codes = [sorted(CODE.findall(text)) for text in (msgid, msgstr)]
        if fields[0] != fields[1] or codes[0] != codes[1]:
            wrong.append((msgid, msgstr))
    assert wrong == []


def test_every_message_is_found_again_when_it_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    wrong = []
    for msgid, msgstr in ENTRIES.items():
        kinds = {field[1]: field[3] or "" for field in FIELD.finditer(msgid)}
        shown = translated(filled(msgid, kinds))
        expected = filled(msgstr, kinds)
        if re.sub(r"7[.,]25", "7.25", shown) != expected:
            wrong.append((msgid, shown, expected))
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Did you mean 'epochs'?", "Você quis dizer 'epochs'?"),
        ("1 epoch", "1 época"),
        ("3 epochs", "3 épocas"),
        ("a/b.png: cannot be read (Permission denied). Check its permissions.",
         "a/b.png: não pode ser lido (permissão negada). Confira as permissões."),
        ("The picture has 12,345 bytes, over the limit of 1,000. Make it smaller.",
         "A imagem tem 12.345 bytes, acima do limite de 1.000. Reduza o tamanho."),
        ("a.jpg: The picture is empty (0 bytes). Send the file's content.",
         "a.jpg: A imagem está vazia (0 bytes). Envie o conteúdo do arquivo."),
        ("epoch 3 at 96 px: loss 0.512, train acc 0.900, valid acc 0.950 (balanced 0.940), 12.3 s an epoch, 1:02 left",
         "época 3 com 96 px: perda 0,512, acurácia de treino 0,900, acurácia de validação 0,950 (balanceada 0,940), "
         "12,3 s por época, faltam 1:02"),
        ("The loss diverged in epoch 2, far above that of untrained weights: a learning rate of 0.5 is too high. Try "
         "--set learning_rate=0.1",
         "A perda divergiu na época 2, muito acima da de pesos não treinados: uma taxa de aprendizado de 0,5 é alta "
         "demais. Tente --set learning_rate=0.1"),
        ("Recipe x: epochs must be from 1 to 10, not 0. flip must be one of random, none, not 'x'.",
         "Receita x: epochs precisa estar entre 1 e 10; 0 não serve. flip precisa ser um destes: random, none; 'x' não "
         "serve."),
        ("Corrected pictures added to training: 12; left out: 3 of none of the classes; 2 not readable as a picture",
         "Imagens corrigidas incluídas no treino: 12; deixadas de fora: 3 de nenhuma das classes; 2 sem imagem "
         "legível"),
        ("Ignored 3 hidden folders (.git, .x, .y and 2 more).",
         "Fica de fora: 3 pastas ocultas (.git, .x, .y e mais 2)."),
        ("LEAK: 3 of 120 pictures of test (2.50%) found in another part too, 1 of them bit for bit. A score on test "
         "flatters.",
         "VAZAMENTO: 3 de 120 imagens de teste (2,50%) também em outra parte; idênticas bit a bit: 1. Uma "
         "métrica de teste é otimista."),
        ("Error: Invalid value for 'FOLDER': Directory 'x' does not exist.",
         "Erro: Valor inválido para 'FOLDER': A pasta 'x' não existe."),
        ("cat                      0.912   0.900     1,234", "cat                      0,912   0,900     1.234"),
        ("digits-quick  0,950  quick  1  0,2  128", "digits-quick  0,950  quick  1  0,2  128"),
        ("no.onnx: cannot be read (No such file or directory). Give the path of a .onnx model file.",
         "no.onnx: não pode ser lido (arquivo ou pasta não existe). Informe o caminho de um arquivo de modelo .onnx."),
        ("Folder of runs. [default: runs]", "Pasta dos treinos. [padrão: runs]"),
        ("marked as unknown: 5% of validation pictures, 100% of noise, 71% of small crops",
         "marcadas como desconhecidas: 5% das imagens de validação, 100% do ruído, 71% dos recortes pequenos"),
        ("Confidence: changed. The mean is 0.49, in the reference 0.74. (G = 95, p < 0.0001)",
         "Confiança: mudou. A média é 0,49; na referência, 0,74. (G = 95, p < 0,0001)"),
        ("a.job: the job was begun with something else (new files: 'a', 'b'; choices a row (--top): 1 then, 3 now). Go "
         "on with what it was begun with, or remove that folder to begin anew.",
         "a.job: o trabalho começou com outros dados ou opções (arquivos novos: 'a', 'b'; classes por linha (--top): 1 "
         "antes, 3 agora). Continue com os do início ou remova essa pasta para começar de novo."),
        ("m.onnx: there is no version 'abc'. There are: none yet",
         "m.onnx: não existe a versão 'abc'. Existem: nenhuma ainda"),
        ("would copy a.jpg to sorted/cat/a.jpg", "faria uma cópia: a.jpg → sorted/cat/a.jpg"),
        ("The largest class of train has 1.1 times the pictures of the smallest: balanced enough.",
         "A maior classe do conjunto de treino tem 1,1 vezes o número de imagens da menor: equilíbrio suficiente."),
        ("  float32: 44.7 MB, 9.94 ms a picture on one thread, valid acc 0.9420 on 3,000",
         "  float32: 44,7 MB, 9,94 ms por imagem em uma thread, acurácia de validação 0,9420 em 3.000"),
        ("* int8: 11.3 MB, 3.36 ms a picture on one thread, valid acc 0.9424 on 3,000",
         "* int8: 11,3 MB, 3,36 ms por imagem em uma thread, acurácia de validação 0,9424 em 3.000"),
        ("x.jpg: Not a picture that can be read: it is text. Send the picture itself.",
         "x.jpg: Não é uma imagem que possa ser lida: é texto. Envie a imagem em si."),
        ("photos-standard (no model yet)", "photos-standard (ainda sem modelo)"),
    ],
)  # fmt: skip
def test_a_text_is_translated_with_its_parts(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    assert translated(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "horse.jpg: horse 0.979",
        '{"path": "a.jpg"}',
        "runs/photos-standard/model.onnx",
        "an English sentence.",
        "3: train, test, hot dog",
        "curl -F file=@a.jpg http://127.0.0.1:3000/predict",
        "1.5",
    ],
)
def test_names_and_what_is_unknown_stay_as_they_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    assert translated(text) == text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PUPILA_LANG": "pt_BR"}, "pt-BR"),
        ({"PUPILA_LANG": "en", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt-BR"),
        ({"LC_ALL": "C", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LC_MESSAGES": "pt_PT", "LANG": "en_US.UTF-8"}, "pt-BR"),
        ({"LANG": "C"}, "en"),
        ({}, "en"),
    ],
)
def test_language_is_that_of_pupila_lang_or_of_the_locale(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PUPILA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _language.language() == expected


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        yield from commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]


@pytest.mark.parametrize("path", list(commands(main)), ids=lambda path: " ".join(path) or "pupila")
def test_help_of_every_command_is_in_portuguese(path: tuple[str, ...]) -> None:
    shown = CliRunner(env={"PUPILA_LANG": "pt_BR", "COLUMNS": "200"}).invoke(
        main, [*path, "--help"], prog_name="pupila"
    )
    assert shown.exit_code == 0
    assert shown.output.startswith(" ".join(["Uso: pupila", *path, "[OPÇÕES]"]))
    assert "Mostra esta mensagem e sai." in shown.output
    english = re.compile(r"\b(the|of|with|and|is|are|this|default|Options|Commands|Examples|OPTIONS|COMMAND|ARGS)\b")
    assert [line for line in shown.output.splitlines() if english.search(line)] == []


def test_errors_are_in_portuguese(tmp_path: Path) -> None:
    wrong, missing = run("train", "--hlp", PUPILA_LANG="pt_BR"), run("data", tmp_path / "no", PUPILA_LANG="pt_BR")
    assert (wrong.returncode, missing.returncode) == (2, 1)
    assert "Erro: Não existe a opção '--hlp'." in wrong.stderr
    assert "Para ajuda, use 'pupila train --help'" in wrong.stderr
    assert f"pupila: {tmp_path / 'no'}: não existe arquivo nem pasta com esse nome" in missing.stderr


def test_page_of_a_running_training_is_in_portuguese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    page = ProgressPage(tmp_path, "photos")
    page.due = 0.0
    page.update([{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.8, "validation_accuracy": 0.75, "seconds": 90.0}])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>photos: treino</h1>" in text and "Esta página se atualiza sozinha." in text
    assert "<b>75,0%</b>acurácia de validação" in text and "1,5 minutos" in text


def test_report_of_data_and_its_page_are_in_portuguese(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("data", photos, "--report", page, LANG="pt_BR.UTF-8")
    assert done.returncode == 0 and "Há uma só parte, então nada pode vazar." in done.stdout, done.stderr
    text = page.read_text(encoding="utf-8")
    assert '<html lang="pt-BR">' in text and "<h2>Resumo</h2>" in text and "O que a rede vê" in text
    assert '<td class="text">cat</td>' in text


def test_json_has_no_language(photos: Path) -> None:
    outputs = [run("data", photos, "--json", PUPILA_LANG=language).stdout for language in ("en", "pt_BR")]
    assert outputs[0] == outputs[1]


def test_english_is_what_a_plain_locale_means_and_loads_nothing_of_the_catalogue(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "There is one part only" in run("data", photos, "--report", page, LANG="C").stdout
    assert '<html lang="en">' in page.read_text(encoding="utf-8")
    script = (
        "from pupila.cli import main; from pupila import _language; main(['--help'], standalone_mode=False); "
        "assert _language._catalogue.cache_info().currsize == 0"
    )
    environment = {**os.environ, "LC_ALL": "C", "PUPILA_LANG": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "text",
    ["a b" + "." * 1500, "[default: ; ] " * 21 + "x", "a" + " " * 50_000 + "b", "a" + "  1" * 9000 + " x"],
    ids=["signs", "messages", "blanks", "figures"],
)
def test_text_that_could_be_read_in_many_ways_takes_no_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    translated("The catalogue is read once.")
    begun = time.process_time()
    assert translated(text)[:1] == text[:1]
    assert time.process_time() - begun < 3
