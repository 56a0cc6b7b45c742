"""Makes the project's Python importable in tests: `import checkout` before anything of scripts/ or
tests/fixtures/.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ROOT / "prepared"
GOLDEN = ROOT / "tests" / "fixtures" / "golden.json"

for folder in (ROOT / "scripts", ROOT / "scripts" / "bench", ROOT / "tests" / "fixtures"):
    sys.path.insert(0, str(folder))
