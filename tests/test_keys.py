"""API keys: who is let in, files that cannot be trusted, rotation while the service runs, and the commands."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightrank.cli.app import main
from nightrank.errors import SettingsError
from nightrank.service import key_file, keys
from nightrank.service.key_file import MAX_KEYS, add, listed, revoke
from nightrank.service.keys import Keys

CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys.json"


class TestRole:
    def test_each_key_has_its_role(self, file: Path) -> None:
        """A read key is not let in as admin, nor an admin one kept out."""
        made = {role: add(file, role=role)[1] for role in ("read", "admin")}
        found = Keys(file)
        assert {role: found.role(bearer(key)) for role, key in made.items()} == {
            "read": "read",
            "admin": "admin",
        }

    @pytest.mark.parametrize(
        "edit",
        [
            lambda key: None,
            lambda key: b"",
            lambda key: b"Bearer",
            lambda key: b"Bearer ",
            lambda key: key.encode(),
            lambda key: b"Basic " + key.encode(),
            lambda key: bearer(key)[:-1],
            lambda key: bearer(key) + b"A",
            lambda key: bearer(key.upper()),
            lambda key: bearer(f"{key}, {key}"),
            lambda key: bearer(key) + b"\0",
            lambda key: b"Bearer " + hashlib.sha256(key.encode()).hexdigest().encode(),
            lambda key: b"Bearer \xff\xfe",
            lambda key: b"Bearer " + key.encode() * 10_000,
        ],
    )
    def test_nothing_else_is_let_in(self, file: Path, edit: Callable[[str], bytes | None]) -> None:
        """Neither a part of a key, nor its digest from the file, nor bytes that are no text."""
        key = add(file, role="admin")[1]
        assert Keys(file).role(edit(key)) is None

    @pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
    def test_the_scheme_is_read_as_http_has_it(self, file: Path, scheme: str) -> None:
        """RFC 9110: the scheme in any case, one or more spaces."""
        key = add(file, role="read")[1]
        assert Keys(file).role(f"{scheme}{key}".encode()) == "read"

    def test_every_key_is_compared_in_constant_time(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Time tells neither how many keys precede the right one nor how much of a digest was right."""
        made = [add(file, role="read")[1] for _ in range(5)]
        compared: list[tuple[bytes, bytes]] = []
        real = hmac.compare_digest

        def seen(a: bytes, b: bytes) -> bool:
            compared.append((a, b))
            return real(a, b)

        monkeypatch.setattr(keys.hmac, "compare_digest", seen)
        found = Keys(file)
        for key in (made[0], made[-1], "nr_unknown"):
            compared.clear()
            found.role(bearer(key))
            assert [len(a) for a, _ in compared] == [32] * 5
            assert len({b for _, b in compared}) == 5

    def test_a_key_is_long_and_random(self, file: Path) -> None:
        """256 bits are why a plain SHA-256 is enough."""
        made = {add(file, role="read")[1] for _ in range(20)}
        assert len(made) == 20
        assert all(re.fullmatch(r"nr_[A-Za-z0-9_-]{43}", key) for key in made)


