"""Takes the README's picture of the playground: `make playground-image`."""

import sys

from playwright.sync_api import expect
from served import PATIENCE_SECONDS, browser, gateway

expect.set_options(timeout=PATIENCE_SECONDS * 1000)

with browser() as chromium, gateway() as url:
    page = chromium.new_page(viewport={"width": 1180, "height": 836}, color_scheme="light")
    page.goto(url)
    expect(page.locator("#readiness")).to_contain_text("Ready")
    page.locator("#max_tokens").fill("120")
    page.locator("#temperature").fill("0")
    page.locator("#system").fill("Answer in three short sentences.")
    page.locator("#prompt").fill("Why is the sky blue?")
    page.locator("#generate").click()
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
    page.locator("#prompt").fill("And why is it red in the evening?")
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=sys.argv[1], full_page=True)
