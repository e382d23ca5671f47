"""Names as systems write them: code pages, decomposed letters, numbers, spaces, and the splits in users' languages."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from data_kit import make_folder, make_zip, picture

from pupila.cli import main
from pupila.data import Splits, load_dataset
from pupila.data.sources.files import is_undecoded, name_decoder, name_readings, sure_encoding, utf8_name
from pupila.errors import DataError


def load(path: Path, **options: str) -> Splits:
    return load_dataset(path, 8, cache=path.parent / "cache", **options)  # type: ignore[arg-type]


def zip_with_raw_names(path: Path, files: Mapping[bytes, bytes]) -> Path:
    """Write a zip as Windows and macOS do: names as bytes, without the flag for UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, data in enumerate(files.values()):
            archive.writestr(f"{index:09d}".ljust(len(list(files)[index]), "x"), data)
    data = path.read_bytes()
    for index, name in enumerate(files):
        data = data.replace(f"{index:09d}".ljust(len(name), "x").encode(), name)
    path.write_bytes(data)
    return path


def pets(first: str, second: str, encoding: str) -> dict[bytes, bytes]:
    return {f"{name}/picture{n}.png".encode(encoding): picture(n) for n, name in enumerate((first, second) * 2)}


@pytest.mark.parametrize(
    ("encoding", "first", "second"),
    [
        ("cp850", "cão", "São Bernardo"),
        ("cp1252", "maçã", "pão de açúcar"),
        ("cp437", "niño", "pingüino"),
        ("cp850", "MAÇÃ", "LIMÃO"),
        ("cp1252", "forêt", "Été"),
        ("cp850", "Hündin", "Schäferhund"),
        ("cp852", "pies", "żółty"),
        ("cp866", "собака", "кошка"),
        ("cp932", "いぬ", "ねこ"),
        ("utf-8", "cão", "犬"),
        ("cp860", "cão", "São Bernardo"),
        ("cp860", "maçã", "limões"),
        ("cp865", "kød", "blåbær"),
        ("cp850", "häst", "får"),
        ("cp437", "Möwe", "Käse"),
        ("cp1252", "räv", "höna"),
        ("cp850", "1ª série", "2ª série"),
        ("cp1252", "nº 1", "nº 2"),
        ("cp850", "10° graus", "20° graus"),
        ("cp850", "Conforme", "Não conforme"),
        ("cp1252", "fotos \u2013 2020", "cão"),
        ("cp1252", "l\u2019été", "d\u2019hiver"),
    ],
)
def test_zip_names_without_the_flag_for_utf_8_are_read_right(
    tmp_path: Path, encoding: str, first: str, second: str
) -> None:
    splits = load(zip_with_raw_names(tmp_path / "pets.zip", pets(first, second, encoding)))
    assert set(splits.train.classes) == {first, second}
    assert any("Names not in UTF-8 were read as" in note for note in splits.notes) == (encoding != "utf-8")


def test_zip_names_of_macos_are_composed(tmp_path: Path) -> None:
    files = {b"ca\xcc\x83o/picture1.png": picture(1), b"gato/picture22.png": picture(2)}
    assert load(zip_with_raw_names(tmp_path / "pets.zip", files)).train.classes == ("cão", "gato")


def test_names_that_could_mean_several_things_are_asked_about_and_the_command_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path / "cache"))
    path = zip_with_raw_names(tmp_path / "pets.zip", pets("犬", "猫", "cp932"))
    with pytest.raises(DataError, match="cp932: ") as error:
        load(path)
    command = str(error.value).partition("look at it first: pupila ")[2].split()
    command[-1] = "cp932"
    done = CliRunner().invoke(main, [*command, "--json"])
    assert set(json.loads(done.output)["counts"]["train"]) == {"犬", "猫"}
    monkeypatch.setenv("PUPILA_NAME_ENCODING", "cp932")
    assert set(load(path).train.classes) == {"犬", "猫"}
    with pytest.raises(DataError, match="xyz: is no encoding"):
        load(path, name_encoding="xyz")


