"""The Dockerfile agrees with the rest of the project, and the files of the image are found and complete."""

import re
import tempfile
import tomllib
import unittest
from pathlib import Path

import checkout  # first: it makes scripts/ importable

from image import root

DOCKERFILE = (checkout.ROOT / "Dockerfile").read_text()
CARGO = tomllib.loads((checkout.ROOT / "Cargo.toml").read_text())["package"]
# A line that ends in a backslash goes on in the next one.
INSTRUCTIONS = [
    line for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines() if line and not line.startswith("#")
]


class DockerfileTest(unittest.TestCase):
    def test_the_compiler_is_the_one_of_the_checkout(self) -> None:
        toolchain = tomllib.loads((checkout.ROOT / "rust-toolchain.toml").read_text())["toolchain"]
        (base,) = re.findall(r"^ARG RUST_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
        self.assertRegex(base, rf"^docker\.io/library/rust:{re.escape(toolchain['channel'])}-slim-\w+$")

    def test_labels_say_what_the_package_says(self) -> None:
        self.assertIn(f'description="{CARGO["description"]}"', DOCKERFILE)
        self.assertIn(f'licenses="{CARGO["license"]}"', DOCKERFILE)

    def test_the_last_stage_is_empty_and_runs_as_a_number(self) -> None:
        last = INSTRUCTIONS[max(at for at, line in enumerate(INSTRUCTIONS) if line.startswith("FROM")) :]
        self.assertEqual(last[0], "FROM scratch")
        self.assertFalse([line for line in last if line.startswith(("RUN", "CMD", "ADD", "SHELL"))])
        number = root.USER_AND_GROUP
        self.assertIn(f"USER {number}:{number}", last)
        (cache,) = [line for line in last if line.endswith("/var/cache/inference-gateway") and "COPY" in line]
        self.assertIn(f"--chown={number}:{number}", cache)
        self.assertIn(f'ENTRYPOINT ["/{root.PROGRAM}"]', last)
        (variables,) = [line for line in last if line.startswith("ENV")]
        self.assertIn(f"ORT_DYLIB_PATH=/{root.LIBRARIES}/libonnxruntime.so", variables)

    def test_every_file_it_copies_passes_the_ignore_file(self) -> None:
        passed = [
            line.removeprefix("!")
            for line in (checkout.ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        ]
        copied = [
            word
            for line in INSTRUCTIONS
            if line.startswith("COPY") and "--from" not in line
            for word in line.split()[1:-1]
        ]
        self.assertIn("Cargo.lock", copied)
        for path in copied:
            self.assertTrue((checkout.ROOT / path).exists(), path)
            self.assertTrue(any(path == each or path.startswith(f"{each}/") for each in passed), path)

    def test_what_it_does_not_copy_is_named_by_its_path(self) -> None:
        # Cargo looks for a target that has no path, and refuses the whole manifest where its file is missing.
        manifest = tomllib.loads((checkout.ROOT / "Cargo.toml").read_text())
        targets = [target for kind in ("bench", "test", "example") for target in manifest.get(kind, [])]
        self.assertTrue(targets)
        for target in targets:
            self.assertIn("path", target, target["name"])
            self.assertTrue((checkout.ROOT / target["path"]).is_file(), target["path"])

    def test_it_has_nothing_that_older_builders_lack(self) -> None:
        self.assertNotIn("<<", DOCKERFILE)
        self.assertNotIn("--link", DOCKERFILE)
        self.assertNotIn("# syntax=", DOCKERFILE)


class CollectTest(unittest.TestCase):
    def collect(self, needs: dict[str, list[str]], *there: str, own: tuple[str, ...] = ()) -> dict[str, Path]:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in there:
            (folder / name).write_text(name)
        self.folder = folder
        return root.collect(
            [Path("program"), *map(Path, own)], set(own), [folder], lambda elf: needs.get(elf.name, [])
        )

    def test_what_libraries_need_is_found_too(self) -> None:
        needs = {
            "program": ["libc.so.6"],
            "libort.so": ["libstdc++.so.6"],
            "libstdc++.so.6": ["libm.so.6", "libc.so.6"],
        }
        found = self.collect(
            needs, "libc.so.6", "libstdc++.so.6", "libm.so.6", "libnot.so", own=("libort.so",)
        )
        self.assertEqual(sorted(found), ["libc.so.6", "libm.so.6", "libstdc++.so.6"])
        self.assertEqual(found["libm.so.6"], self.folder.resolve() / "libm.so.6")

    def test_a_missing_library_fails_the_build(self) -> None:
        with self.assertRaisesRegex(
            root.RootError, r"^libort\.so needs libgone\.so\.1, which is not in .+libgone"
        ):
            self.collect({"libort.so": ["libgone.so.1"]}, own=("libort.so",))

    def test_own_libraries_and_those_of_a_driver_are_not_looked_for(self) -> None:
        needs = {"program": ["libcuda.so.1", "libort.so"]}
        self.assertEqual(self.collect(needs, own=("libort.so",)), {})

    def test_needs_are_read_from_a_real_library(self) -> None:
        library = checkout.PREPARED / "lib" / "libonnxruntime.so"
        self.assertTrue(library.exists(), "run `python3 scripts/prepare.py library`")
        needed = root.needed_libraries(library)
        self.assertIn("libstdc++.so.6", needed)
        self.assertFalse([name for name in needed if name.startswith("/")])

    def test_the_loader_is_read_from_a_program(self) -> None:
        line = "      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n"
        self.assertEqual(root.loader_of(line), ["/lib64/ld-linux-x86-64.so.2"])


if __name__ == "__main__":
    unittest.main()
