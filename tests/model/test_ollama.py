"""Names of models, as ``ollama pull`` takes them (ollama, types/model/name.go)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.ollama import MODELS_MAX, Ollama, OllamaModel, model_fault


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("tinyllama", (None, "library", "tinyllama", "latest"), "tinyllama:latest"),
        ("gpt-oss:20b", (None, "library", "gpt-oss", "20b"), "gpt-oss:20b"),
        ("library/a:b", (None, "library", "a", "b"), "a:b"),
        ("acme/own", (None, "acme", "own", "latest"), "acme/own:latest"),
        ("hf.co/bartowski/X-GGUF:Q4_K_M", ("hf.co", "bartowski", "X-GGUF", "Q4_K_M"), "hf.co/bartowski/X-GGUF:Q4_K_M"),
        ("HOST:5000/library/a", ("host:5000", "library", "a", "latest"), "host:5000/library/a:latest"),
        ("registry.ollama.ai/library/a", (None, "library", "a", "latest"), "a:latest"),
        ("registry.ollama.ai:443/acme/a:1", (None, "acme", "a", "1"), "acme/a:1"),
        ("_a/_b:_c", (None, "_a", "_b", "_c"), "_a/_b:_c"),
        ("qwen3.6:35b-a3b", (None, "library", "qwen3.6", "35b-a3b"), "qwen3.6:35b-a3b"),
    ],
)
def test_names(text: str, parts: tuple[str | None, ...], shown: str) -> None:
    model = OllamaModel.parse(text)
    assert (model.host, model.namespace, model.name, model.tag) == parts
    assert str(model) == shown
    assert OllamaModel.parse(shown) == model
    assert model.repository == f"{model.namespace}/{model.name}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "a b", "a:", ":a", "a:b:c", "/a", "a/", "a//b", "a/b/c/d", "-a", "a/-b", "a.b/c", "a,b", "ollama://a"),
        *("user:secret@host/a/b", "a@sha256:" + "0" * 64, "a\n", "\ud800", "a" * 81, "a:" + "b" * 81, "x" * 5000),
        *("../a", "a/../b", "a/..", "host:99999999/a/b"),
    ],
)
def test_texts_that_are_no_names(text: str) -> None:
    fault = model_fault(text)
    assert fault is not None
    assert "secret" not in fault
    with pytest.raises(ValueError, match=r"."):
        OllamaModel.parse(text)


@given(st.text(max_size=20))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    for name in (text, f"acme/{text}", f"host/acme/{text}", f"a:{text}"):
        if model_fault(name) is None:
            model = OllamaModel.parse(name)
            assert OllamaModel.parse(str(model)) == model


def test_a_store_is_its_set_of_models() -> None:
    one = Ollama.of("b", "a:1", "library/b:latest")
    assert one == Ollama.of("a:1", "b")
    assert one.uri() == "ollama://a:1,b:latest"
    assert one.key("https://r:443") == Ollama.of("b", "a:1").key("https://r:443")
    assert one.key("https://r:443") != one.key("https://other:443")
    assert one.key("https://r:443") != Ollama.of("a:1").key("https://r:443")
    assert Ollama.of("host/library/a").key("https://r:443") != Ollama.of("a").key("https://r:443")
    assert not one.immutable


@pytest.mark.parametrize("count", [0, MODELS_MAX + 1])
def test_bounds_of_a_store(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MODELS_MAX} models"):
        Ollama.of(*(f"m{number}" for number in range(count)))
