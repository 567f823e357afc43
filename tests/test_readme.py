"""What README and the documentation show: programs run, examples are right, links exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/index.md", "docs/cpu.md")
]
README = DOCUMENTS[0].read_text(encoding="utf-8")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def python_blocks(document):
    return re.findall(r"^```python\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S)


@each_document
def test_programs_run(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # they may write files
    names = {"__name__": "__main__"}  # each goes on where the one above it stopped
    for block in python_blocks(document):
        if not block.startswith(">>>"):
            exec(compile(re.sub(r"epochs=\d+", "epochs=1", block), document.name, "exec"), names)
    if document.name == "README.md":
        assert 0.1 < names["accuracy"] <= 1
        assert (tmp_path / "digits.safetensors").is_file()


@each_document
def test_examples_give_what_they_say(document):
    text = "\n".join(block for block in python_blocks(document) if block.startswith(">>>"))
    example = doctest.DocTestParser().get_doctest(text, {}, document.name, str(document), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize("name", ["train", "test"])
def test_commands_are_one_line_and_bring_their_environment(name):
    blocks = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.+?)\n```$", README, re.M | re.S)
    assert len(blocks) == 1
    assert "\n" not in blocks[0]
    assert blocks[0].startswith("python3 -m venv .venv")


@each_document
def test_links_lead_somewhere(document):
    text = document.read_text("utf-8")
    targets = re.findall(r"\]\(([^)#]+)", text)
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing
