"""The command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lamella
from lamella import _cpu, cli


def test_info_names_what_is_in_use(cpu_backend, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("LAMELLA_NUM_THREADS", raising=False)
    _cpu.set_num_threads(2)
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"lamella {lamella.__version__}, ")
    possible = ", ".join(_cpu.supported_cpu_isas())
    assert f"instruction set: {cpu_backend.removeprefix('cpu-')} (possible: {possible})" in lines
    assert "threads: 2" in lines
    assert "OMP_NUM_THREADS=3" in lines
    assert not any(line.startswith("LAMELLA_NUM_THREADS") for line in lines)


def test_runs_as_a_module():
    command = [sys.executable, "-m", "lamella", "info"]
    environment = {**os.environ, "LAMELLA_NUM_THREADS": "5"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "threads: 5" in result.stdout.splitlines()


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"lamella {lamella.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["info", "more"], ["other"]])
def test_wrong_arguments_leave_with_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert capsys.readouterr().err.startswith("usage: lamella")


def test_bench_without_benchmarks_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "conv2d"]) == 2
    assert "top folder of a checkout" in capsys.readouterr().err


def test_bench_hands_over_every_argument(tmp_path, monkeypatch, capfd):
    (tmp_path / "CMakeLists.txt").touch()
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "conv2d", "--json", "results.json", "--help"]) == 7
    assert capfd.readouterr().out == "['conv2d', '--json', 'results.json', '--help']\n"


def test_cpu_name_without_proc(monkeypatch):
    def absent(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert cli.cpu_name()


def test_the_package_has_type_information():
    assert Path(lamella.__file__).with_name("py.typed").is_file()
    assert Path(lamella.__file__).with_name("_cpu.pyi").is_file()
