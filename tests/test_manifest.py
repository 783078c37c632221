"""npe2 finds the one manifest, and what it names, whichever way we are installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from npe2 import PluginManifest

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "napari.yaml"
NAME = "napari-biomedparse"

CHECK = f"""
import site, sys
before = list(sys.path)
site.addsitedir({{folder!r}})
sys.path.sort(key=before.__contains__)  # the folder, and what its .pth files add, first
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution({NAME!r})
manifest.validate_imports()
import napari_biomedparse, napari_biomedparse_manifest
print(napari_biomedparse.__file__)
print(napari_biomedparse_manifest.__path__[0])
"""


def python(*arguments: str, cwd: Path) -> str:
    """Run an interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(source: Path, folder: Path, *options: str) -> tuple[Path, Path]:
    """Install into `folder`, let npe2 check it there; our code and manifest folders."""
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    python(*pip, "--target", str(folder), *options, str(source), cwd=folder.parent)
    printed = python("-c", CHECK.format(folder=str(folder)), cwd=folder.parent)
    code, manifest = printed.splitlines()[-2:]
    return Path(code).parent, Path(manifest)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of the work tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "hatchling", "build", "-d", str(folder))
    python(*build, "-t", "wheel", "-t", "sdist", cwd=ROOT)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def contents(wheel: Path) -> dict[str, bytes]:
    """Each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_manifest_names_our_distribution_and_our_code() -> None:
    manifest = PluginManifest.from_file(MANIFEST)
    assert manifest.name == NAME
    commands = manifest.contributions.commands or []
    assert commands
    assert all(c.python_name.startswith("napari_biomedparse.") for c in commands)


def test_every_command_is_used_once_besides_menus() -> None:
    contributions = yaml.safe_load(MANIFEST.read_text("utf-8"))["contributions"]
    commands = [c["id"] for c in contributions.pop("commands")]
    menus = contributions.pop("menus")
    submenus = [submenu["id"] for submenu in contributions.pop("submenus")]
    contributions.pop("configurations")
    used = [entry["command"] for kind in contributions.values() for entry in kind]
    items = [item for menu in menus.values() for item in menu]
    only_in_menus = {item["command"] for item in items if "command" in item} - {*used}
    assert sorted([*used, *only_in_menus]) == sorted(commands)
    assert {item["submenu"] for item in items if "submenu" in item} == {*submenus}


def test_menus_are_those_that_napari_has() -> None:
    menus = pytest.importorskip("napari._app_model.constants")
    ours = PluginManifest.from_file(MANIFEST).contributions
    known = {str(menu) for menu in menus.MenuId.contributables()}
    assert {*ours.menus} <= known | {submenu.id for submenu in ours.submenus or []}


def test_installed_manifest_is_the_top_level_one() -> None:
    installed = PluginManifest.from_distribution(NAME)
    expected = PluginManifest.from_file(MANIFEST)
    assert installed.contributions == expected.contributions, (
        "an editable install keeps a copy of the manifest: run pip install -e . again"
    )


def test_wheel(dist: tuple[Path, Path], tmp_path: Path) -> None:
    code, manifest = install(dist[0], tmp_path / "site")
    assert code == tmp_path / "site" / "napari_biomedparse"
    assert (manifest / MANIFEST.name).read_bytes() == MANIFEST.read_bytes()
    assert (code / "py.typed").is_file()


def test_sdist_holds_what_a_packager_needs_and_makes_the_same_wheel(
    dist: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, sdist = dist
    python("-m", "tarfile", "-e", str(sdist), str(tmp_path), cwd=tmp_path)
    (tree,) = tmp_path.iterdir()
    for name in ("napari.yaml", "LICENSE", "README.md", "tests", "examples", "tox.ini"):
        assert (tree / name).exists(), name
    build = ("-m", "hatchling", "build", "-d", str(tmp_path / "dist"), "-t", "wheel")
    python(*build, cwd=tree)
    again = next((tmp_path / "dist").glob("*.whl"))
    assert contents(again) == contents(wheel)
    assert again.read_bytes() == wheel.read_bytes()  # anybody can build what we did


def test_editable_install(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    code, manifest = install(ROOT, folder, "--no-build-isolation", "--editable")
    assert code == ROOT / "src" / "napari_biomedparse"
    assert (manifest / MANIFEST.name).read_bytes() == MANIFEST.read_bytes()


def test_every_bundled_datum_has_a_licence() -> None:
    data = ROOT / "src" / "napari_biomedparse" / "_data"
    told = (data / "README.md").read_text("utf-8")
    for path in data.iterdir():
        if path.suffix not in (".md", ".py") and not path.name.endswith("LICENSE.txt"):
            (line,) = [row for row in told.splitlines() if f"| `{path.name}` |" in row]
            assert any(name in line for name in ("Apache-2.0", "MIT", "BSD-3-Clause"))