def test_name_that_is_utf_8_by_chance_is_read_as_the_others_are(tmp_path: Path) -> None:
    files = pets("小狗", "小貓", "gbk")
    assert "小貓".encode("gbk").decode() == "С؈"  # noqa: RUF001 - that is the point
    path = zip_with_raw_names(tmp_path / "pets.zip", files)
    assert set(load(path, name_encoding="gbk").train.classes) == {"小狗", "小貓"}
    mixed = {**pets("maçã", "pão", "cp1252"), "cão/picture333.png".encode(): picture(9)}
    assert set(load(zip_with_raw_names(tmp_path / "more.zip", mixed)).train.classes) == {"maçã", "pão", "cão"}


def test_info_zips_unicode_names_are_believed(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index, name in enumerate(("犬/0.png", "猫/1.png")):
            text = name.encode()
            member = zipfile.ZipInfo(f"x{index}/{index}.png")
            member.extra = struct.pack("<HHBL", 0x7075, 5 + len(text), 1, 0) + text
            archive.writestr(member, picture(index))
    path.write_bytes(path.read_bytes().replace(b"x0/", b"\x8c\xa2/").replace(b"x1/", b"\x94\x4c/"))
    assert set(load(path).train.classes) == {"犬", "猫"}


def test_tar_names_in_a_code_page_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="cp1252") as archive:
        for index, name in enumerate(("cão", "maçã")):
            member = tarfile.TarInfo(f"{name}/{index}.png")
            member.size = len(picture(index))
            archive.addfile(member, io.BytesIO(picture(index)))
    assert load(path).train.classes == ("cão", "maçã")


def test_latin_1_locale_reads_names_in_utf_8(tmp_path: Path) -> None:
    make_folder(tmp_path / "coleção", {"cão": 1, "gato": 1})
    code = "import sys; from pathlib import Path; from pupila.data import load_dataset\n"
    code += "splits = load_dataset(Path(sys.argv[1]), 8, cache=Path(sys.argv[2]))\n"
    code += "from pupila.progress import printable\nfrom pupila.cli.group import say\n"
    code += "sys.stdout.reconfigure(encoding='utf-8')\nsay(sys.argv[1].rpartition('/')[2])\n"
    code += "print(ascii((splits.name, printable(sys.argv[1]).rpartition('/')[2], *splits.train.classes)))"
    plain = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "coleção", tmp_path / "cache"],
        capture_output=True, text=True, timeout=120, check=True, env=plain,
    )  # fmt: skip
    assert done.stdout.strip() == "coleção\n" + ascii(("coleção", "coleção", "cão", "gato"))


def test_no_reading_is_taken_for_sure_that_is_not() -> None:
    for text, encoding in (
        ("犬", "cp932"),
        ("狗", "gbk"),
        ("고양이", "cp949"),
        ("þröstur", "cp861"),
        ("irmã", "cp860"),
    ):
        name = utf8_name(text.encode(encoding))
        assert is_undecoded(name) and sure_encoding(name_readings([name])) is None


@pytest.mark.parametrize(
    ("encoding", "first", "second"),
    [
        ("cp737", "γάτα", "σκύλος"),
        ("cp1253", "γάτα", "σκύλος"),
        ("cp862", "חתול", "כלב"),
        ("cp1255", "חתול", "כלב"),
        ("cp1256", "قطة", "كلب"),
        ("cp857", "köpek", "ağaç"),
        ("cp1254", "kuş", "ağaç"),
        ("cp874", "แมว", "หมา"),
        ("koi8-r", "кошка", "собака"),
        ("cp852", "kůň", "žába"),
        ("cp1250", "kůň", "žába"),
    ],
)
def test_names_of_other_languages_are_asked_about_and_not_taken_for_cyrillic_or_czech(
    tmp_path: Path, encoding: str, first: str, second: str
) -> None:
    path = zip_with_raw_names(tmp_path / "pets.zip", pets(first, second, encoding))
    with pytest.raises(DataError, match=f"can be read in several ways .*{encoding}: '"):
        load(path)
    assert set(load(path, name_encoding=encoding).train.classes) == {first, second}


def test_time_for_names_in_no_known_encoding_does_not_grow_with_their_number() -> None:
    """Each took 12 ms in 24 code pages."""
    raw = [(b"\xe7\xf5" * 60 + b"\xe3\x85\x84" * 40)[:240] + b"%d.jpg" % number for number in range(20_000)]
    names = [utf8_name(name) for name in raw]
    begun = time.process_time()
    readings = name_readings(names)
    assert sure_encoding(readings) is None and len(readings) > 1
    assert [name for name in map(name_decoder("cp850"), names) if is_undecoded(name)] == []
    assert time.process_time() - begun < 12


