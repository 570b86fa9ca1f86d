"""The example networks: every claim is proved, a broken network's claims fail, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.process import TOKEN_VARIABLE, Process, alive, pids_with_token, wait_until
from lab.programs import require_lab

from wgfast import PublicKey, config, public_key

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNNER = EXAMPLES / "run.py"
FOLDERS = sorted({path.parent.parent for path in EXAMPLES.glob("*/*/wg0.conf")})
NAMES = [folder.name for folder in FOLDERS]
DOMAIN = ".example-vpn.dev"
BOUND = 40


class Run:
    """Runs examples/run.py with a mark in its environment by which whatever it starts is found."""

    def __init__(self, directory: Path) -> None:
        self._token = f"topologies{os.getpid()}-{os.urandom(3).hex()}"
        self._log = directory / "log"
        self.process: Process | None = None

    def start(self, *arguments: object) -> Process:
        argv = [sys.executable, str(RUNNER), *map(str, arguments)]
        self.process = Process(argv, self._log, {TOKEN_VARIABLE: self._token, "PYTHONUNBUFFERED": "1"})
        return self.process

    def to_end(self, *arguments: object) -> tuple[int, str]:
        """Exit status and output; whatever the end, nothing is left."""
        process = self.start(*arguments)
        status = process.wait(BOUND + 10)
        self.assert_nothing_left()
        return status, process.output

    @property
    def pids(self) -> list[int]:
        return [pid for pid in pids_with_token(self._token) if alive(pid)]

    def assert_nothing_left(self, deadline: float = 0.0) -> None:
        """Namespaces without names live in processes: with these everything else is gone."""
        if deadline:
            wait_until(lambda: not self.pids, "everything that was started to end", deadline)
        assert self.pids == []

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Run]:
    require_lab()
    run = Run(tmp_path)
    try:
        yield run
    finally:
        run.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the smallest example, to be changed."""
    return Path(shutil.copytree(EXAMPLES / "simple_server_to_server", tmp_path / "copy"))


# ---- what needs no lab ----


