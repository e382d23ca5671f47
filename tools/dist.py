"""Builds what a release consists of, in dist/: `make dist`.

    python tools/dist.py [--url https://where.the/repository/is]

For pupila and pupila-backbone each: a wheel and a source archive. Then the wheels are installed in a clean environment,
`pip check` and a prediction must pass, and the bill of materials (CycloneDX JSON) lists what that environment holds.
The README's links lead to files of the repository: with --url they become addresses, without it plain text.
"""

import argparse
import re
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD, DIST = ROOT / "build" / "dist", ROOT / "dist"
LARGEST_WHEEL = 15_000_000
"""Bytes of the wheel that serving needs."""


def main() -> None:
    """Build, check and describe the packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="where the repository can be read")
    url = parser.parse_args().url.rstrip("/")
    for folder in (BUILD, DIST):
        shutil.rmtree(folder, ignore_errors=True)
    listed = run("git", "ls-files", "-z", "src", "packages", "LICENSE", "NOTICE", "README.md", "pyproject.toml")
    for name in filter(None, listed.split("\0")):
        (BUILD / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, BUILD / "source" / name)
    prepare(BUILD / "source", url)
    tools = environment("tools", "build", "twine", "cyclonedx-bom")
    for source in (BUILD / "source", BUILD / "source" / "packages" / "pupila-backbone"):
        run(tools, "-m", "build", "--outdir", DIST, source)
    run(tools, "-m", "twine", "check", "--strict", *DIST.iterdir())
    wheel = next(DIST.glob("pupila-*.whl"))
    if wheel.stat().st_size > LARGEST_WHEEL:
        raise SystemExit(f"{wheel.name} has {wheel.stat().st_size:,} bytes, more than {LARGEST_WHEEL:,}.")
    clean = environment("clean", *DIST.glob("*.whl"))
    run(clean, "-m", "pip", "check")
    run(clean, "-c", "import pupila.models as m; print(m.bundled_model(), m.bundled_backbone())", cwd=BUILD)
    bill = DIST / f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json"
    run(tools, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--output-file", bill, clean)
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path.relative_to(ROOT)}")


def prepare(source: Path, url: str) -> None:
    """Make the README readable on its own, and add the address to the metadata."""
    readme, project = source / "README.md", source / "pyproject.toml"
    text = readme.read_text(encoding="utf-8")
    if url:
        text = re.sub(r"\]\((?!https?:|#)", f"]({url}/blob/main/", text)
        project.write_text(
            project.read_text().replace(
                "\n[project.scripts]", f'\n[project.urls]\nSource = "{url}"\n\n[project.scripts]'
            )
        )
    else:
        text = re.sub(r"^!\[[^]]*\]\((?!https?:)[^)]*\)\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)
    readme.write_text(text, encoding="utf-8")


def environment(name: str, *packages: str | Path) -> Path:
    """Make a virtual environment with these packages and return its Python."""
    venv.create(BUILD / name, with_pip=True)
    python = BUILD / name / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return python


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints; ends this program if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