def test_code_page_that_cannot_read_all_of_many_names_is_none() -> None:
    """Those that are judged are some only; cp1252 has no letter for 81."""
    names = [utf8_name(f"maçã e pão de açúcar {number}".encode("cp1252")) for number in range(30_000)]
    assert sure_encoding(name_readings(names)) == "cp1252"
    names.insert(12_345, utf8_name("maçã 12344a ".encode("cp1252") + b"\x81"))
    assert "cp1252" not in [reading.encoding for reading in name_readings(names)]


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "signs", {str(number): 1 for number in (1, 2, 3, 10, 21)})
    assert load(root).train.classes == ("1", "2", "3", "10", "21")
    root = make_folder(tmp_path / "more", {f"class{number}": 1 for number in (1, 2, 10)})
    assert load(root).train.classes == ("class1", "class2", "class10")


def test_spaces_and_invisible_letters_are_shown(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"train/cat": 1, "train/dog ": 1, "valid/cat": 1, "valid/dog": 1})
    with pytest.raises(DataError, match=r"lacks: dog\. It lacks 'dog '\. They differ in spaces or invisible letters"):
        load(root)
    root = make_folder(tmp_path / "two", {"dog": 1, "dog\u200b": 1})
    notes = load(root).notes
    assert notes == (
        "'dog' and 'dog\\u200b' are different classes: name them alike if they are one.",
        "Names of classes with spaces at an end or invisible letters: 'dog\\u200b'.",
    )


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("treino", "validação", "teste"),
        ("TREINO", "Validacao", "Testes"),
        ("treinamento", "val", "test"),
        ("entrenamiento", "validación", "prueba"),
        ("entraînement", "validation", "test"),
        ("Training", "Validierung", "Test"),
        ("Trainingsdaten", "dev", "Testdaten"),
        ("dados_treino", "dados_validação", "dados_teste"),
        ("conjunto de entrenamiento", "conjunto de validacion", "conjunto de pruebas"),
        ("1_train", "2_val", "3_test"),
        ("01 - treino", "02 - validação", "03 - teste"),
        ("Treino 70%", "Validação 10%", "Teste 20%"),
        ("jeu d'entraînement", "jeu de validation", "jeu de test"),
        ("treinar", "validar", "testar"),
        ("trainieren", "validieren", "testen"),
        ("Lerndaten", "Validierungsdaten", "Testdaten"),
        ("train (70%)", "val (10%)", "test (20%)"),
    ],
)
def test_splits_are_named_in_the_languages_of_users(tmp_path: Path, train: str, validation: str, test: str) -> None:
    counts = {f"{split}/{pet}": 1 + n for n, split in enumerate((train, validation, test)) for pet in ("cat", "dog")}
    splits = load(make_folder(tmp_path / "pets", counts))
    assert splits.train.classes == ("cat", "dog")
    assert {name: len(part) for name, part in splits.parts().items()} == {"train": 2, "validation": 4, "test": 6}


def test_a_and_b_behind_the_names_of_splits_are_classes(tmp_path: Path) -> None:
    splits = load(make_folder(tmp_path / "pets", {"trainA": 2, "trainB": 2, "testA": 1, "testB": 1}))
    assert splits.train.classes == ("A", "B") and splits.test is not None and len(splits.test) == 2


def test_words_of_other_languages_are_classes_where_they_are_no_splits(tmp_path: Path) -> None:
    assert load(make_folder(tmp_path / "a", {"prova": 2, "gato": 2})).train.classes == ("gato", "prova")
    assert load(make_folder(tmp_path / "b", {"teste/x": 2, "gato/y": 2})).train.classes == ("gato", "teste")
    rounds = {f"{name}/x": 1 for name in ("train1", "train2", "test1")}
    assert load(make_folder(tmp_path / "c", rounds)).train.classes == ("test1", "train1", "train2")


def test_table_may_name_its_splits_so_too(tmp_path: Path) -> None:
    table = "arquivo,classe,conjunto\n1.png,gato,treino\n2.png,cão,treino\n3.png,gato,validação\n"
    files = {f"pets/{n}.png": picture(n) for n in (1, 2, 3)}
    path = make_zip(tmp_path / "pets.zip", {**files, "pets/rotulos.csv": table.encode()})
    assert {name: len(part) for name, part in load(path).parts().items()} == {"train": 2, "validation": 1}
