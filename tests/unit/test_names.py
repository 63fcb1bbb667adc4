"""What tenants, names, references and request ids may look like: one rule for each, everywhere."""

from __future__ import annotations

import pytest

from kaasq import names
from kaasq.errors import BadRequest


@pytest.mark.parametrize("word", ["default", "gpu-0", "a_1", "x" * 64])
def test_words_that_may_be_part_of_a_key(word: str) -> None:
    assert names.check_word(word, "pool") == word


@pytest.mark.parametrize("word", ["", "Pool", "a.b", "a*", "#", "x" * 65, "ä", "a b", "a\n"])
def test_words_that_may_not(word: str) -> None:
    with pytest.raises(BadRequest, match="pool"):
        names.check_word(word, "pool")


@pytest.mark.parametrize("name", ["x", "model/w 1", "ä" * 200, "#*."])
def test_names_are_printable_characters(name: str) -> None:
    assert names.check_name(name) == name.encode()


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0", "a\n", "\x7f", "\ud800", "€" * 134])
def test_what_is_no_name_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(BadRequest, match="here: ") as caught:
        names.check_name(name, "here")
    assert caught.value.at == "here"


@pytest.mark.parametrize("value", [5, None, b"x", ["x"]])
def test_what_is_no_text_is_refused_like_a_wrong_one(value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(BadRequest, match=rf"{kind}\) is no pool: use lower-case"):
        names.check_word(value, "pool")
    with pytest.raises(BadRequest, match=rf"{kind}\) is no name: 1 to 200"):
        names.check_name(value)
    with pytest.raises(BadRequest, match=f"expected a request's id, given a {kind}"):
        names.check_request_id(value)


def test_a_reference_is_a_hash_in_lower_case() -> None:
    assert names.is_ref("0f" * 32)
    assert not any(names.is_ref(text) for text in ["", "0f" * 31, "0F" * 32, "0g" * 32, "0f" * 32 + "\n"])


def test_a_request_id_has_a_length_in_bytes() -> None:
    assert names.check_request_id("ä" * 64) == "ä".encode() * 64
    for wrong in ("", "x" * 129, "ä" * 65):
        with pytest.raises(BadRequest, match="1 to 128 bytes"):
            names.check_request_id(wrong)


@pytest.mark.parametrize("name", ["saxpy", "A.b-c._", "0"])
def test_graph_names_are_words_between_dots(name: str) -> None:
    assert names.is_graph_name(name)


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "ä", "a#", "a\n"])
def test_what_is_no_graph_name(name: str) -> None:
    assert not names.is_graph_name(name)
