"""The status page of the admin address in a real browser: models, revisions, queues, failures."""

import threading
import unittest
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from served import MODEL, PATIENCE_SECONDS, ask, browser, listeners

GOOD = f"- name: chat\n  spec: {{source: {{path: {MODEL.relative_to('/')}}}}}\n"
BROKEN = "- name: broken\n  spec: {source: {path: nowhere/to/be/found}}\n"
expect.set_options(timeout=PATIENCE_SECONDS * 1000)


class StatusPageTest(unittest.TestCase):
    def setUp(self) -> None:
        self.complaints: list[str] = []
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.list = self.folder / "models.yaml"
        self.list.write_text(GOOD + BROKEN)
        # One row, so that a second request waits.
        self.addresses = self.enterContext(
            listeners(f"--models-file={self.list}", "--model-root=/", "--max-batch-size=1")
        )

    def open(self) -> Page:
        context = self.enterContext(browser()).new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}"))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.goto(self.addresses["admin"])
        return page

    def ask_in_the_background(self, tokens: int) -> threading.Thread:
        def asked() -> None:
            with suppress(URLError, ConnectionError):
                ask(self.addresses["api"], "/api/v1/inference", {"model": "chat", "text": "Once", "max_tokens": tokens, "ignore_eos": True})

        thread = threading.Thread(target=asked)
        thread.start()
        self.addCleanup(thread.join)
        return thread

    def test_models_queues_and_failures_are_seen_and_stay_fresh(self) -> None:
        page = self.open()
        chat, broken = page.locator("tr", has_text="chat"), page.locator("tr", has_text="broken").first
        expect(chat).to_contain_text("ready")
        expect(chat).to_contain_text("0 of 1")
        expect(broken).to_contain_text("failed")
        expect(broken).to_contain_text("nowhere/to/be/found")
        expect(page.get_by_role("heading", name="Recent failures")).to_be_visible()
        violations = Axe().run(page)
        self.assertEqual(violations.violations_count, 0, violations.generate_report())
        for _request in range(3):
            self.ask_in_the_background(400)
        # Without a new page.
        expect(chat).to_contain_text("1 of 1")
        expect(chat).to_contain_text("2 of 256")
        page.get_by_label("Fresh every 3 seconds").uncheck()
        self.list.write_text(GOOD)
        page.wait_for_timeout(5000)
        expect(broken).to_be_visible()
        page.get_by_label("Fresh every 3 seconds").check()
        expect(broken).to_have_count(0)
        self.assertEqual(self.complaints, [])


if __name__ == "__main__":
    unittest.main()
