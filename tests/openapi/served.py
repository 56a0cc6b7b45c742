"""The gateway under test: `tests/integration/openapi.rs` serves one and says where it is."""

import os

URL = os.environ.get("GATEWAY_URL", "")
if not URL:
    raise RuntimeError("GATEWAY_URL is not set: run `make openapi-test`")