def test_there_are_nine():
    assert len(NAMES) == 9
    listed = subprocess.run([sys.executable, RUNNER, "--list"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == NAMES


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_drawing_names_everything(folder):
    done = subprocess.run(
        [sys.executable, RUNNER, folder.name, "--dry-run"], capture_output=True, text=True, check=True
    )
    for path in folder.glob("*/wg0.conf"):
        assert path.parent.name in done.stdout
        for address in config.read(path).interface.addresses:
            assert str(address) in done.stdout
    assert "·" in done.stdout
    assert "✓" not in done.stdout


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_readme_says_how_to_run_it(folder):
    readme = (folder / "README.md").read_text()
    assert f"examples/run.py {folder.name}" in readme
    assert f"]({folder.name})" in (EXAMPLES / "README.md").read_text()
    for path in folder.rglob("*.conf"):
        assert f"]({path.relative_to(folder)})" in readme


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_configurations_name_their_keys(folder):
    owners = {}
    for path in folder.glob("*/wg0.conf"):
        interface = config.read(path).interface
        assert interface.name == path.parent.name + DOMAIN
        text = path.read_text()
        assert "PrivateKey = ADEMOKEY/" in text, "a key that could be taken for someone's own"
        assert "# A demonstration key, known to everyone" in text
        owners[public_key(interface.private_key)] = interface.name
    assert len(owners) == len(list(folder.glob("*/wg0.conf")))
    shared = [peer for path in folder.glob("*.conf") for peer in config.read(path, quick=False).peers]
    for peer in [p for path in folder.glob("*/wg0.conf") for p in config.read(path).peers] + shared:
        assert owners[PublicKey(peer.public_key)] == peer.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-thing"], "there is no topology.py in it; --list shows"),
        (["full", "--timeout", "0"], "0 is not"),
    ],
)
def test_wrong_arguments(arguments, message):
    done = subprocess.run([sys.executable, RUNNER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


# ---- in namespaces ----


@pytest.mark.lab
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_proved(runner, name):
    status, output = runner.to_end(name, "--timeout", BOUND)
    assert status == 0, output
    assert "✗" not in output
    assert f"{output.count('✓')} of {output.count('✓')} claims proved" in output
    assert output.count("✓") >= 2


# What is changed (host, old, new), and the claim that must fail.
BROKEN = {
    "IPv6 goes around the tunnel": (
        "internet_browsing_vpn",
        [("laptop", ", ::/0", "")],
        "Not one packet and not one question",
    ),
    "names are asked for in the LAN": (
        "internet_browsing_vpn",
        [("laptop", "DNS = 10.0.0.1", "")],
        "Not one packet and not one question",
    ),
    "nothing is routed into the tunnel": (
        "internet_browsing_vpn",
        [("laptop", "DNS =", "Table = off\nDNS =")],
        "A web server sees public-server1",
    ),
    "the relay is the only way": (
        "full",
        [
            ("laptop", "AllowedIPs = 10.0.0.2", "AllowedIPs = 10.0.9.9"),
            ("public-server2", "AllowedIPs = 10.0.0.4", "AllowedIPs = 10.0.9.9"),
        ],
        "The more specific route wins",
    ),
}


@pytest.mark.lab
@pytest.mark.parametrize(("name", "changes", "claim"), BROKEN.values(), ids=list(BROKEN))
def test_broken_network_is_found_out(runner, tmp_path, name, changes, claim):
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
    for host, old, new in changes:
        path = folder / host / "wg0.conf"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    # A leak fails claims before that one, too; what is cut off is not waited for more than once.
    options = [] if "Not one packet" in claim else ["--exit-first"]
    status, output = runner.to_end(folder, "--timeout", BOUND, *options)
    assert status == 1, output
    failed = [line for line in output.splitlines() if line.startswith(" ✗")]
    assert any(claim in line for line in failed), output


@pytest.mark.lab
def test_error_in_a_claim_leaves_nothing(runner, copy):
    with (copy / "topology.py").open("a") as declaration:
        declaration.write(
            '\n\n@topology.claim\ndef broken(net):\n    raise RuntimeError("a claim that breaks")\n'
        )
    status, output = runner.to_end(copy)
    assert status == 1
    assert "RuntimeError: a claim that breaks" in output


@pytest.mark.lab
def test_configuration_that_is_refused_leaves_nothing(runner, copy):
    path = copy / "public-server2" / "wg0.conf"
    path.write_text(path.read_text().replace("[Peer]", "PostUp = echo it cannot be >&2; false\n[Peer]"))
    status, output = runner.to_end(copy)
    assert status == 2
    assert "public-server2: `wgfast up wg0`" in output
    assert "it cannot be" in output
    assert "Traceback" not in output


@pytest.mark.lab
def test_time_limit_leaves_nothing(runner, copy):
    with (copy / "topology.py").open("a") as declaration:
        declaration.write("\n\n@topology.claim\ndef long(net):\n    import time; time.sleep(30)\n")
    status, output = runner.to_end(copy, "--timeout", 2)
    assert status == 2
    assert "not done within 2 s; --timeout gives it longer" in output


def stands(process: Process) -> bool:
    assert process.returncode is None, process.output
    return "Ctrl-C takes all of it down" in process.output


@pytest.mark.lab
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_while_it_stands_leaves_nothing(runner, number, status):
    process = runner.start("container", "--keep")
    wait_until(lambda: stands(process), "the network to stand", 30)
    assert len(runner.pids) > 5
    hint = next(line for line in process.output.splitlines() if "nsenter" in line)
    inside = subprocess.run(
        [*hint.split()[1:], "hostname"], capture_output=True, text=True, timeout=5, check=True
    )
    assert inside.stdout.strip() == hint.split()[0] == "public-server1"
    process.signal(number)
    assert process.wait(10) == status
    runner.assert_nothing_left()


@pytest.mark.lab
@pytest.mark.parametrize("enough", [2, 6, 12])
def test_signal_while_it_is_built_leaves_nothing(runner, enough):
    process = runner.start("full")
    wait_until(lambda: len(runner.pids) >= enough or process.returncode is not None, "hosts", 20)
    process.signal(signal.SIGTERM)
    assert process.wait(15) == 143
    # A host that was being started at that moment is ended by the kernel, with its parent, a moment later.
    runner.assert_nothing_left(deadline=5)


@pytest.mark.lab
def test_killed_runner_takes_its_network_along(runner):
    process = runner.start("simple_server_to_server", "--keep")
    wait_until(lambda: stands(process), "the network to stand", 30)
    process.signal(signal.SIGKILL)
    process.wait(5)
    runner.assert_nothing_left(deadline=5)
