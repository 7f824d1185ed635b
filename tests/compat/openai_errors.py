"""Errors as the openai client raises them."""

import time
from typing import Any

import openai
from asking import CHEAP, EMBEDDING, raises, says, sync


def check_a_wrong_key_is_an_authentication_error(router: Any) -> None:
    client = sync(router, api_key="kairos_live_wrong")
    error = raises(
        openai.AuthenticationError,
        lambda: client.chat.completions.create(model=CHEAP, messages=says("x")),
    )
    assert error.code == "invalid_api_key"


def check_an_unknown_model_is_not_found(router: Any) -> None:
    for call in (
        lambda: sync(router).chat.completions.create(model="nope", messages=says("x")),
        lambda: sync(router).responses.create(model="nope", input="x"),
        lambda: sync(router).embeddings.create(model="nope", input="x"),
    ):
        assert raises(openai.NotFoundError, call).code == "model_not_found"


def check_a_bad_request_names_the_parameter(router: Any) -> None:
    client = sync(router)
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(model=CHEAP, messages=[]))
    assert (error.param, error.type) == ("messages", "invalid_request_error")


def check_a_used_up_budget_is_402_and_not_retried(router: Any) -> None:
    client = sync(router, api_key=router.poor_key, max_retries=2)
    started = time.monotonic()
    for call in (
        lambda: client.chat.completions.create(model=CHEAP, messages=says("poor")),
        lambda: client.chat.completions.create(model=CHEAP, messages=says("poor"), stream=True),
        lambda: client.responses.create(model=CHEAP, input="poor"),
        lambda: client.embeddings.create(model=EMBEDDING, input="poor " * 50),
    ):
        error = raises(openai.APIStatusError, call)
        assert (error.status_code, error.code) == (402, "budget_exceeded")
        assert error.response.headers["x-kairos-decision-id"]
    assert time.monotonic() - started < 20


def check_a_limit_of_the_provider_is_a_rate_limit_error(router: Any) -> None:
    router.script(status=429, retry_after=3, match="limited once")
    error = raises(
        openai.RateLimitError,
        lambda: sync(router).chat.completions.create(model="fake-limited", messages=says("limited once")),
    )
    assert error.response.headers["retry-after"] == "3"


def check_a_retry_waits_as_long_as_it_was_told(router: Any) -> None:
    router.script(status=429, retry_after=2, match="limited and retried")
    started = time.monotonic()
    answer = sync(router, max_retries=1).chat.completions.create(
        model="fake-retried", messages=says("limited and retried")
    )
    assert answer.choices[0].message.content == "echo: limited and retried"
    assert time.monotonic() - started >= 2


def check_a_broken_provider_is_an_internal_server_error(router: Any) -> None:
    router.script(status=500, match="broken once")
    raises(
        openai.InternalServerError,
        lambda: sync(router).chat.completions.create(model="fake-broken", messages=says("broken once")),
    )


def check_a_stream_that_breaks_off_raises(router: Any) -> None:
    for model in ("fake-cut", "fake-cut-native"):
        text = f"cut in the middle of {model} {'word ' * 40}"
        router.script(cut_after_bytes=4_000, match=f"cut in the middle of {model}")
        client = sync(router)
        raises(
            openai.APIError,
            lambda client=client, model=model, text=text: list(
                client.responses.create(model=model, input=text, stream=True)
            ),
        )
    router.script(cut_after_bytes=2_000, match="cut as chat")
    raises(
        openai.APIError,
        lambda: list(
            sync(router).chat.completions.create(
                model="fake-cut", messages=says("cut as chat " * 20), stream=True
            )
        ),
    )
