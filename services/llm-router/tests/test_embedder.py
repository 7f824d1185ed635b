"""The local embedding model: the vectors its authors publish, the relations people expect, and its bounds."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kairos_router.adapters.minilm import LONGEST, MiniLM
from kairos_router.adapters.wordpiece import WordPiece, words
from kairos_router.application.embed_text import EmbedderAbsent

# What sentence-transformers gives for these two, as the model's card and its own tests show them.
PUBLISHED = {
    "This is an example sentence": [0.0676569, 0.0634959, 0.0487131, 0.0793049, 0.0374480],
    "Each sentence is converted": [0.0864386, 0.1027626, 0.0053946, 0.0020444, -0.0099633],
}


@pytest.fixture(scope="module")
def model() -> Iterator[MiniLM]:
    loaded = MiniLM()
    yield loaded
    loaded.close()


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_the_vectors_are_those_the_models_authors_publish(model: MiniLM) -> None:
    for text, vector in zip(PUBLISHED, model.embed_now(list(PUBLISHED)), strict=True):
        assert len(vector) == model.dimensions
        assert vector[:5] == pytest.approx(PUBLISHED[text], abs=1e-5)


def test_sentences_of_one_meaning_are_near_and_others_far(model: MiniLM) -> None:
    question, same, near, far = model.embed_now(
        [
            "How do I reset my password?",
            "How can I reset my password?",
            "How do I delete my account?",
            "What is the weather in Paris?",
        ]
    )

    assert cosine(question, same) > 0.97
    assert 0.3 < cosine(question, near) < 0.8
    assert cosine(question, far) < 0.2


def test_a_text_has_the_same_vector_alone_and_in_a_batch_of_others(model: MiniLM) -> None:
    texts = ["short", "a somewhat longer text about trains and stations", "three words here", ""] * 9

    together = model.embed_now(texts)

    for text, vector in zip(texts[:4], together[:4], strict=True):
        assert model.embed_now([text])[0] == pytest.approx(vector, abs=1e-5)
        assert cosine(vector, vector) == pytest.approx(1.0, abs=1e-5)


async def test_a_text_of_any_length_is_cut_to_what_the_model_reads(model: MiniLM) -> None:
    start = "word " * 300

    assert (await model.count([start, "one two"])) == [LONGEST, 4]
    [cut, longer] = await model.embed([start, start + "something else entirely"])
    assert cut == pytest.approx(longer, abs=1e-6)


async def test_the_event_loop_goes_on_while_texts_are_embedded(model: MiniLM) -> None:
    beats = 0
    embedding = asyncio.ensure_future(model.embed(["a text that takes a while " * 5] * 4))

    while not embedding.done():
        await asyncio.sleep(0)
        beats += 1

    assert beats > 20
    assert any(thread.name.startswith("embedder") for thread in threading.enumerate())


def test_words_are_parted_as_the_model_was_trained() -> None:
    assert words("Ünïcode, it's\tCOSTS $5!") == ["unicode", ",", "it", "'", "s", "costs", "$", "5", "!"]
    assert words("日本 ok\x00\u200b") == ["日", "本", "ok"]


def test_the_longest_known_piece_is_taken_and_what_has_none_is_unknown() -> None:
    pieces = ["[UNK]", "[CLS]", "[SEP]", "un", "##want", "##ed", "##wanted"]
    tokens = WordPiece({piece: number for number, piece in enumerate(pieces)})

    assert tokens.encode("unwanted", 10) == [1, 3, 6, 2]
    assert tokens.encode("unwantx", 10) == [1, 0, 2]
    assert tokens.encode("x" * 200, 10) == [1, 0, 2]
    assert tokens.encode("un un un un", 4) == [1, 3, 3, 2]


async def test_absent_weights_are_said_with_what_installs_them() -> None:
    with pytest.raises(EmbedderAbsent, match="make embedding"):
        await MiniLM(package="no_such_weights").embed(["text"])


def test_the_service_starts_without_loading_the_model_or_its_libraries() -> None:
    program = "import sys, kairos_router.bootstrap; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
