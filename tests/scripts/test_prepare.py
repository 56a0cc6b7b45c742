"""prepare.py's promises, without a network: complete or absent, resumed, checked, redone when inputs change."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import checkout  # first: it makes scripts/ importable

import prepare
from preparation import console, folders, pins, wheels
from preparation.console import PrepareError
from preparation.pins import WheelFile

CONTENT = b"the library" * 1000


class PrepareTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.printed = io.StringIO()
        self.enterContext(contextlib.redirect_stdout(self.printed))


class FetchTest(PrepareTestCase):
    def setUp(self) -> None:
        super().setUp()
        wheel = io.BytesIO()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pkg/lib.so", CONTENT)
            archive.writestr("pkg/LICENSE", "may be used")
        self.wheel = wheel.getvalue()
        self.downloads = 0
        self.cache = self.folder / "cache"

    def pin(self, **changes: str) -> WheelFile:
        settings = {
            "wheel_sha256": hashlib.sha256(self.wheel).hexdigest(),
            "member_sha256": hashlib.sha256(CONTENT).hexdigest(),
            "member": "pkg/lib.so",
        } | changes
        return WheelFile(
            package="pkg",
            version="1",
            wheel_megabytes=1,
            member_bytes=len(CONTENT),
            cached_name="lib-1.so",
            **settings,
        )

    def download(self, pin: WheelFile, folder: Path) -> None:
        self.downloads += 1
        (folder / f"{pin.package}-{pin.version}.whl").write_bytes(self.wheel)

    def fetch(self, pin: WheelFile | None = None) -> Path:
        return wheels.fetch(pin or self.pin(), self.cache, self.download, "library")

    def test_a_file_is_downloaded_once(self) -> None:
        self.assertEqual(self.fetch().read_bytes(), CONTENT)
        self.fetch()
        self.assertEqual(self.downloads, 1)
        self.assertEqual(sorted(path.name for path in self.cache.iterdir()), ["lib-1.so", "lib-1.so.lock"])

    def test_licences_are_kept_beside_the_file_and_fetched_where_they_lack(self) -> None:
        without = self.pin()
        self.fetch(without)
        pin = dataclasses.replace(without, notices=("pkg/LICENSE",))
        for _ in range(2):
            self.fetch(pin)
            notice = wheels.notice_in_cache(pin, "pkg/LICENSE", self.cache)
            self.assertEqual(notice.read_text(), "may be used")
        self.assertEqual(self.downloads, 2)

    def test_a_damaged_file_in_the_cache_is_downloaded_again(self) -> None:
        for damage in (CONTENT[:-1], b"x" + CONTENT[1:]):
            self.fetch().write_bytes(damage)
            self.assertEqual(self.fetch().read_bytes(), CONTENT)
        self.assertEqual(self.downloads, 3)

    def test_wrong_hashes_are_refused_and_leave_nothing(self) -> None:
        for pin in (self.pin(wheel_sha256="0" * 64), self.pin(member_sha256="0" * 64)):
            with self.assertRaisesRegex(PrepareError, "hash mismatch"):
                self.fetch(pin)
            self.assertEqual([path.name for path in self.cache.iterdir()], ["lib-1.so.lock"])

    def test_leftovers_of_a_killed_download_are_removed(self) -> None:
        leftover = self.cache / ".lib-1.so.partial-dead"
        leftover.mkdir(parents=True)
        (leftover / "half.whl").write_bytes(b"half")
        self.fetch()
        self.assertFalse(leftover.exists())

    def test_a_failed_download_is_tried_again_by_the_next_run(self) -> None:
        def broken(pin: WheelFile, folder: Path) -> None:
            (folder / "half").write_bytes(b"half")
            raise PrepareError("no network")

        with self.assertRaisesRegex(PrepareError, "no network"):
            wheels.fetch(self.pin(), self.cache, broken, "library")
        self.assertEqual(self.fetch().read_bytes(), CONTENT)

    def test_two_runs_at_once_download_once(self) -> None:
        threads = [threading.Thread(target=self.fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.downloads, 1)


class BuildFolderTest(PrepareTestCase):
    def build(self, text: str, inputs_hash: str = "one") -> None:
        folders.build_folder(
            self.folder,
            "models/m",
            inputs_hash,
            lambda folder: (folder / "model.onnx").write_text(text) and None,
        )

    def current(self, inputs_hash: str = "one") -> bool:
        return folders.Stamps(self.folder).is_current("models/m", inputs_hash)

    def test_a_result_is_current_until_inputs_or_files_change(self) -> None:
        self.assertFalse(self.current())
        self.build("a")
        self.assertTrue(self.current())
        self.assertFalse(self.current("two"))
        (self.folder / "models" / "m" / "model.onnx").write_text("longer")
        self.assertFalse(self.current())
        self.build("b")
        (self.folder / "models" / "m" / "model.onnx").unlink()
        self.assertFalse(self.current())

    def test_a_failed_build_leaves_the_old_result(self) -> None:
        self.build("old")

        def fail(folder: Path) -> None:
            (folder / "model.onnx").write_text("half")
            raise PrepareError("interrupted")

        with self.assertRaises(PrepareError):
            folders.build_folder(self.folder, "models/m", "two", fail)
        self.assertEqual((self.folder / "models" / "m" / "model.onnx").read_text(), "old")
        self.assertTrue(self.current())
        self.assertEqual([path.name for path in (self.folder / "models").iterdir()], ["m"])

    def test_a_new_result_replaces_the_old_one_and_leftovers_go(self) -> None:
        self.build("old")
        (self.folder / "models" / ".m.partial-dead").mkdir()
        self.build("new", "two")
        self.assertEqual((self.folder / "models" / "m" / "model.onnx").read_text(), "new")
        self.assertTrue(self.current("two"))
        self.assertEqual([path.name for path in (self.folder / "models").iterdir()], ["m"])

    def test_a_damaged_stamp_counts_as_none(self) -> None:
        self.build("a")
        for text in ("", "[]", '{"inputs": "one"}', '{"inputs": "one", "files": 3}'):
            (self.folder / ".stamps" / "models-m.json").write_text(text)
            self.assertFalse(self.current(), text)

    def test_the_hash_of_inputs_sees_names_contents_and_options(self) -> None:
        def hashed(name: str, content: str, *options: str) -> str:
            path = self.folder / name
            path.write_text(content)
            return folders.hash_of_inputs([path], *options)

        hashes = [
            hashed("a", "x"),
            hashed("b", "x"),
            hashed("a", "y"),
            hashed("a", "x", "o"),
            hashed("a", "x", "o", "p"),
            hashed("a", "x", "op"),
        ]
        self.assertEqual(len(set(hashes)), len(hashes))
        self.assertEqual(hashed("a", "x"), hashes[0])

    def test_a_full_disk_is_seen_before_the_work(self) -> None:
        with self.assertRaisesRegex(PrepareError, "not enough disk space"):
            folders.require_free_space(self.folder / "not" / "yet", 2**62)


class LockTest(PrepareTestCase):
    def test_the_second_one_says_that_it_waits(self) -> None:
        path, waiting, done = self.folder / "lock", threading.Event(), threading.Event()

        def second() -> None:
            with folders.exclusive_lock(path, "this checkout"):
                done.set()

        with mock.patch.object(folders, "say", lambda text: waiting.set()):
            with folders.exclusive_lock(path, "this checkout"):
                thread = threading.Thread(target=second)
                thread.start()
                self.assertTrue(waiting.wait(10))
                self.assertFalse(done.is_set())
            thread.join(10)
        self.assertTrue(done.is_set())

    def test_a_child_of_a_killed_run_still_holds_the_lock(self) -> None:
        path = self.folder / "lock"
        with folders.exclusive_lock(path, "this checkout") as lock:
            child = subprocess.Popen(
                [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
            )
        with path.open() as file:
            with self.assertRaises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            child.communicate(b"\n", timeout=10)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class CommandLineTest(PrepareTestCase):
    def test_targets_and_precisions(self) -> None:
        parsed = prepare.parse_arguments([])
        self.assertEqual((parsed.targets, parsed.precision), (["library", "model"], ["w8a8"]))
        parsed = prepare.parse_arguments(["--precision", "fp32", "--precision", "int8", "tiny"])
        self.assertEqual((parsed.targets, parsed.precision), (["tiny"], ["fp32", "int8"]))
        with contextlib.redirect_stderr(io.StringIO()) as errors, self.assertRaises(SystemExit):
            prepare.parse_arguments(["libary"])
        self.assertIn("unknown target 'libary'", errors.getvalue())

    def test_failures_of_commands_become_one_line_that_says_what_to_do(self) -> None:
        for output, expected in (
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "does not have the pinned sha256"),
            (
                "Failed to establish a new connection: [Errno 101]\nERROR: No matching distribution",
                "no network",
            ),
            (
                "ERROR: No matching distribution found for numpy==2.4.6\n",
                "finds no numpy==2.4.6: no network, or",
            ),
            ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
            ("OSError: [Errno 28] No space left on device", "no space left"),
            ("warm up\nERROR: something new\n", "status 1: ERROR: something new"),
            ("", "no output"),
        ):
            with self.subTest(output):
                explained = console.explain_failure(["pip", "install"], 1, output)
                self.assertIn(expected, explained)
                self.assertNotIn("\n", explained)

    def test_a_failing_command_raises_with_its_last_error(self) -> None:
        with self.assertRaisesRegex(PrepareError, "status 3: ValueError-like error"):
            console.run_command([sys.executable, "-c", "print('ValueError-like error'); raise SystemExit(3)"])


class PreparationTest(PrepareTestCase):
    """What is made anew for which change; the steps themselves are replaced."""

    def setUp(self) -> None:
        super().setUp()
        for name in (
            "scripts/convert/decoder.py",
            "scripts/requirements.txt",
            "tests/fixtures/tiny_models.py",
        ):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text("first")
        self.results = ["tiny", "models/smollm2-135m-instruct-int8", "models/smollm2-135m-instruct-fp32"]

    def made(self) -> list[str]:
        """The results that a run makes."""
        made: list[str] = []

        def make_model(preparation: prepare.Preparation, result: str, gguf: Path) -> None:
            made.append(result)
            folders.build_folder(
                preparation.prepared, result, preparation.inputs(result), lambda folder: None
            )

        with (
            mock.patch.object(prepare.Preparation, "make_model", make_model),
            mock.patch.object(
                prepare.Preparation, "make_tiny_models", lambda self: make_model(self, "tiny", None)
            ),
            mock.patch.object(prepare, "fetch", lambda *arguments: None),
            mock.patch.object(prepare, "PythonEnvironment", mock.MagicMock()),
        ):
            prepare.Preparation(self.folder, self.folder / "cache", 0).make(self.results, [])
        return sorted(made)

    def test_only_what_changed_is_made_again(self) -> None:
        self.assertEqual(self.made(), sorted(self.results))
        self.assertEqual(self.made(), [])
        (self.folder / "tests" / "fixtures" / "tiny_models.py").write_text("second")
        self.assertEqual(self.made(), ["tiny"])
        (self.folder / "scripts" / "convert" / "decoder.py").write_text("second")
        self.assertEqual(self.made(), sorted(self.results))

    def test_the_library_of_another_processor_is_another_result(self) -> None:
        of_machine = {
            machine: prepare.Preparation(self.folder, self.folder / "cache", 0, machine).inputs("lib")
            for machine in ("x86_64", "aarch64")
        }
        self.assertNotEqual(of_machine["x86_64"], of_machine["aarch64"])
        with mock.patch.object(pins.platform, "machine", lambda: "aarch64"):
            here = prepare.Preparation(self.folder, self.folder / "cache", 0).inputs("lib")
        self.assertEqual(here, of_machine["aarch64"])

    def test_a_failed_task_does_not_lose_what_the_others_made(self) -> None:
        good, bad = prepare.Future(), prepare.Future()
        bad.set_exception(PrepareError("first failure"))
        good.set_result(None)
        with self.assertRaisesRegex(PrepareError, "first failure"):
            prepare._wait_for_all([good, None, bad])


if __name__ == "__main__":
    unittest.main()
