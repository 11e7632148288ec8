"""`ebrl score`, `rank` and `repair` from end to end: what is said, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
from languages import SENTENCES, animals
from torch import Tensor

from ebrl import sequences
from ebrl.command import main
from ebrl.command.sentences import coloured
from ebrl.sequences.judging import Score, TokenEnergy, fluency
from ebrl.sequences.language import Language, load, save

SOUND, BROKEN = "The dog hears the fish.", "The dog hears fish the."


@pytest.fixture(autouse=True)
def small_language(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("editing", "generation", "judging"):
        import_module(f"ebrl.sequences.{name}")  # first imported later, they would keep `animals`
    monkeypatch.setattr(import_module("ebrl.sequences.language"), "english", animals)
    monkeypatch.chdir(tmp_path)


def totals(said: str) -> list[float]:
    return [float(line.split()[0]) for line in said.splitlines() if line.startswith(" ")]


def test_a_file_is_scored_and_its_bad_lines_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [SOUND.encode(), b"", "Кошка.".encode(), b"a\xffb", b"x" * 30_000, BROKEN.encode()]
    Path("text.txt").write_bytes(b"\n".join(lines))
    assert main(["score", "text.txt"]) == 1
    said, complaints = capsys.readouterr()
    sound, broken = totals(said)
    assert sound < broken - 5
    assert "2 sentences scored" in said
    assert "3 not" in said
    assert [line.split(":")[1] for line in complaints.splitlines()] == [
        " text.txt, line 3",
        " text.txt, line 4",
        " text.txt, line 5",
    ]
    assert "save the file as UTF-8" in complaints


@pytest.mark.parametrize("verb", ["score", "rank", "repair"])
def test_a_reader_that_leaves_is_told_from_a_failure(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([verb, SOUND]) == 141


def test_the_acceptability_is_that_of_each_sentence_alone_in_one_pass_for_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(language: Language, rows: Sequence[Tensor]) -> Tensor:
        passes.append(len(rows))
        return fluency(language, rows)

    monkeypatch.setattr("ebrl.sequences.judging.fluency", counted)
    Path("text.txt").write_text("\n".join(SENTENCES[:20]))
    assert main(["score", "text.txt"]) == 0
    assert passes == [20]
    shown = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:20]]
    alone = [sequences.acceptability(text, language=animals()) for text in SENTENCES[:20]]
    assert shown == pytest.approx(alone, abs=1.1)
    assert len(set(shown)) > 5


def test_the_standard_input_is_scored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{SOUND}\n{SOUND}".encode())))
    assert main(["score", "-"]) == 0
    assert capsys.readouterr().out.count(SOUND) == 2


def test_a_sentence_is_scored_token_by_token_and_as_a_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["score", BROKEN, "--tokens", "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-2].endswith("(end)")  # the page is named after it
    tokens = len(animals().tokenizer.encode(BROKEN))
    assert Path("page.html").read_text().count("<span title=") == tokens + 1


def test_likely_tokens_keep_the_colours_of_the_terminal() -> None:
    parts = (TokenEnergy("The", 0.1), TokenEnergy(" cat", 11.0), TokenEnergy("", 0.1))
    styles = {span.start: span.style for span in coloured(Score("The cat", 11.2, parts)).spans}
    assert 0 not in styles
    assert str(styles[3]).startswith("rgb(0,0,0) on rgb(217")


def test_bytes_of_a_character_are_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "The dog hears the \U0001f355 fish.", "--tokens"]) == 0
    said = capsys.readouterr().out
    assert said.count("(end)") == 1
    assert said.count("…") == 3  # three more bytes


def test_sentences_that_begin_with_a_dash_keep_their_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dashes = ["- ", "-- ", "--", "-h ", "-hello "]
    assert main(["score", *(dash + SOUND for dash in dashes), SOUND, "--energy=causal"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[15:] for line in said[:6]] == [*(dash + SOUND for dash in dashes), SOUND]


def test_a_text_without_a_sentence_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("\n\n")
    assert main(["score", "text.txt"]) == 1
    assert "got no text" in capsys.readouterr().err


def test_candidates_are_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", BROKEN, SOUND]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert SOUND in first
    assert BROKEN in second


def test_a_sentence_is_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", "The dog hears hears the fish.", "--cost", "1"]) == 0
    text, change = capsys.readouterr().out.splitlines()
    assert text in SENTENCES
    assert "edited" in change
    assert main(["repair", SOUND, "--cost", "5"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_a_file_and_the_standard_input_are_repaired_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text.txt").write_text(f"The dog hears hears the fish.\n\nКошка.\n{SOUND}\n", "utf-8")
    assert main(["repair", "text.txt", "--cost", "1"]) == 1
    said, complaints = capsys.readouterr()
    lines = said.splitlines()
    assert lines[0] in SENTENCES
    assert "edited" in lines[1]
    assert lines[-1] == "Done: 2 sentences searched, 1 not."
    assert "text.txt, line 3: expected the letters" in complaints
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SOUND.encode())))
    assert main(["repair", "-", "--cost", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == [SOUND, "  nothing to repair"]


def test_several_sentences_are_scored_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", BROKEN, SOUND]) == 0
    said = capsys.readouterr().out
    assert said.index(BROKEN) < said.index(SOUND)
    assert "2 sentences scored" in said


def test_another_language_comes_from_its_file_or_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    save(animals(), "run/language.safetensors")
    for model in ("run", "run/language.safetensors"):
        assert main(["score", SOUND, "--model", model]) == 0
    assert main(["score", SOUND, "--energy", "masked"]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_file_is_scored_up_to_the_damage(capsys: pytest.CaptureFixture[str]) -> None:
    noise = random.Random(0).randbytes(40_000)
    whole = gzip.compress(f"{SOUND}\n{BROKEN}\n".encode() + noise)
    Path("text.gz").write_bytes(whole[: len(whole) // 2])
    assert main(["score", "text.gz"]) == 1
    said, complaints = capsys.readouterr()
    assert len(totals(said)) == 2
    assert "2 sentences scored" in said
    assert "got a damaged or other one (Compressed file ended" in complaints


def test_a_pipe_is_read_as_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{SOUND}\n".encode())
    os.close(writing)
    assert main(["score", f"/dev/fd/{reading}"]) == 0
    os.close(reading)
    assert SOUND in capsys.readouterr().out


def test_candidates_that_cannot_be_judged_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(f"{SOUND}\nКошка.\n{BROKEN}\n", encoding="utf-8")
    assert main(["rank", "text.txt"]) == 1
    said, complaints = capsys.readouterr()
    assert "Done: 2 sentences ranked, 1 not." in said
    assert "text.txt, line 2: expected the letters" in complaints


def test_a_page_is_written_over_a_file_only_if_asked_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("text.txt").write_text(SOUND)
    assert main(["score", "text.txt", "--html", "text.txt"]) == 2
    assert "is there already: --overwrite, or another --html" in capsys.readouterr().err
    assert Path("text.txt").read_text() == SOUND
    assert main(["score", SOUND, "--html", "text.txt", "--overwrite"]) == 0
    assert Path("text.txt").read_text().startswith("<!doctype html>")


def test_a_closed_standard_input_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["score", "-"]) == 2
    assert "standard input is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["score", ""], 2, "got an empty text"),
        (["score", "The dog hears. " * 40], 1, "expected at most 30 tokens"),
        (["score", SOUND, "--html", "nowhere/page.html"], 2, "there is no folder nowhere"),
        (["score", "noise.gz"], 1, "Not a gzipped file"),
        (["score", "nothing.txt"], 2, "no such file"),
        (["score", "."], 2, "folder"),
        (["score", SOUND, "--model", "nowhere"], 2, "no language"),
        (["score", SOUND, "--model", "foreign.bin"], 1, "foreign.bin"),
        (["score", SOUND, "--energy", "casual"], 2, "Did you mean `causal`"),
        (["repair", ""], 2, "got an empty text"),
        (["repair", "nothing.txt"], 2, "no such file"),
        (["repair", "blank.txt"], 1, "expected a sentence a line, got no text"),
        (["repair", "Кошка сидит."], 1, "expected the letters"),
        (["repair", SOUND, "--steps", "2"], 2, "steps"),
        (["repair", SOUND, "--cost", "inf"], 2, "--cost: expected a finite number >= 0, got inf"),
        (["rank", ""], 2, "got an empty text"),
        (["score", "Кошка сидит."], 1, "expected the letters"),
        (["rank", "Кошка сидит."], 1, "expected the letters"),
        (["score", "blank.txt"], 1, "expected a sentence a line, got no text"),
        (["rank", "blank.txt"], 1, "expected a sentence a line, got no text"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("foreign.bin").write_bytes(b"\x80\x04 a pickle, perhaps")
    Path("noise.gz").write_bytes(b"no gzip")
    Path("blank.txt").write_text("\n\n")
    assert main(arguments) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["score", "rank", "repair"])
def test_the_options_are_read_without_torch(verb: str) -> None:
    program = f"import sys, ebrl.command.{verb}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr


def test_a_run_on_text_leaves_a_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small_fit("\n".join(SENTENCES))) == 0
    assert "run/language.safetensors" in capsys.readouterr().out
    assert main(["score", SOUND, "--model", "run"]) == 0


def small_fit(text: str, **changes: object) -> list[str]:
    """Return the command that fits a small language to a text."""
    Path("text.txt").write_text(text)
    values = {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "hidden": 16, "context": 40}
    options = {f"energy.transformer.{name}": value for name, value in values.items()}
    options |= {"data.path": "text.txt", "data.vocabulary": 300, "steps": 4, "run": "run"}
    options |= {name.replace("__", "."): value for name, value in changes.items()}
    pairs = [(f"--{name}", str(value)) for name, value in options.items()]
    return ["fit", "sequences/text", *(part for pair in pairs for part in pair)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"energy__transformer__vocabulary": 290},
            "expected a transformer of at least 300 tokens, got 290: "
            "--energy.transformer.vocabulary 300",
        ),
        (
            {"energy__transformer__context": 24},
            "expected sentences of at most 22 tokens, got one of 30: --data.longest 22, or "
            "--energy.transformer.context 32",
        ),
    ],
)
def test_a_text_that_the_transformer_cannot_read_is_refused_before_the_training(
    changes: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join([*SENTENCES * 3, "The cat sees the " + "dog " * 26])
    assert main(small_fit(text, **changes)) == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_run_is_not_lengthened_on_another_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small_fit("\n".join(SENTENCES))) == 0
    before = Path("run/config.yaml").read_text()
    Path("text.txt").write_text("\n".join(SENTENCES[::-1]))
    assert main(["resume", "run", "--steps", "6"]) == 1
    said = capsys.readouterr().err
    assert "expected the data of the training so far" in said
    assert "Go on" not in said
    assert Path("run/config.yaml").read_text() == before
    Path("text.txt").write_text("\n".join(SENTENCES))
    assert main(["resume", "run", "--steps", "6"]) == 0
    assert "steps: 6" in Path("run/config.yaml").read_text()


def test_a_text_too_small_for_its_vocabulary_leaves_a_language_that_repairs() -> None:
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog.")
    small = "--energy.init_args.transformer.init_args"
    options = ["--data.init_args.path", "text.txt", "--batch_size", "1", "--steps", "2"]
    for name, value in {"width": 16, "layers": 1, "heads": 2, "hidden": 16}.items():
        options += [f"{small}.{name}", str(value)]
    options += ["--objective.init_args.causal", "1", "--run", "run"]
    assert main(["fit", "sequences/text", *options]) == 0
    assert main(["repair", "The quick fox jumps over the dog.", "--model", "run"]) == 0
    assert main(["score", "text.txt", "--model", "run"]) == 0  # its own letters are known
    assert sequences.sample(2, language=load("run/language.safetensors"), steps=4)


def test_the_english_that_ships_is_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("\n".join(4 * SENTENCES))
    options = ["--data.init_args.path", "text.txt", "--batch_size", str(4 * len(SENTENCES))]
    options += ["--learning_rate", "1e-3", "--schedule", "ebrl.schedules.constant"]
    assert main(["fit", "sequences/english_further", *options, "--steps", "5", "--run", "run"]) == 0
    ours = sequences.load("run/language.safetensors")
    before, after = (
        sum(score.total for score in sequences.score(SENTENCES, language=language))
        for language in (sequences.english(), ours)
    )
    assert after < before
    assert ours.tokenizer.to_json() == sequences.tokenizer().to_json()
    assert not sequences.english().causal.training
