"""Examples and the token tree as values, before they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tiny import tiny_study

from luthier.errors import StudyError
from luthier.runner.show import ShownSegment, ShownTree, token_tree, training_examples
from luthier.train import memory


def study(model: Path, **changes: object):  # type: ignore[no-untyped-def]
    task = {
        "data": {"train": "train.csv", "test": "test.csv"},
        "split": {"validation": 6},
        "system": "Say whether the thing that is named is a fruit, a tool or an animal, in one word and no more.",
        "prompt": "{{ text }}",
        "completion": "{{ kind }}",
        "labels": "auto",
        "answer": "choose",
    }
    return tiny_study(model, task=task, **changes)


def paths(segments: Sequence[ShownSegment], above: tuple[ShownSegment, ...] = ()) -> Iterator[tuple[ShownSegment, ...]]:
    """The segments of each sequence, from the first to the last."""
    for segment in segments:
        if segment.below:
            yield from paths(segment.below, (*above, segment))
        else:
            yield (*above, segment)


def whole(shown: ShownTree) -> dict[str, str]:
    """The text of each sequence, put together from its segments, with trained parts in brackets."""
    found = {}
    for part in shown.parts:
        for path in paths(part):
            (place,) = path[-1].places
            pieces = [piece for segment in path for piece in segment.pieces]
            found[place] = "".join(f"[{text}]" if trained else text for text, trained, _ in pieces).replace("][", "")
    return found


def segments(shown: ShownTree) -> list[ShownSegment]:
    return list({id(s): s for part in shown.parts for path in paths(part) for s in path}.values())


def test_the_first_step_is_drawn_with_each_shared_segment_once(root: Path, tiny_model_folder: Path):
    shown = token_tree(study(tiny_model_folder), root)
    assert (shown.approach, shown.trains, shown.sequences) == ("lora", True, 8)
    (part,) = shown.parts
    (top,) = part  # all begin with the system text
    assert len(top.places) == len(set(top.places)) == 8
    assert shown.tokens == sum(segment.tokens * len(segment.places) for segment in segments(shown))
    # The last token of each example is drawn but not computed.
    assert shown.computed == sum(segment.tokens for segment in segments(shown)) - 8
    assert shown.computed < 0.5 * shown.tokens


def test_the_picture_holds_each_example_as_it_is_shown_alone(root: Path, tiny_model_folder: Path):
    given = study(tiny_model_folder, approaches={"lora": [{"step": "sft", "batch_size": 30}]})
    shown = token_tree(given, root)
    alone = {
        example.place: "".join(f"[{text}]" if trained else text for text, trained, _ in example.pieces).replace(
            "][", ""
        )
        for example in training_examples(given, root, 30)
    }
    assert whole(shown) == alone
    assert all(text.endswith("<|im_end|>]") for text in alone.values())


def test_the_step_is_the_one_that_the_seed_and_the_batch_size_draw(root: Path, tiny_model_folder: Path):
    def drawn(**changes: object) -> set[str]:
        (part,) = token_tree(study(tiny_model_folder, **changes), root).parts
        return {place for segment in part for place in segment.places}

    small = {"lora": [{"step": "sft", "batch_size": {"choose": [3, 5]}}]}
    assert len(drawn(approaches=small)) == 3
    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)


def test_a_step_too_large_for_one_pass_is_drawn_in_parts(
    root: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    whole_step = token_tree(study(tiny_model_folder), root)
    monkeypatch.setitem(memory.WANTED_TOKENS, "cpu", 60)
    shown = token_tree(study(tiny_model_folder), root)
    assert len(shown.parts) > 1
    assert whole(shown) == whole(whole_step)
    assert shown.tokens == whole_step.tokens
    assert shown.computed > whole_step.computed


def test_with_the_loss_on_everything_all_but_the_first_token_is_trained(root: Path, tiny_model_folder: Path):
    everything = {"lora": [{"step": "sft", "loss_on": "all"}]}
    shown = token_tree(study(tiny_model_folder, approaches=everything), root)
    (part,) = shown.parts
    assert [trained for _, trained, _ in part[0].pieces] == [False, *[True] * (len(part[0].pieces) - 1)]


def test_of_an_approach_that_trains_nothing_the_prompts_are_drawn(root: Path, tiny_model_folder: Path):
    shown = token_tree(study(tiny_model_folder), root, "zero-shot")
    assert (shown.approach, shown.trains, shown.sequences) == ("zero-shot", False, 6)
    (part,) = shown.parts
    assert not any(trained for segment in segments(shown) for _, trained, _ in segment.pieces)
    assert len(part[0].places) == 6
    assert shown.computed == sum(segment.tokens for segment in segments(shown))
    assert all(text.endswith("<|im_start|>assistant\n") for text in whole(shown).values())


def test_prompts_that_share_hardly_anything_stand_side_by_side(root: Path, tiny_model_folder: Path):
    shown = token_tree(tiny_study(tiny_model_folder), root, "few-shot")
    assert shown.computed <= shown.tokens
    assert sum(len(segment.places) for segment in shown.parts[0]) == 6


def test_an_approach_that_is_not_there_is_refused(root: Path, tiny_model_folder: Path):
    with pytest.raises(StudyError, match="no approach 'lorra'"):
        token_tree(study(tiny_model_folder), root, "lorra")


def test_of_a_classification_head_labels_stand_where_tokens_are_trained(root: Path, tiny_model_folder: Path):
    classifier = study(tiny_model_folder, approaches={"head": [{"step": "sft", "head": "classify"}]})
    shown = training_examples(classifier, root, 4)
    trained = [[(text, special) for text, trained, special in one.pieces if trained] for one in shown]
    assert all(own in ([("[animal]", False)], [("[fruit]", False)], [("[tool]", False)]) for own in trained)
    drawn = whole(token_tree(classifier, root))
    assert all(any(f"[{label}]" in text for label in ("animal", "fruit", "tool")) for text in drawn.values())