class TestFile:
    def test_it_holds_no_key_and_is_its_owners(self, file: Path) -> None:
        """What a backup or a glance shows opens nothing; mode 0600, whatever the umask."""
        before = os.umask(0)
        try:
            record, key = add(file, role="read", name="web shop")
        finally:
            os.umask(before)
        text = file.read_text()
        assert key.removeprefix("nr_") not in text
        assert json.loads(text) == {"version": 1, "keys": [record.model_dump()]}
        assert record.sha256 == hashlib.sha256(key.encode()).hexdigest()
        assert record.sha256 not in repr(record)
        assert {stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()} == {0o600}

    def test_a_mode_that_an_operator_chose_stays(self, file: Path) -> None:
        """A service that reads the file as a member of its group goes on reading it after the next `add`."""
        add(file, role="read")
        file.chmod(0o640)
        add(file, role="read")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert len(listed(file)) == 2

    def test_a_link_stays_a_link(self, file: Path, tmp_path: Path) -> None:
        """A mounted secret is a link; `add` changes what it points to."""
        add(file, role="read")
        link = tmp_path / "link.json"
        link.symlink_to(file)
        add(link, role="read")
        assert link.is_symlink()
        assert len(listed(file)) == len(listed(link)) == 2

    @pytest.mark.parametrize("mode", [0o602, 0o620, 0o666, 0o777])
    def test_a_file_that_others_may_write_is_refused(self, file: Path, mode: int) -> None:
        """Whoever writes it gives keys away: by no reader, and by no `add` on top."""
        add(file, role="read")
        file.chmod(mode)
        for use in (Keys, listed, lambda path: add(path, role="read")):
            with pytest.raises(
                SettingsError, match=rf"{file}: others than its owner may write it .*{mode:o}.*chmod"
            ):
                use(file)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_a_file_of_another_user_is_refused(self, file: Path) -> None:
        """Its owner could add keys at any time."""
        add(file, role="read")
        os.chown(file, 12345, -1)
        with pytest.raises(SettingsError, match="it belongs to user 12345, who could add keys"):
            Keys(file)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda raw: raw.update(version=2), "version: Input should be 1"),
            (lambda raw: raw.pop("version"), "version: Field required"),
            (lambda raw: raw.update(key=[]), "the file: Extra inputs are not permitted"),
            (lambda raw: raw["keys"][0].update(role="root"), "keys.0.role: Input should be 'read' or 'admin'"),
            (lambda raw: raw["keys"][0].update(sha256="SECRET"), "keys.0.sha256: String should match pattern"),
            (lambda raw: raw["keys"][0].update({"SECRET": "x"}), "keys.0: Extra inputs are not permitted"),
            (lambda raw: raw["keys"][0].update(name="\x1b[2J"), "keys.0.name: holds a character that cannot be"),
            (lambda raw: raw["keys"].append(raw["keys"][0]), "keys: two keys have the same id"),
            (lambda raw: raw["keys"].extend(raw["keys"] * MAX_KEYS), "keys: List should have at most 100 items"),
        ],
    )  # fmt: skip
    def test_a_malformed_file_is_refused_by_name(
        self, file: Path, change: Callable[[dict[str, Any]], object], said: str
    ) -> None:
        """Nothing is skipped in silence, and what was found is not repeated: it could be a key."""
        add(file, role="read")
        raw = json.loads(file.read_text())
        change(raw)
        file.write_text(json.dumps(raw))
        with pytest.raises(SettingsError) as caught:
            Keys(file)
        assert str(caught.value).startswith(f"key file {file}: {said}")
        assert "SECRET" not in str(caught.value)

    @pytest.mark.parametrize(
        "data", [b"", b"nr_SECRET", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b" " * 2**19]
    )
    def test_what_is_no_key_file_is_refused(self, file: Path, data: bytes) -> None:
        """Any bytes end in our error, soon."""
        add(file, role="read")
        file.write_bytes(data)
        with pytest.raises(SettingsError) as caught:
            Keys(file)
        assert "SECRET" not in str(caught.value)

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        """A folder, a pipe (nobody waits for it), and nothing at all, each with the cure."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for path, said in (
            (tmp_path, "a folder"),
            (pipe, "a named pipe"),
            (tmp_path / "no", "keys add` makes it"),
        ):
            with pytest.raises(SettingsError, match=said):
                Keys(path)
        assert not list(tmp_path.glob(".*"))

    def test_a_failed_write_leaves_the_old_file(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk costs the new key, never the old ones, and leaves no half-written file."""
        record, _ = add(file, role="read")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(key_file.os, "fsync", full)
        with pytest.raises(SettingsError, match="No space left on device"):
            add(file, role="read")
        assert listed(file) == [record]
        assert {one.name for one in file.parent.iterdir()} == {file.name, f".{file.name}.lock"}

    def test_two_adds_at_once_lose_nothing(self, file: Path) -> None:
        """Two operators, or two scripts: read, change and write are one step."""
        # Each `add` opens the lock anew, so that threads exclude each other as processes do.
        together = threading.Barrier(2)

        def adds(name: str) -> None:
            together.wait()
            for _ in range(15):
                add(file, role="read", name=name)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(adds, "ab"))
        assert sorted(one.name for one in listed(file)) == ["a"] * 15 + ["b"] * 15

    def test_a_full_file_is_told(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The check costs each request time by the number of keys, so that is bounded."""
        monkeypatch.setattr(key_file, "MAX_KEYS", 2)
        for _ in range(2):
            add(file, role="read")
        with pytest.raises(SettingsError, match="found 2 keys, expected at most 2; revoke some"):
            add(file, role="read")


class TestRotation:
    def test_a_key_is_exchanged_without_a_restart(self, file: Path) -> None:
        """Add the new one, move callers, revoke the old one: at no moment is nobody let in."""
        record, old = add(file, role="read")
        found = Keys(file)
        new = add(file, role="read")[1]
        found.refresh()
        assert [found.role(bearer(key)) for key in (old, new)] == ["read", "read"]
        revoke(file, record.id)
        found.refresh()
        assert [found.role(bearer(key)) for key in (old, new)] == [None, "read"]
        assert found.problem is None

    def test_an_unchanged_file_is_not_read_again(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is asked every second by every replica."""
        add(file, role="read")
        found = Keys(file)

        def fail(path: Path) -> None:
            raise AssertionError(path)

        monkeypatch.setattr(keys, "read_records", fail)
        found.refresh()
        assert found.problem is None

    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (lambda file: file.unlink(), "cannot be read or written (No such file or directory)"),
            (lambda file: file.write_text("nr_SECRET"), "Invalid JSON"),
            (lambda file: file.chmod(0o666), "others than its owner may write it"),
        ],
    )
    def test_harm_to_the_file_changes_nothing_and_is_seen(
        self, file: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], object], said: str
    ) -> None:
        """A slip of an editor locks nobody out; `problem` names no place, the log does, once; then all is well."""
        key = add(file, role="read")[1]
        found, good = Keys(file), file.read_text()
        with caplog.at_level(logging.INFO):
            harm(file)
            found.refresh()
            found.refresh()
            assert found.role(bearer(key)) == "read"
            assert found.problem is not None
            assert said in found.problem
            assert str(file.parent) not in found.problem
            (line,) = caplog.messages
            assert line.startswith(f"key file {file}: ")
            assert "SECRET" not in caplog.text + found.problem
            file.write_text(good)
            file.chmod(0o600)
            found.refresh()
        assert found.problem is None
        assert caplog.messages[1:] == [f"key file {file} is in force again"]

    def test_no_key_is_ever_logged(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Neither a good key, nor a wrong one, nor a digest."""
        with caplog.at_level(logging.DEBUG):
            record, key = add(file, role="admin")
            found = Keys(file)
            assert found.role(bearer(key)) == "admin"
            assert found.role(b"Bearer nr_wrong") is None
            found.refresh()
            revoke(file, record.id)
            found.refresh()
        for secret in (key, "nr_wrong", record.sha256):
            assert secret not in caplog.text


class TestCommands:
    def run(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["keys", *arguments])
        return int(ended.value.code or 0)

    def test_add_list_revoke(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The key stands alone on stdout, so that a script can keep it; `list` shows neither it nor its digest."""
        at = ("--file", str(file))
        assert self.run("add", "--role", "admin", "--name", "web shop", *at) == 0
        added = capsys.readouterr()
        key = added.out.removesuffix("\n")
        assert Keys(file).role(bearer(key)) == "admin"
        assert key not in added.err
        (record,) = listed(file)
        assert self.run("list", *at) == 0
        told = capsys.readouterr()
        assert told.out == f"{record.id}  admin  {record.created}  web shop\n"
        assert self.run("revoke", record.id, *at) == 0
        assert listed(file) == []
        assert self.run("list", *at) == 0
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["revoke", "3f9c01d2"], "no key has the id '3f9c01d2'; `nightrank keys list` shows them"),
            (["add", "--role", "root"], "'root' is not one of 'read'"),
            (["add", "--role", "read", "--name", "a\nb"], "name: holds a character that cannot be printed"),
            (
                ["add", "--role", "read", "--name", "n" * 101],
                "name: String should have at most 100 characters",
            ),
            (["add"], "Missing option '--role'"),
        ],
    )
    def test_bad_input_is_exit_code_2(
        self, file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        """Refused with what was found, and nothing is added."""
        record, _ = add(file, role="read")
        assert self.run(*arguments, "--file", str(file)) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert said in " ".join(re.sub("[│╭╮╰╯─]", "", told.err).split())
        assert listed(file) == [record]

    def test_a_missing_file_is_told(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing to list or revoke: exit code 2 with the cure, and no file appears."""
        for arguments in (["list"], ["revoke", "3f9c01d2"]):
            assert self.run(*arguments, "--file", str(file)) == 2
            assert "`nightrank keys add` makes it" in capsys.readouterr().err
        assert not file.parent.exists()

    def test_the_default_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """NIGHTRANK_HOME's, with a note, until serve_config.yaml names one; also while its host still lacks keys."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
        raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        raw["http_options"]["host"] = "192.0.2.1"
        raw["applications"][0]["args"].pop("keys", None)
        Path("serve_config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        assert self.run("add", "--role", "read") == 0
        assert len(listed(tmp_path / "home/keys.json")) == 1
        assert f"write args.keys: {tmp_path / 'home/keys.json'}" in capsys.readouterr().err
        raw["applications"][0]["args"]["keys"] = str(tmp_path / "named.json")
        Path("serve_config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        assert self.run("add", "--role", "read") == 0
        assert len(listed(tmp_path / "named.json")) == 1
        assert "args.keys" not in capsys.readouterr().err
