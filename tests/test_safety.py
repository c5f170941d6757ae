"""Safe by default, over the whole of the source: nothing unpickled, nothing evaluated, no secret passed on.

The first half reads the source (as syntax, so a word in a comment is no offence); the second half hands the
library things that would run code if they were opened the usual way, and looks whether they ran.
"""

from __future__ import annotations

import ast
import json
import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from prefine.errors import InputError
from prefine.secrets import Redacting, is_clean, looks_secret, redact

SOURCE = Path(__file__).resolve().parent.parent / "src" / "prefine"

ALLOWED: Mapping[tuple[str, str], str] = {
    ("jail/guard.py", "runpy"): "the sandbox's own runner: it is already inside when it runs the program",
    ("sandbox.py", "subprocess"): "starts the sandbox",
    ("claims.py", "subprocess"): "asks git for the commit, with fixed words",
    ("options.py", "eval("): "types written in our own recipes' signatures, never input",
    ("jail/__main__.py", "os.fork"): "the sandbox's three processes",
    ("jail/layers.py", "os.fork"): "the sandbox sees whether its limit on processes holds",
}
"""(file, offence) -> why it is none there. What is not named here is refused."""

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
RUNNERS = {"runpy", "subprocess", "code", "codeop", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch": {"load", "save"},
    "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"},
    "os": {"system", "popen", "execv", "execl", "execvp", "posix_spawn", "spawnv", "fork"},
    "tempfile": {"mktemp"},
    "pd": {"read_pickle"},
}
KEYWORDS = {
    "trust_remote_code": True,
    "allow_pickle": True,
    "shell": True,
    "verify": False,
    "use_safetensors": False,
    "safe_serialization": False,
    "autoescape": False,
    "weights_only": False,
}
"""Arguments that open a door when they have this value."""


def offences(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of everything in a syntax tree that has to be allowed by name."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            yield from ((name, line) for name in names if name in UNPICKLERS | RUNNERS)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            if module in UNPICKLERS | RUNNERS:
                yield module, line
            taken = CALLS.get(module, set()) & {alias.name for alias in node.names}
            yield from ((f"{module}.{name}", line) for name in taken)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[tuple[str, int]]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in BUILTINS:
        yield f"{function.id}(", node.lineno
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        if function.attr in CALLS.get(function.value.id, set()):
            yield f"{function.value.id}.{function.attr}", node.lineno
        if function.value.id == "builtins" and function.attr in BUILTINS:
            yield f"{function.attr}(", node.lineno
    name = getattr(function, "id", getattr(function, "attr", ""))
    if name == "Markup" and node.args and not isinstance(node.args[0], ast.Constant):
        yield "Markup(not a constant)", node.lineno
    for keyword in node.keywords:
        given = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if keyword.arg in KEYWORDS and given is KEYWORDS[keyword.arg]:
            yield f"{keyword.arg}={given}", node.lineno


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_source_opens_no_door(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    found = [(what, line) for what, line in offences(ast.parse(path.read_text())) if (name, what) not in ALLOWED]
    assert not found, f"{name}: {found}; find another way, or name it with a reason in ALLOWED"


def test_parameters_that_open_doors_are_closed_by_default() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            both = node.args
            named = [*both.posonlyargs, *both.args]
            pairs = [*zip(named[::-1], both.defaults[::-1]), *zip(both.kwonlyargs, both.kw_defaults)]
            for argument, default in pairs:
                if argument.arg in KEYWORDS and isinstance(default, ast.Constant):
                    assert default.value is not KEYWORDS[argument.arg], f"{path}:{node.lineno} {argument.arg}"


def test_templates_escape_what_they_are_given() -> None:
    for path in SOURCE.rglob("*.j2"):
        text = path.read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescapefalse" not in text.replace(" ", ""), path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, dill",
        "from pickle import loads",
        "import torch; torch.load(p)",
        "torch.save(x, p)",
        "from torch import load",
        "import yaml; yaml.load(t)",
        "yaml.load(t, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load",
        "eval(text)",
        "exec(text)",
        "import builtins; builtins.eval(text)",
        "compile(text, 'f', 'exec')",
        "__import__(name)",
        "np.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "run(c, shell=True)",
        "import subprocess",
        "from subprocess import run",
        "os.system(c)",
        "httpx.get(u, verify=False)",
        "Environment(autoescape=False)",
        "Markup(text)",
        "Markup(f'<b>{text}</b>')",
        "model.save_pretrained(p, safe_serialization=False)",
    ],
)
def test_the_reader_knows_an_open_door_when_it_sees_one(line: str) -> None:
    assert list(offences(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "re.compile(x)",
        "torch.compile(model)",
        "yaml.safe_load(t)",
        "np.load(p, allow_pickle=False)",
        "json.load(f)",
        "load(p, trust_remote_code=trust_remote_code)",
        "Markup('<b>{}</b>').format(x)",
        "'import pickle'  # eval(x)",
    ],
)
def test_the_reader_does_not_cry_wolf(line: str) -> None:
    assert not list(offences(ast.parse(line)))


# --- things that would run code if they were opened


