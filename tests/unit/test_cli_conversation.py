"""The interactive prompt's conversation and its slash commands, with a client that only remembers."""

import base64
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from vllama.cli import repl
from vllama.cli.conversation import Conversation
from vllama.cli.parameters import read_parameter
from vllama.cli.run import Question
from vllama.config import Settings
from vllama.errors import ModelNotFound, VllamaError


class Recorder:
    """Stands in for the client: answers every stream with `items`, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.items: list[dict[str, Any] | BaseException] = []
        self.capabilities = ["completion"]
        self.messages: list[dict[str, Any]] = []
        self.missing = False

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        self.asked.append((path, body))
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def get(self, path: str) -> dict[str, Any]:
        return {"models": [{"name": "a:latest", "digest": "0" * 64, "size": 1000}]}

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((path, body))
        if self.missing:
            raise ModelNotFound(f"model '{body['model']}' not found")
        shown = {"parameters": "top_k 4", "system": "Be kind.", "license": "", "details": {"family": "llama"}}
        return shown | {"capabilities": self.capabilities, "messages": self.messages}


def piece(text: str) -> dict[str, Any]:
    """One object of /api/chat."""
    return {"message": {"role": "assistant", "content": text}}


@pytest.fixture
def client() -> Recorder:
    return Recorder()


@pytest.fixture
def talk(client: Recorder) -> Conversation:
    return Conversation(client, Question("m", ""))  # type: ignore[arg-type]


def test_the_whole_conversation_is_sent(
    talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    client.items = [piece("Hel"), piece("lo.")]
    assert talk.enter("Hi")
    assert talk.enter("And now?")
    assert capsys.readouterr().out == "Hello.\nHello.\n"
    assert client.asked[-1] == (
        "/api/chat",
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "And now?"},
            ],
        },
    )


def test_set_changes_the_next_request(talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    client.items = [piece("ok") | {"eval_count": 2, "eval_duration": 10**9}]
    for line in (
        "/set parameter temperature 0.5",
        "/set parameter stop A B",
        '/set system "Be brief."',
        "/set format json",
        "/set think high",
        "/set verbose",
    ):
        assert talk.enter(line)
    talk.enter("Hi")
    body = client.asked[-1][1]
    assert body["options"] == {"temperature": 0.5, "stop": ["A", "B"]}
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["format"], body["think"]) == ("json", "high")
    assert "eval rate:            2.00 tokens/s" in capsys.readouterr().err
    for line in ("/set noformat", "/set nothink", "/set quiet", "/clear"):
        talk.enter(line)
    talk.enter("Hi")
    body = client.asked[-1][1]
    assert "format" not in body
    assert body["think"] is False
    assert [message["content"] for message in body["messages"]] == ["Be brief.", "Hi"]
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_the_answer_and_keeps_what_came(talk: Conversation, client: Recorder) -> None:
    client.items = [piece("Once upon"), KeyboardInterrupt()]
    assert talk.enter("A tale")
    assert talk.messages == [{"role": "user", "content": "A tale"}, {"role": "assistant", "content": "Once upon"}]


def test_an_error_does_not_end_the_conversation(
    talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    client.items = [VllamaError("the worker died")]
    assert talk.enter("Hi")
    assert capsys.readouterr().out == "Error: the worker died\n"
    assert talk.messages == []


def test_commands_that_print(talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    def said(line: str) -> str:
        assert talk.enter(line)
        return capsys.readouterr().out

    assert "/set" in said("/?")
    assert "Ctrl + c" in said("/? shortcuts")
    assert "/set parameter ..." in said("/set")
    assert said("/set nonsense") == "Unknown command '/set nonsense'. Type /? for help\n"
    assert "num_predict <int>" in said("/set parameter")
    assert said("/set parameter heat 1") == "Couldn't set parameter: \"unknown parameter 'heat'\"\n"
    assert said("/set format") == "Invalid or missing format. For 'json' mode use '/set format json'\n"
    assert said("/show nonsense") == "Unknown command '/show nonsense'. Type /? for help\n"
    assert "/show info" in said("/show")
    assert said("/load") == "Usage:\n  /load <modelname>\n"
    assert said("/save a b") == "Usage:\n  /save <modelname>\n"
    assert said("/nonsense") == "Unknown command '/nonsense'. Type /? for help\n"
    assert said("/show system") == "Be kind.\n"
    assert said("/show license") == "No license was specified for this model.\n"
    assert "architecture    llama" in said("/show info")
    assert said("/list").splitlines()[1].split() == ["a:latest", "0" * 12, "1", "KB", "Never"]
    talk.enter("/set parameter top_k 9")
    assert "top_k" in said("/show parameters")
    assert talk.enter("   ")
    assert not talk.enter("/bye")
    assert not talk.enter("/exit")


def test_load_and_save(talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    client.items = [piece("ok")]
    talk.enter("/set system Be brief.")
    talk.enter("Hi")
    talk.enter("/save kept")
    assert client.asked[-1] == (
        "/api/create",
        {"model": "kept", "from": "m", "system": "Be brief.", "messages": talk.messages},
    )
    talk.enter("/load other")
    assert client.asked[-1] == ("/api/generate", {"model": "other"})
    assert (talk.question.model, talk.messages) == ("other", [])
    client.missing = True
    talk.enter("/load absent")
    assert talk.question.model == "other"
    assert "Couldn't find model 'absent'" in capsys.readouterr().out


def test_a_saved_conversation_is_shown_and_saved_again(
    talk: Conversation, client: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    client.messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    talk.load("kept")
    assert capsys.readouterr().out == ">>> Hi\nHello.\n"
    client.items = [piece("Fine.")]
    talk.enter("How are you?")
    # The server puts the model's own messages before these.
    assert client.asked[-1][1]["messages"] == [{"role": "user", "content": "How are you?"}]
    talk.enter("/save again")
    contents = [message["content"] for message in client.asked[-1][1]["messages"]]
    assert contents == ["Hi", "Hello.", "How are you?", "Fine."]


def test_a_model_of_embeddings_does_not_converse(talk: Conversation, client: Recorder) -> None:
    client.capabilities = ["embedding"]
    with pytest.raises(VllamaError, match='vllama run e "TEXT" prints one'):
        talk.load("e")


PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def test_images_are_sent_by_their_paths(
    talk: Conversation, client: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.capabilities, client.items = ["completion", "vision"], [piece("A tide.")]
    talk.load("m")
    image = tmp_path / "two words.png"
    image.write_bytes(PNG)
    written = str(image).replace(" ", "\\ ")
    talk.enter(f"{written} What is this?")
    asked = client.asked[-1][1]["messages"][0]
    assert (asked["content"], base64.b64decode(asked["images"][0])) == ("What is this?", PNG)
    assert capsys.readouterr().err == f"Added image '{image}'\n"
    talk.enter(f"And '{written}'?")
    assert client.asked[-1][1]["messages"][-1]["content"] == "And ?"
    talk.enter("/?")
    assert "/path/to/file" in capsys.readouterr().out


def test_images_are_refused_without_vision(
    talk: Conversation, client: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(PNG)
    talk.enter(f"What is {image}?")
    assert client.asked == []
    assert capsys.readouterr().out == f"Error: m has no vision: it cannot take {image}. Nothing was sent\n"
    image.write_bytes(b"not an image")
    talk.enter(str(image))
    assert "is no JPEG, PNG, WebP or WAV file" in capsys.readouterr().out
    # A path of nothing is text, and a command is one although its word is longer.
    client.items = [piece("No.")]
    talk.enter("Is there a ./nosuch.png?")
    assert client.asked[-1][1]["messages"][-1] == {"role": "user", "content": "Is there a ./nosuch.png?"}


@pytest.mark.parametrize(
    ("name", "values", "value"),
    [
        ("num_ctx", ["8192"], 8192),
        ("temperature", ["1"], 1.0),
        ("stop", ["a", "b"], ["a", "b"]),
        ("use_mmap", ["false"], False),
        ("seed", ["-1"], -1),
    ],
)
def test_parameters(name: str, values: list[str], value: object) -> None:
    assert read_parameter(name, values) == value


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("heat", ["1"], "unknown parameter 'heat'"),
        ("num_ctx", ["1.5"], "must be a whole number, not '1.5'"),
        ("temperature", ["hot"], "must be a number, not 'hot'"),
        ("use_mmap", ["yes"], "must be true or false, not 'yes'"),
        ("top_k", ["1", "2"], "takes one value"),
    ],
)
def test_bad_parameters(name: str, values: list[str], text: str) -> None:
    with pytest.raises(VllamaError, match=text):
        read_parameter(name, values)


# -- the terminal -----------------------------------------------------------------------------------------


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path)
    return tmp_path


@pytest.fixture
def typed() -> Iterator[Any]:
    """What is sent here is typed at the prompt."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def test_a_session(typed: Any, client: Recorder, data_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client.items = [piece("Hello.")]
    typed.send_text('Hi\r"""two\rlines"""\r/set nohistory\rsecret\r/bye\r')
    assert repl.converse(client, Question("m", ""), Settings()) == 0  # type: ignore[arg-type]
    assert client.asked[:2] == [("/api/show", {"model": "m"}), ("/api/generate", {"model": "m"})]
    users = [m["content"] for m in client.asked[-1][1]["messages"] if m["role"] == "user"]
    assert users == ["Hi", "two\nlines", "secret"]
    kept = (data_home / "history").read_text()
    assert "+Hi\n" in kept
    assert "secret" not in kept


def test_ctrl_c_at_the_prompt_goes_on_and_ctrl_d_leaves(
    typed: Any, client: Recorder, data_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.send_text("half\x03\x03\x04")
    assert repl.converse(client, Question("m", ""), Settings(nohistory=True)) == 0  # type: ignore[arg-type]
    assert "Use Ctrl + d or /bye to exit." in capsys.readouterr().out
    assert [path for path, _ in client.asked] == ["/api/show", "/api/generate"]
    assert not (data_home / "history").exists()
