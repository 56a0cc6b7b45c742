"""The playground in a real browser, against a real model."""

import time
import unittest
from typing import ClassVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect
from served import MODEL_NAME, PATIENCE_SECONDS, ask, browser, gateway, sample

CANCELLED = f'inference_gateway_generations_total{{finish_reason="cancelled",model="{MODEL_NAME}"}}'
expect.set_options(timeout=PATIENCE_SECONDS * 1000)


class PlaygroundTest(unittest.TestCase):
    url: ClassVar[str]
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        cls.browser = cls.enterClassContext(browser())
        cls.url = cls.enterClassContext(gateway())

    def setUp(self) -> None:
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self.expected_complaints = 0

    def tearDown(self) -> None:
        outside = [request.url for request in self.requests if not request.url.startswith(f"{self.url}/")]
        self.assertEqual(outside, [], "requests to anything else")
        # The browser's console notes each answer with an error, which some tests are about.
        notes = [one for one in self.complaints if "Failed to load resource" in one]
        self.assertEqual(len(notes), self.expected_complaints, notes)
        self.assertEqual([one for one in self.complaints if one not in notes], [])

    def open(self, **options: object) -> Page:
        """The page, ready, in a context of its own."""
        context = self.browser.new_context(**options)
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.complaints.append(f"{error}"))
        page.on(
            "console",
            lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None,
        )
        page.goto(f"{self.url}/")
        expect(page.locator("#readiness")).to_have_text("Ready (1 of 1 models)")
        expect(page.locator("#model")).to_have_value(MODEL_NAME)
        # Few, so that a busy machine is not waited for; who wants more says so.
        page.evaluate("document.getElementById('max_tokens').value = '12'")
        return page

    def reach(self, page: Page, name: str) -> None:
        """Moves the focus to an element as a person without a mouse does."""
        for _press in range(40):
            if page.evaluate("document.activeElement.id") == name:
                return
            page.keyboard.press("Tab")
        self.fail(f"{name} cannot be reached with the keyboard")

    def done(self, page: Page) -> str:
        """Waits for the end of an answer; returns its text."""
        expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
        return page.locator("#log .said.model").last.text_content() or ""

    def generate_text(self, page: Page, prompt: str, **fields: str) -> str:
        page.get_by_label("a text to continue", exact=True).check()
        for name, value in fields.items():
            page.locator(f"#{name}").fill(value)
        page.locator("#prompt").fill(prompt)
        page.locator("#generate").click()
        return self.done(page)

    def test_a_chat_by_keyboard_alone_is_answered_in_pieces(self) -> None:
        page = self.open()
        self.reach(page, "prompt")
        page.keyboard.type("Write a long story of a lighthouse.")
        page.evaluate(
            "() => { window.lengths = new Set(); new MutationObserver(() => window.lengths.add("
            "document.querySelector('.said.model')?.textContent.length ?? 0)).observe("
            "document.getElementById('log'), {subtree: true, childList: true, characterData: true}); }"
        )
        self.reach(page, "max_tokens")
        page.keyboard.press("Control+A")
        page.keyboard.type("40")
        page.keyboard.press("Control+Enter")
        first = self.done(page)
        self.assertGreater(len(first), 40)
        self.assertGreater(page.evaluate("window.lengths.size"), 10, "the text came in pieces")
        expect(page.locator("#tokens")).to_have_text("40")
        expect(page.locator("#reason")).to_have_text("length")
        self.assertRegex(page.locator("#first").text_content() or "", r"^\d+\.\d\d s$")
        self.assertGreater(float(page.locator("#rate").text_content() or 0), 0)
        expect(page.locator("#progress")).to_have_text("Done, 40 tokens")
        # The next question goes with what was said before.
        expect(page.locator("#prompt")).to_have_value("")
        self.reach(page, "prompt")
        page.keyboard.type("Go on.")
        self.reach(page, "generate")
        page.keyboard.press("Enter")
        self.done(page)
        body = [request.post_data_json for request in self.requests if request.method == "POST"][-1]
        self.assertEqual([message["role"] for message in body["messages"]], ["user", "assistant", "user"])
        self.assertEqual(body["messages"][1]["content"], first)

    def test_a_text_is_continued_as_the_api_continues_it(self) -> None:
        page = self.open()
        prompt = "The capital of France is"
        seed = "18446744073709551615"
        shown = self.generate_text(page, prompt, max_tokens="12", temperature="0.9", seed=seed, stop_texts="zzz\nyyy")
        answer = ask(
            self.url,
            "/api/v1/inference",
            {"text": prompt, "max_tokens": 12, "temperature": 0.9, "seed": int(seed)},
        )
        self.assertEqual(shown, answer["generated_text"])
        sent = [request.post_data for request in self.requests if request.method == "POST"][-1]
        self.assertIn(f'"seed":{seed}', sent, "no digit is lost")
        self.assertIn('"stop":["zzz","yyy"]', sent)

    def test_a_stream_is_stopped_and_frees_its_place(self) -> None:
        page = self.open()
        before = sample(self.url, CANCELLED)
        for by_button in (True, False):
            page.locator("#max_tokens").fill("2000")
            page.locator("#prompt").fill("Count to ten thousand: one, two, three,")
            self.reach(page, "generate")
            page.keyboard.press("Enter")
            expect(page.locator(".said.model").last).not_to_be_empty()
            if by_button:
                self.assertEqual(page.evaluate("document.activeElement.id"), "stop")
                page.keyboard.press("Enter")
            else:
                page.keyboard.press("Escape")
            kept = self.done(page)
            self.assertTrue(kept, "what had come stays")
            expect(page.locator("#progress")).to_have_text("Stopped")
            expect(page.locator("#stop")).to_be_disabled()
            self.assertEqual(page.evaluate("document.activeElement.id"), "prompt")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (now := sample(self.url, CANCELLED)) != before + 2:
            self.assertLess(time.monotonic(), deadline, f"{now} were cancelled, {before} before")
            time.sleep(0.02)

    def test_what_is_refused_is_said_and_its_field_is_shown(self) -> None:
        page = self.open()
        error = page.locator("#error")
        page.locator("#generate").click()
        expect(error).to_have_text("Write a prompt first.")
        expect(page.locator("#prompt")).to_be_focused()
        page.locator("#prompt").fill("Hi")
        for mode, name, value, words in [
            ("a chat", "temperature", "abc", "Temperature: write a number, as 0.7, in place of abc"),
            ("a chat", "temperature", "3", "temperature must be from 0 to 2, got 3"),
            ("a text to continue", "top_p", "1.5", "top_p must be from 0 to 1, got 1.5"),
            ("a text to continue", "max_tokens", "99999", "exceed the context of"),
        ]:
            page.get_by_label(mode, exact=True).check()
            field = page.locator(f"#{name}")
            usual = field.input_value()
            field.fill(value)
            page.locator("#prompt").fill("Hi")
            page.locator("#generate").click()
            expect(error).to_contain_text(words)
            self.assertEqual(page.locator("#log .said").count(), 0, "nothing was answered")
            if value != "99999":
                expect(field).to_have_attribute("aria-invalid", "true")
                expect(field).to_be_focused()
            field.fill(usual)
        self.expected_complaints = 3
        page.locator("#generate").click()
        self.done(page)
        expect(error).to_be_hidden()
        self.assertEqual(page.locator("[aria-invalid]").count(), 0)

    def test_markup_is_text_wherever_it_comes_from(self) -> None:
        page = self.open()
        markup = "<img src=x onerror=\"document.title='owned'\"><b>"
        shown = self.generate_text(page, markup, max_tokens="5")
        self.assertTrue(shown.startswith(markup))
        page.get_by_label("a chat", exact=True).check()
        page.locator("#prompt").fill(markup)
        page.locator("#generate").click()
        self.done(page)
        expect(page.locator(".said.user")).to_have_text(markup)
        page.locator("#temperature").fill("<b>")
        page.locator("#prompt").fill("x")
        page.locator("#generate").click()
        expect(page.locator("#error")).to_contain_text("<b>")
        self.assertEqual(page.locator("#log img, #log b, #error b").count(), 0)
        self.assertEqual(page.title(), "Inference Gateway: playground")

    def test_nothing_is_wider_than_a_small_telephone(self) -> None:
        page = self.open(viewport={"width": 360, "height": 740})
        self.generate_text(page, "w" * 300, max_tokens="30")
        page.locator("#temperature").fill("3" * 80)
        page.locator("#generate").click()
        expect(page.locator("#error")).to_contain_text("temperature must be from 0 to 2")
        self.expected_complaints = 1
        expect(page.locator("#temperature + .beside")).to_be_in_viewport()
        self.assertEqual(page.evaluate("document.documentElement.scrollWidth"), 360)
        cut = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 360.5"
            " && getComputedStyle(e).position !== 'absolute').map(e => e.id || e.tagName)"
        )
        self.assertEqual(cut, [])

    def test_it_is_accessible_in_light_and_dark_wide_and_narrow(self) -> None:
        for scheme, width in [("light", 1200), ("dark", 1200), ("light", 360)]:
            with self.subTest(scheme=scheme, width=width):
                page = self.open(color_scheme=scheme, viewport={"width": width, "height": 800})
                page.locator("#prompt").fill("Hello")
                page.locator("#generate").click()
                self.done(page)
                page.locator("#temperature").fill("x")
                page.locator("#prompt").fill("Hello")
                page.locator("#generate").click()
                expect(page.locator("#error")).to_be_visible()
                found = Axe().run(page).response
                told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
                self.assertEqual(told, [])
        page.evaluate("document.querySelector('label[for=prompt]').remove()")
        found = Axe().run(page).response["violations"]
        self.assertIn("label", [one["id"] for one in found], "what is wrong is seen")

    def test_a_gateway_that_went_away_is_told(self) -> None:
        with gateway() as url:
            page = self.browser.new_page()
            self.addCleanup(page.close)
            page.goto(url)
            expect(page.locator("#readiness")).to_have_text("Ready (1 of 1 models)")
        page.locator("#prompt").fill("Hello")
        page.locator("#generate").click()
        expect(page.locator("#error")).to_have_text("The gateway does not answer.")
        expect(page.locator("#readiness")).to_have_text("The gateway does not answer")


if __name__ == "__main__":
    unittest.main()
