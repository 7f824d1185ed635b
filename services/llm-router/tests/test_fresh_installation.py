"""What kairos.toml offers before anybody has set a key: every operation answers, offline and at its price."""

from pathlib import Path
from typing import Any

import openai

from kairos_router.adapters.minilm import weights_installed
from kairos_testkit.seed import SeedPlan

FILE = Path(__file__).parents[3] / "kairos.toml"
KEY = "kairos_live_fresh"
USAGE = "llm.usage.recorded.v1"


async def test_every_operation_answers_without_any_key(service_of: Any) -> None:
    async with (
        service_of(limit=10**9, config_file=FILE) as service,
        openai.AsyncOpenAI(base_url=service.v1, api_key=KEY, max_retries=0) as client,
    ):
        service.keys.add(KEY)
        model = SeedPlan().embedding_model
        vectors = await client.embeddings.create(model=model, input=["one text", "another"])
        assert [len(each.embedding) for each in vectors.data] == [384 if weights_installed() else 64] * 2
        response = await client.responses.create(model="default", input="hello")
        assert response.output_text == "You said: hello"
        chat = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "hello"}]
        )
        assert chat.choices[0].message.content == "You said: hello"
        simulated = await client.embeddings.create(model="simulator", input="one text")
        assert len(simulated.data[0].embedding) == 64
        records = await service.events.expect(USAGE, 4)
    kinds = [record.get("operation", "chat") for record in records]
    assert sorted(kinds) == ["chat", "embeddings", "embeddings", "responses"]
    paid = [record for record in records if record["deployment"] == "simulator"]
    assert all(record["cost_nano_usd"] > 0 for record in paid)


async def test_the_local_model_goes_on_when_no_money_is_left(service_of: Any) -> None:
    async with (
        service_of(limit=1, config_file=FILE) as service,
        openai.AsyncOpenAI(base_url=service.v1, api_key=KEY, max_retries=0) as client,
    ):
        service.keys.add(KEY)
        assert weights_installed(), "run: make embedding"
        vectors = await client.embeddings.create(model="local-embedding", input="free of charge")
        assert len(vectors.data[0].embedding) == 384
        try:
            await client.embeddings.create(model="simulator", input="at a price " * 20)
        except openai.APIStatusError as error:
            refused = error
        assert (refused.status_code, refused.code) == (402, "budget_exceeded")
