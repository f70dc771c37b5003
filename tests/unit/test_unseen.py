"""What a container is given without a command line: in files of a line each, or in Podman's environment."""

from pathlib import Path

import pytest

from coat_ryu.node import podman
from coat_ryu.node.failure import Failure
from coat_ryu.node.unseen import LINE_MAX, VALUE_MAX, unseen


def content(option: str) -> str:
    return Path(option.partition("=")[2]).read_bytes().decode()


def test_values_go_through_files_where_a_line_keeps_them() -> None:
    variables = {"A": "a=b", "EMPTY": "", "QUOTED": "\"x\" 'y' $HOME \\n #", "SPACES": "  x  ", "UMLAUT": "grün"}
    with unseen(variables, {"coat.spec": '{"a": 1}'}) as given:
        labels, file = given.options
        assert content(labels) == 'coat.spec={"a": 1}\n'
        assert content(file) == "".join(f"{key}={value}\n" for key, value in variables.items())
        assert not variables.keys() & given.environment.keys()
        assert not any("grün" in option for option in given.options)
        path = Path(file.partition("=")[2])
    assert not path.exists()


@pytest.mark.parametrize("value", ["one\ntwo", "\n", "ends\r", "x" * (LINE_MAX + 1), "ü\n"])
def test_what_no_line_keeps_goes_through_the_environment(value: str) -> None:
    with unseen({"PLAIN": "plain", "KEY": value}, {}) as given:
        assert given.options[2:] == ["--env=KEY"]
        assert given.environment["KEY"] == value.encode()
        assert content(given.options[1]) == "PLAIN=plain\n"


@pytest.mark.parametrize("key", ["PATH", "LD_PRELOAD", "GODEBUG", "CONTAINERS_CONF_OVERRIDE", "CONTAINER_HOST", "HOME"])
def test_podmans_own_names_never_reach_its_environment(key: str) -> None:
    with unseen({key: "plain"}, {}) as given:
        assert content(given.options[1]) == f"{key}=plain\n"
        assert given.environment.get(key) != b"plain"
    with pytest.raises(Failure, match=f"env.{key}: .* no line break") as raised, unseen({key: "a\nb"}, {}):
        pass
    assert raised.value.cause == "bad_args"


@pytest.mark.parametrize(
    ("variables", "labels", "told"),
    [
        ({"KEY": "x" * VALUE_MAX}, {}, f"env.KEY: at most {VALUE_MAX} bytes"),
        ({}, {"coat.spec": "a\nb"}, "coat.spec: one line"),
        ({}, {"coat.spec": "x" * LINE_MAX}, "coat.spec: one line"),
    ],
)
def test_what_podman_cannot_be_given_is_refused(variables: dict[str, str], labels: dict[str, str], told: str) -> None:
    with pytest.raises(Failure, match=told), unseen(variables, labels):
        pass


@pytest.mark.parametrize("verb", [podman.container_run, podman.container_create])
def test_no_command_line_has_a_variable_or_the_spec(verb: object, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def answer(*args: str, **_: object) -> str:
        said.extend(args)
        return "id"

    monkeypatch.setattr(podman, "podman", answer)
    monkeypatch.setattr(podman, "inspect", lambda name: None)
    monkeypatch.setattr(podman, "require", lambda name: {})
    monkeypatch.setattr("coat_ryu.node.criu.configure", lambda name: None)
    spec = {"name": "n", "image": "i", "command": [], "netns": "coat-n", "spec": '{"env": "hush"}'}
    verb(**spec, env={"A": "hush", "B": "hush\nhush"})  # type: ignore[operator]
    assert said and not any("hush" in word for word in said)
