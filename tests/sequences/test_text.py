"""Text files: what is read, and what is said of the rest."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from languages import SENTENCES

from ebrl.sequences.text import LONGEST_LINE, SentenceError, Text, lines_of, sentences


def read(data: bytes) -> list[tuple[int, str, bool]]:
    return [(n, text, error is not None) for n, text, error in lines_of(io.BytesIO(data))]


def test_lines_are_numbered_and_bad_ones_do_not_stop_the_others() -> None:
    assert read(b"\xef\xbb\xbfone\r\n\ntw\xff\nfour") == [
        (1, "one", False),
        (2, "", False),
        (3, "", True),
        (4, "four", False),
    ]


def test_a_line_of_10_megabytes_is_refused_and_the_next_one_read() -> None:
    huge = b"x" * 10_000_000
    lines = list(lines_of(io.BytesIO(huge + b"\nshort\n")))
    assert [line.text for line in lines] == ["", "short"]
    assert "10,000,001 bytes" in str(lines[0].error)


def test_a_line_as_long_as_allowed_is_read() -> None:
    line = b"x" * (LONGEST_LINE - 1) + b"\n"
    assert read(line + b"y")[1] == (2, "y", False)


@pytest.mark.parametrize("text", ["The cat.\nThe dog.\n", "Кошка.\r\nI\r\n", "I\n" * 20_000])
@pytest.mark.parametrize("coding", ["utf-16", "utf-32"])
def test_a_file_of_another_coding_is_one_error_that_names_it(
    coding: str, text: str, tmp_path: Path
) -> None:
    (line,) = lines_of(io.BytesIO(text.encode(coding)))
    cure = f"save the file as UTF-8, or convert it: iconv -f {coding.upper()}"
    assert f"expected UTF-8, got {coding.upper()}: {cure}" in str(line.error)
    (tmp_path / "text.txt").write_text(text, encoding=coding)
    with pytest.raises(SentenceError, match=f"text.txt, line 1: .* got {coding.upper()}"):
        sentences(tmp_path / "text.txt")


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_coding_without_a_mark_is_guessed_from_its_zeros(coding: str) -> None:
    for text in ("I\n\nThe dog.\n", "The cat. " * 9_000):
        (line,) = lines_of(io.BytesIO(text.encode(coding)))
        assert f"got {coding.upper().replace('-LE', 'LE').replace('-BE', 'BE')}" in str(line.error)


def test_a_stray_zero_is_the_fault_of_its_line() -> None:
    lines = list(lines_of(io.BytesIO(b"The\0 cat.\nThe dog.\n")))
    assert [line.text for line in lines] == ["The\0 cat.", "The dog."]


def test_a_table_gives_its_last_column_and_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("news\tThe  cat.\nbooks\tThe dog.\n")
    assert sentences(path) == ["The cat.", "The dog."]


def test_lines_with_control_characters_are_no_text_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The cat.\nThe\x07 dog.\nThe\x1cfish.\nThe\x0cbird.\n", newline="\n")
    assert sentences(path) == ["The cat.", "The bird."]


def test_a_damaged_compressed_file_is_no_text_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"The cat.\n" * 9)[:-12])
    with pytest.raises(SentenceError, match=r"text.gz, line \d+: .* pack it again"):
        sentences(path)


def test_a_text_of_sentences_that_are_all_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The cat sees the dog.\n" * 9)
    with pytest.raises(ValueError, match=r"at most 2 tokens, .* put one sentence on a line"):
        Text(str(path), vocabulary=300, longest=2)


def test_a_file_is_found_under_the_folder_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("The cat.\n")
    monkeypatch.setenv("EBRL_DATA", str(tmp_path))
    assert sentences("text.txt") == ["The cat."]
    with pytest.raises(FileNotFoundError, match=r"EBRL_DATA.*a sentence a line"):
        sentences("another.txt")


def test_a_file_is_rows_of_tokens_without_the_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*SENTENCES, "The " + "cat " * 50]) + "\n")
    data = Text(str(path), 300, longest=20)
    assert len(data) == len(SENTENCES)
    assert data.tokenizer.decode(data[3]) == SENTENCES[3]
    frequencies = data.log_frequencies()
    assert frequencies.shape == (data.tokenizer.vocabulary,)
    assert float(frequencies.exp().sum()) == pytest.approx(1.0)


def test_a_file_without_a_sentence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n  \n")
    with pytest.raises(ValueError, match="got none"):
        Text(str(path))
