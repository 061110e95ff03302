"""What a release holds: wheel and sdist are built from a copy of the project, offline, and looked into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lit_basereward

pytest.importorskip("setuptools", "77", reason="older ones do not read our metadata")

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("__pycache__", "*.egg-info", "build", "dist", "runs", ".*_cache", ".venv", ".git")
CONFIGS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


def build(kind: str, source: Path, target: Path) -> Path:
    """What pip does for ``pip wheel --no-build-isolation --no-deps``."""
    target.mkdir(exist_ok=True)
    script = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", script, str(target)], cwd=source, capture_output=True, text=True, check=True
    )
    return target / run.stdout.splitlines()[-1]


def names(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, links as links, since building leaves files behind."""
    folder = tmp_path_factory.mktemp("release") / "project"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return folder


@pytest.fixture(scope="module")
def wheel(project: Path) -> Path:
    return build("wheel", project, project.parent / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel's files, to be found by PYTHONPATH."""
    folder = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_holds_what_the_package_reads(wheel: Path) -> None:
    """All modules, configs, templates and the marker of types; licence; no tests, and nothing that is left over."""
    found = names(wheel)
    package = ROOT / "lit_basereward"
    read = {path for end in ("py", "j2", "txt", "html") for path in package.rglob(f"*.{end}")}
    expected = {path.relative_to(ROOT).as_posix() for path in (*read, package / "py.typed")}
    expected |= {f"lit_basereward/{config}" for config in CONFIGS}
    own = {name for name in found if not name.startswith(f"lit_basereward-{lit_basereward.__version__}.dist-info/")}
    assert own == expected
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_sdist_holds_the_project_and_makes_the_same_wheel(project: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", project, tmp_path / "dist")
    found = names(sdist)
    assert {"LICENSE", "CHANGELOG.md", "README.md", "Makefile", "tests/conftest.py"} <= found
    assert {*CONFIGS, *(f"lit_basereward/{config}" for config in CONFIGS)} <= found
    with tarfile.open(sdist) as tar:
        assert not [member.name for member in tar if member.issym() or member.islnk()]
        tar.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("lit_basereward-*")
    assert names(build("wheel", unpacked, tmp_path / "again")) == names(wheel)


def run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "lit_basereward", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_version_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "--version") == f"lit_basereward {lit_basereward.__version__}\n"


@pytest.mark.slow
def test_installed_package_reads_its_configs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, tmp_path, "fit", "--config", "configs/demo_critic.yaml", "--print_config")
    assert "runs/demo_critic" in printed and not list(tmp_path.iterdir())
