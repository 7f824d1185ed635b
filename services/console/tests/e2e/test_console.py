"""The console in a real browser, on the whole suite behind its front door."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, WebSocketRoute, expect, sync_playwright

from kairos_testkit.console_build import build_console
from kairos_testkit.front_door import publish_console
from kairos_testkit.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.stack]

CONSOLE = Path(__file__).parents[2]
ROOT = CONSOLE.parents[1]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PAGES = {"/": "Overview", "/bots": "Bots", "/spend": "Spend", "/events": "Live events"}
DEADLINE_MS = 20_000


@dataclass(frozen=True)
class Console:
    stack: Stack
    browser: Browser
    signed_in: Any

    def context(self, *, signed_in: bool = True, **options: Any) -> BrowserContext:
        context = self.browser.new_context(
            base_url=self.stack.front_door,
            storage_state=self.signed_in if signed_in else None,
            locale="en-GB",
            viewport={"width": 1360, "height": 860},
            **options,
        )
        context.set_default_timeout(DEADLINE_MS)
        return context


def sign_in(page: Page, email: str, password: str) -> None:
    page.get_by_label("E-mail").fill(email)
    page.get_by_role("textbox", name="Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail("the console's tests need a browser; run: apt-get install -y chromium")
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def console(stack: Stack, browser: Browser) -> Console:
    build_console(ROOT)
    publish_console(ROOT, stack.suite.state / "nginx" / "console")
    context = browser.new_context(base_url=stack.front_door, locale="en-GB")
    page = context.new_page()
    page.goto("/")
    sign_in(page, stack.seeded.admin_email, stack.seeded.admin_password)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    state = context.storage_state()
    context.close()
    return Console(stack, browser, state)


@pytest.fixture
def page(console: Console) -> Iterator[Page]:
    context = console.context()
    yield context.new_page()
    context.close()


def open_page(page: Page, path: str, heading: str) -> None:
    page.goto(path)
    expect(page.get_by_role("heading", name=heading, level=1, exact=True)).to_be_visible()


def transport(page: Page, text: str) -> None:
    expect(page.locator("[data-transport]").first).to_contain_text(re.compile(text))


def test_a_wrong_password_is_told_and_a_right_one_opens_the_console(console: Console) -> None:
    context = console.context(signed_in=False)
    page = context.new_page()
    page.goto("/spend")
    sign_in(page, console.stack.seeded.admin_email, "certainly not this one")
    expect(page.get_by_role("alert")).to_have_text("E-mail or password is wrong.")
    page.get_by_role("textbox", name="Password").fill(console.stack.seeded.admin_password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Spend", level=1)).to_be_visible()
    expect(page.get_by_text("You are using a one-time password.")).to_be_visible()
    transport(page, r"Live \d+\.\d s")
    context.close()


def test_a_new_bot_answers_in_the_web_chat_and_everything_shows_it_live(page: Page) -> None:
    open_page(page, "/bots", "Bots")
    page.get_by_role("button", name="Create bot").click()
    form = page.get_by_role("dialog", name="Create a bot")
    form.get_by_role("textbox", name="Name").fill("Opening hours")
    form.get_by_role("button", name="Create bot").click()
    expect(page.get_by_role("heading", name="Opening hours", level=1)).to_be_visible()
    expect(page.get_by_text("No conversations yet")).to_be_visible()
    expect(page.locator("main").get_by_text("Running")).to_be_visible()

    page.get_by_role("button", name="Start a conversation").click()
    page.get_by_label("Message", exact=True).fill("When are you open?")
    page.keyboard.press("Enter")
    chat, messages = page.get_by_role("log", name="Web chat"), page.get_by_role("log", name="Messages")
    expect(chat.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("button", name="Show this conversation").click()
    expect(messages.get_by_role("listitem")).to_have_count(2)
    expect(messages).to_contain_text("Sent")

    page.get_by_label("Message", exact=True).fill("And on Sunday?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(messages.get_by_role("listitem")).to_have_count(4)
    answer = chat.get_by_role("listitem").nth(3).inner_text().splitlines()[0]
    expect(messages.get_by_role("listitem").nth(3)).to_contain_text(answer)

    page.get_by_role("link", name="Live events").click()
    expect(page.get_by_test_id("events")).to_contain_text("A turn was answered")
    page.get_by_role("link", name="Spend").click()
    expect(page.get_by_role("region", name="By bot")).to_contain_text("Opening hours")
    expect(page.get_by_role("article").first).to_contain_text("Held")


def test_an_event_appears_without_a_reload_and_can_be_opened_and_filtered(
    console: Console, page: Page
) -> None:
    open_page(page, "/events", "Live events")
    transport(page, "Live")
    page.get_by_label("Type").first.click()
    page.get_by_role("option", name="Budgets").click()
    expect(page).to_have_url(re.compile(r"type=budget"))
    rows = page.get_by_test_id("events").get_by_role("row")
    budgets = console.stack.client("budget-analytics")
    budget = {"name": "Browser test", "scope": "organisation", "period": "total", "limit_usd": "40"}
    # Other tests of a session may have pushed what seeding did out of the feed's memory.
    budgets.post("/budgets", budget)
    expect(rows.first).to_contain_text("budget.definition.changed.v1")
    known = rows.count()
    budgets.post("/budgets", budget)
    # At least one more: what seeding did may still be on its way, too.
    expect(rows.nth(known)).to_be_visible()
    expect(rows.first).to_contain_text("A budget changed (Organisation)")
    page.get_by_test_id("events").get_by_role("button").first.click()
    details = page.get_by_role("dialog", name="budget.definition.changed.v1")
    expect(details).to_contain_text("40000000000")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PAGES, "/bots?create=true", "bot", "sign-in", "/no/such/page"])
def test_no_page_has_an_accessibility_violation(console: Console, path: str, scheme: str) -> None:
    context = console.context(signed_in=path != "sign-in", color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto({"bot": f"/bots/{console.stack.seeded.bot_id}", "sign-in": "/"}.get(path, path))
    expect(page.locator("h1, h3").first).to_be_visible()
    if path != "sign-in":
        transport(page, "Live")
    expect(page.locator("[data-state=loading]")).to_have_count(0)
    page.evaluate((CONSOLE / "node_modules/axe-core/axe.min.js").read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run({runOnly: {type: 'tag', values: tags}})", tags)
    violations = [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]])
        for violation in found["violations"]
    ]
    assert violations == [], json.dumps(violations, indent=1)
    context.close()


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    open_page(page, "/", "Overview")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.get_by_role("link", name="Bots", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Bots", level=1)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Create bot")).to_be_focused()
    page.keyboard.press("Enter")
    form = page.get_by_role("dialog", name="Create a bot")
    expect(form.get_by_role("textbox", name="Name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(form.get_by_text("Required", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(form).to_be_hidden()
    page.get_by_test_id("health-strip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("All services up")).to_be_visible()


def test_the_console_speaks_turkish_and_remembers_it(page: Page) -> None:
    open_page(page, "/", "Overview")
    page.get_by_role("button", name="Language").click()
    page.get_by_role("menuitem", name="Türkçe").click()
    expect(page.get_by_role("heading", name="Genel bakış", level=1)).to_be_visible()  # noqa: RUF001 - Turkish
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "tr")
    transport(page, "Canlı")  # noqa: RUF001 - Turkish
    page.get_by_role("link", name="Harcama").first.click()
    expect(page.get_by_role("heading", name="Harcama", level=1)).to_be_visible()


def test_dark_mode_is_chosen_and_kept(page: Page) -> None:
    open_page(page, "/", "Overview")
    page.get_by_role("button", name="Colour scheme").click()
    page.get_by_role("menuitem", name="Dark").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")


def refuse(status: int) -> Any:
    def fulfil(route: Route) -> None:
        problem = {"code": "test", "title": "Refused by the test", "status": status}
        route.fulfill(status=status, content_type="application/problem+json", body=json.dumps(problem))

    return fulfil


def no_socket(route: WebSocketRoute) -> None:
    route.close(code=1013)


def test_without_a_socket_the_console_polls_and_without_answers_it_says_so(page: Page) -> None:
    blocked = {"sockets": True}
    page.route_web_socket(
        re.compile(r"/ws\?"), lambda ws: no_socket(ws) if blocked["sockets"] else ws.connect_to_server()
    )
    open_page(page, "/events", "Live events")
    transport(page, r"Polling \d")
    expect(page.get_by_test_id("events").get_by_role("row").first).to_be_visible()
    page.route("**/api/observability/**", lambda route: route.abort())
    transport(page, "Disconnected")
    expect(page.locator("[data-state=stale]")).to_be_visible()
    page.unroute("**/api/observability/**")
    blocked["sockets"] = False
    transport(page, "Live")
    expect(page.locator("[data-state=stale]")).to_have_count(0)


@pytest.mark.parametrize(("status", "state"), [(403, "denied"), (503, "disconnected"), (500, "failed")])
def test_a_view_that_can_not_load_says_why(page: Page, status: int, state: str) -> None:
    page.route("**/api/budget-analytics/budgets*", refuse(status))
    page.goto("/spend")
    expect(page.get_by_role("region", name="Budgets").locator(f"[data-state={state}]")).to_be_visible()


def test_a_view_that_can_not_refresh_keeps_what_it_had(console: Console, page: Page) -> None:
    page.clock.install()
    open_page(page, "/bots", "Bots")
    expect(page.locator("tbody tr").first).to_be_visible()
    page.route("**/api/bot-worker/bots*", refuse(503))
    for _ in range(6):
        page.clock.run_for(10_000)
    expect(page.locator("[data-state=stale]")).to_be_visible()
    expect(page.locator("tbody tr").first).to_be_visible()


def test_a_viewer_reads_but_can_not_create(console: Console) -> None:
    members = console.stack.client("auth-audit")
    added = members.post("/members", {"email": "viewer@kairos.example", "role": "viewer"})
    context = console.context(signed_in=False)
    page = context.new_page()
    page.goto("/bots")
    sign_in(page, added["email"], added["password"])
    expect(page.get_by_role("heading", name="Bots", level=1)).to_be_visible()
    expect(page.get_by_role("button", name="Create bot")).to_be_disabled()
    expect(page.get_by_text("Your role can look at bots but not create them.")).to_be_visible()
    transport(page, "Live")
    members.call("DELETE", f"/members/{added['id']}")
    # Nobody reloads: the socket is closed, its ticket is refused, and the session is found to be over.
    expect(page.get_by_text("Your session ended. Sign in again.")).to_be_visible()
    context.close()


def test_signing_out_forgets_everything(console: Console) -> None:
    context = console.context(signed_in=False)
    page = context.new_page()
    page.goto("/")
    sign_in(page, console.stack.seeded.admin_email, console.stack.seeded.admin_password)
    page.get_by_role("button", name="Account").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_text("Your session ended.")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    context.close()
