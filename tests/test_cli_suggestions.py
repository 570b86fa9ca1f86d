"""What the shell is told may follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete
from playeddaemon import FINE, PlayedDaemon

from wgfast import cli, client_kernel, client_uapi, uapi_socket


def completions(words: list[str], begun: str) -> list[CompletionItem]:
    return ShellComplete(cli.wgfast, {}, "wgfast", "_WGFAST_COMPLETE").get_completions(words, begun)


def suggested(words: list[str], begun: str) -> list[str]:
    return [item.value for item in completions(words, begun) if item.type == "plain"]


def test_words_that_may_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (uapi_socket, client_uapi):
        monkeypatch.setattr(module, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(client_kernel, "interfaces", list)
    with PlayedDaemon(tmp_path, "wg0", f"public_key={'ab' * 32}\n{FINE}"):
        key = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
        assert set(suggested(["show"], "")) == {"all", "interfaces", "wg0"}
        assert suggested(["show", "all"], "lat") == ["latest-handshakes"]
        assert suggested(["set"], "w") == ["wg0"]
        assert suggested(["set", "wg0"], "l") == ["listen-port"]
        assert suggested(["set", "wg0", "peer"], "") == [key]
        assert suggested(["set", "wg0", "peer", key], "rem") == ["remove"]
        assert suggested(["set", "wg0", "peer", key], "send-p") == ["send-packet-rate", "send-packet-burst"]
        assert suggested(["set", "wg0", "peer", key, "rate-limit"], "") == ["off"]
        assert suggested(["set", "wg0", "peer", key, "endpoint"], "") == []
        assert suggested(["syncconf"], "") == ["wg0"]
        assert suggested(["showconf", "wg0"], "") == []
        for words in (["set", "wg0", "private-key"], ["setconf", "wg0"]):
            assert [item.type for item in completions(words, "")] == ["file"]