class Trap:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """A file that is there once something ran that must not."""
    return tmp_path / "sprung"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickled_checkpoint_is_refused_unopened(tmp_path: Path, sprung: Path, name: str) -> None:
    from prefine.policies import load_policy

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match="safetensors") as caught:
        load_policy(folder)
    assert caught.value.remedy and not sprung.exists()
    pickle.loads((folder / name).read_bytes()).close()
    assert sprung.exists(), "the trap works"


def test_code_in_a_model_directory_does_not_run(tmp_path: Path, sprung: Path) -> None:
    from prefine.policies import load_policy

    folder = tmp_path / "model"
    folder.mkdir()
    autos = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    code = dict.fromkeys(autos, "modeling_x.X")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "architectures": ["X"], "auto_map": code}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "X", "auto_map": code}))
    (folder / "modeling_x.py").write_text(f"open({str(sprung)!r}, 'w')")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError):
        load_policy(folder)
    assert not sprung.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:builtins.open", "!!python/object/new:builtins.open"])
def test_yaml_is_data_and_nothing_else(tmp_path: Path, sprung: Path, tag: str) -> None:
    from prefine.config import read_config

    path = tmp_path / "run.yaml"
    path.write_text(f"system: {tag} [{sprung}, w]\n")
    with pytest.raises(InputError, match=r"run\.yaml"):
        read_config(path)
    assert not sprung.exists()


def test_an_array_of_objects_is_not_opened(tmp_path: Path, sprung: Path) -> None:
    import numpy as np

    from prefine.artifacts import Logps

    for name in ("values", "rows", "contrasts"):
        np.save(tmp_path / f"{name}.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"allow_pickle=False|Python objects in dtype"):
        Logps("key", tmp_path)[0]
    assert not sprung.exists()


# --- secrets


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_APIKEY", "WANDB_API_KEY", "token"],
)
def test_variables_that_say_so_hold_secrets(name: str) -> None:
    assert looks_secret(name, "a-long-enough-value")


@pytest.mark.parametrize(
    "name, value",
    [
        ("TOKENIZERS_PARALLELISM", "false-and-long"),
        ("PWD", "/home/somebody"),
        ("KEYBOARD", "a-long-enough-value"),
        ("HF_TOKEN", ""),
        ("USE_AUTH_TOKEN", "true"),
        ("HOME", "/home/somebody"),
    ],
)
def test_others_do_not(name: str, value: str) -> None:
    assert not looks_secret(name, value)


@pytest.mark.parametrize(
    "text",
    [
        "plain {}",
        "https://host/?q={}",
        '{{"key": "{}"}}',
        "{}{}",
    ],
)
def test_a_secret_of_the_environment_is_taken_out_of_a_text(text: str) -> None:
    secret = "s3cr$t/with+odd chars&more"
    assert secret not in redact(text.replace("{}", secret), {"MY_TOKEN": secret})
    assert "[MY_TOKEN]" in redact(text.replace("{}", secret), {"MY_TOKEN": secret})


def test_a_secret_is_found_in_the_spellings_it_travels_in() -> None:
    import base64
    from urllib.parse import quote

    secret = 'pass"word\\with/ümlaut'
    for spelling in (
        json.dumps(secret),
        quote(secret, safe=""),
        repr(secret),
        base64.b64encode(secret.encode()).decode(),
    ):
        assert "[DB_PASSWORD]" in redact(f"<{spelling}>", {"DB_PASSWORD": secret})


def test_the_longer_of_two_secrets_goes_first() -> None:
    both = {"A_KEY": "abcdef", "B_KEY": "abcdefghij"}
    assert redact("abcdefghij abcdef", both) == "[B_KEY] [A_KEY]"


@pytest.mark.parametrize(
    "text, secret",
    [
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("using sk-proj-AbCdEf0123456789_xyz here", "AbCdEf0123456789"),
        ("hf_AbCdEfGhIjKlMnOpQrSt", "AbCdEfGhIjKlMnOp"),
        ("https://user:hunter2@host/path", "hunter2"),
        ("GET /v1?api_key=abc123&x=1", "abc123"),
    ],
)
def test_keys_are_known_by_their_form(text: str, secret: str) -> None:
    assert secret not in redact(text, {}) and not is_clean(text)


@pytest.mark.parametrize(
    "text",
    ["the bearer of news", "a sk-short", "win rate 0.53 at step 100", "https://host/path?a=1", "loss=0.1 tokens=300"],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text, {}) == text


def test_a_log_with_the_filter_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hidden-value-123")
    written: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Kept()
    handler.addFilter(Redacting())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("sent %s to %s", "hidden-value-123", "host")
    try:
        raise ValueError("hidden-value-123")
    except ValueError:
        logger.exception("failed")
    assert written[0] == "sent [SOME_API_KEY] to host"
    assert "ValueError: [SOME_API_KEY]" in written[1] and "hidden" not in "".join(written)


def test_the_command_line_shows_no_secret(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from prefine.cli import main

    monkeypatch.setenv("SOME_API_KEY", "hidden-value-123")
    assert main(["show", "hidden-value-123"]) == 2
    shown = "".join(capfd.readouterr())
    assert "[SOME_API_KEY]" in shown and "hidden" not in shown
