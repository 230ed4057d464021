"""The token tree on a terminal of a given width."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from luthier.console import print_tree
from luthier.runner.show import ShownSegment, ShownTree

END = ("<|im_end|>", True, True)
RED = ShownSegment((("apple\n", False, False), ("red", True, False), END), 5, ("data/a.csv:2",))
GREEN = ShownSegment((("leaf\n", False, False), ("green", True, False), END), 5, ("data/a.csv:7",))
BLUE = ShownSegment((("sky\n", False, False), ("blue", True, False), END), 4, ("data/a.csv:3",))
WHAT = ShownSegment((("the ", False, False),), 1, ("data/a.csv:2", "data/a.csv:7"), (RED, GREEN))
TOP = ShownSegment(
    (("<|im_start|>", False, True), ("user\nWhat colour has ", False, False)),
    1200,
    ("data/a.csv:2", "data/a.csv:7", "data/a.csv:3"),
    (WHAT, BLUE),
)
SHOWN = ShownTree("lora", True, ((TOP,),), 3, 3616, 1212)


def drawn(shown: ShownTree, width: int = 100, **terminal: bool) -> list[str]:
    file = io.StringIO()
    print_tree(Console(file=file, width=width, **terminal), shown)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def drawn_alone(segment: ShownSegment, width: int) -> str:
    """The line of a tree of this segment alone."""
    (line,) = (line for line in drawn(ShownTree("lora", True, ((segment,),), 1, 300, 299), width) if "300  " in line)
    return line


def test_shared_segments_are_branches_with_their_counts() -> None:
    assert drawn(SHOWN) == [
        "lora, first training step",
        "3 examples, 3,616 tokens, 1,212 computed (66% shared)",
        "1,200 ×3  <|im_start|>user↵What colour has",
        "├──     1 ×2  the",
        "│   ├──     5  apple↵⟦red<|im_end|>⟧  a.csv:2",
        "│   └──     5  leaf↵⟦green<|im_end|>⟧  a.csv:7",
        "└──     4  sky↵⟦blue<|im_end|>⟧  a.csv:3",
        "",
        "Numbers count tokens; ×3 stands beside those that three examples share.",
        "⟦between these⟧: trained, the loss counts predicting it",
        "The last token of an example is only predicted, not computed.",
    ]


def test_on_a_narrow_screen_the_text_has_all_the_room() -> None:
    assert "│   ├──     5  apple↵⟦red<|im_end|>⟧" in drawn(SHOWN, width=80)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("letters", ["word ", "語 "])
def test_long_texts_are_shortened_in_the_middle_and_keep_the_answer(width: int, letters: str) -> None:
    long = ShownSegment(((100 * letters, False, False), ("red", True, False), END), 300, ("a.csv:1",))
    line = drawn_alone(long, width)
    text = line.removesuffix("  a.csv:1")
    assert text.startswith(f"300  {letters}")
    assert text.endswith("⟦red<|im_end|>⟧")
    assert text.count("…") == 1
    assert width - 3 <= cell_len(line) <= width  # two cells to a letter may leave one


def test_an_answer_longer_than_the_line_is_shortened_too() -> None:
    long = ShownSegment((("Say it.", False, False), (60 * "word ", True, False), END), 300, ("a.csv:1",))
    line = drawn_alone(long, 60)
    assert line.startswith("300  Say it.⟦word")
    assert line.endswith("word <|im_end|>⟧")
    assert (line.count("…"), line.count("⟦")) == (1, 1)
    assert len(line) <= 60


def test_where_there_are_colours_nothing_stands_between_brackets() -> None:
    lines = drawn(SHOWN, force_terminal=True)
    assert not any("⟦" in line for line in lines)
    assert any("\x1b[1;32mred" in line for line in lines)


def test_of_many_branches_the_first_are_drawn_and_the_others_counted() -> None:
    many = replace(TOP, below=tuple(replace(BLUE, places=(f"a.csv:{i}",)) for i in range(30)))
    lines = drawn(replace(SHOWN, parts=((many,),)))
    assert sum("sky" in line for line in lines) == 11
    assert "└── … 19 more, 76 tokens" in lines
    twelve = replace(TOP, below=many.below[:12])
    assert sum("sky" in line for line in drawn(replace(SHOWN, parts=((twelve,),)))) == 12


def test_parts_that_go_through_one_after_the_other_are_named() -> None:
    lines = drawn(replace(SHOWN, parts=((TOP,), (BLUE,))))
    assert lines.index("part 1 of 2") < lines.index("part 2 of 2")
    assert lines[lines.index("part 2 of 2") + 1] == "    4  sky↵⟦blue<|im_end|>⟧  a.csv:3"


def test_prompts_of_an_approach_that_trains_nothing_say_so() -> None:
    lines = drawn(replace(SHOWN, approach="zero-shot", trains=False, sequences=1))
    assert lines[0] == "zero-shot, prompts to the validation split"
    assert lines[1].startswith("1 prompt, ")
    assert lines[-1] == "This approach trains nothing; the answers are no part of the picture."
