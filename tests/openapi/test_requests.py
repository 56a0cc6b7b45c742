"""Requests that schemathesis makes of the document, right and wrong ones, against the gateway that serves it.

Wanted: no 500, no status, content type, header or body that is not in the document, no request that the document forbids and
the gateway takes, and for wrong methods a 405 that names the right ones. Not wanted: that every request that the document
allows is taken. Token ids that the model has, contexts that are long enough and fields that rule each other out are not in it.
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from served import URL

HERE = Path(__file__).parent
# Requests of each operation in the random phase; those that come of the document alone are about 450 more.
EXAMPLES = os.environ.get("OPENAPI_EXAMPLES", "25")
SEED = os.environ.get("OPENAPI_SEED", "1")


class Requests(unittest.TestCase):
    """One run of schemathesis."""

    def test_nothing_is_answered_that_the_document_does_not_say(self) -> None:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{URL}/openapi.json"]
        command += ["--phases", "examples,coverage,fuzzing", "--checks", "all"]
        command += ["--exclude-checks", "positive_data_acceptance"]
        command += ["--max-examples", EXAMPLES, "--seed", SEED, "--generation-database", "none"]
        # One worker: the parser of CPython 3.11, which hypothesis uses for names of functions, fails where two threads call it at once.
        command += ["--workers", "1", "--continue-on-failure", "--no-color", "--warnings", "off"]
        variables = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "NO_PROXY": "127.0.0.1"}
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
        if "OPENAPI_EXAMPLES" in os.environ:
            print(done.stdout)
        self.assertEqual(done.returncode, 0, f"\n{done.stdout}\n{done.stderr}")
        self.assertIn("Test cases:", done.stdout)


if __name__ == "__main__":
    unittest.main()
