"""From messages to token ids, prompt and answer together with the mask of what is trained.

A prompt is rendered by the model's chat template with its opening of the assistant's turn; the answer is what the
template appends for it, up to and with the token that ends the turn. Prompt and answer are tokenised apart, so that
the prompt's tokens are the same in training and in answering.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jinja2

from luthier.errors import DataError, ModelError, TooLong
from luthier.model.chat_template import thinking_block
from luthier.prompt.encode import Encoder
from luthier.prompt.passages import cited_completion, holds_answer, in_order, with_passages, within_budget
from luthier.prompt.wording import worded
from luthier.types import Example, Grounding, Message, Passage, Prompt, Wording

_BRACKETED = re.compile(r"[\[<{|][^\s\w]*\w[^\s\[<{]*[\]>}|]+")

# How families of models name the end of a text, in pretraining.
_ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>")


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as the model gets it.

    Attributes:
        passages: Those that it shows, in their order.
        passage_tokens: Tokens that they take, with the instruction that goes with them.
        dropped_passages: Passages that did not fit.
    """

    id: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    dropped_shots: int
    passages: tuple[Passage, ...] = ()
    passage_tokens: int = 0
    dropped_passages: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """Token ids with the mask of trained ones: `trained[i]` says whether the loss counts predicting `ids[i]`.

    Attributes:
        shows_right: Whether a passage that is shown holds the answer.
        taught_absent: Whether what is learned is that the documents do not hold it.
    """

    id: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    dropped_shots: int = 0
    dropped_passages: int = 0
    shows_right: bool = False
    taught_absent: bool = False


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What stands before a user's question, and what ends it: a token, or, in templates of plain text, a string."""

    opening: tuple[int, ...]
    end_ids: frozenset[int]
    stop: tuple[str, ...]


class Renderer:
    """Renders prompts and answers for one tokenizer and one window.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        window: Tokens that prompt and answer may take together.
        before: Ids that stand before every prompt: those of virtual tokens, if the model has any.
    """

    def __init__(self, tokenizer: Any, window: int, before: tuple[int, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self.window = window
        self.before = before
        self.encoder = Encoder(tokenizer)
        self._end_of_turn = _end_of_turn(tokenizer)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end the assistant's turn: the template's own, and the end of the text."""
        return frozenset({self._end_of_turn, int(self.tokenizer.eos_token_id)})

    def prompt(
        self,
        prompt: Prompt,
        wording: Wording,
        shots: Sequence[Example],
        reserve: int,
        grounding: Grounding | None = None,
    ) -> RenderedPrompt:
        """Render `prompt` with `shots` in front; those that leave no room for `reserve` tokens are dropped.

        The first shots are dropped first (the most relevant stands last), then the worst passages.

        Raises:
            TooLong: The prompt does not fit even without shots and passages.
        """
        own = worded(prompt, wording)
        given = () if grounding is None else grounding.passages
        fitting = (
            None
            if grounding is None
            else within_budget(grounding, lambda text: len(self._encode(self.encoder.quoted(text))))
        )
        most = 0 if fitting is None else len(fitting.passages)
        for dropped, count in [(d, most) for d in range(len(shots) + 1)] + [(len(shots), c) for c in range(most)[::-1]]:
            grounded, shown = own, fitting
            if fitting is not None:
                shown = replace(fitting, passages=fitting.passages[:count])
                grounded = with_passages(own, shown, self._control_tokens)
            before = self._shot_turns(shots[dropped:], wording, grounding)
            messages = with_turns(grounded, before)
            ids = self._opened(messages)
            if len(ids) + reserve <= self.window:
                if shown is None:
                    return RenderedPrompt(prompt.id, messages, ids, dropped)
                plain = self._opened(with_turns(own, before))
                return RenderedPrompt(
                    prompt.id, messages, ids, dropped, in_order(shown), len(ids) - len(plain), len(given) - count
                )
        raise TooLong(
            prompt.id,
            f"the prompt takes {len(ids)} tokens and the answer up to {reserve}; the model's window is {self.window}. "
            "Shorten it, lower max_new_tokens, or use a model with a longer window.",
        )

    def _shot_turns(
        self, shots: Sequence[Example], wording: Wording, grounding: Grounding | None
    ) -> tuple[Message, ...]:
        """The worked examples as turns of user and assistant, each with its passages if it has any."""
        turns: list[Message] = []
        for shot in shots:
            asked, completion, given = worded(shot.prompt, wording), shot.completion, shot.prompt.passages
            if grounding is not None and given is not None:
                own = replace(grounding, passages=given)
                asked = with_passages(asked, own, self._control_tokens)
                if grounding.retrieval.cite:
                    completion = cited_completion(shot, in_order(own))
            turns += [*(m for m in asked if m.role != "system"), Message("assistant", completion)]
        return tuple(turns)

    def _opened(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self.before + self._encode(self._text(messages, opening=True))

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer takes for control tokens, and words in brackets that the template puts around turns
        (`[/INST]`), which may be none."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        marks = {str(token) for token in added if str(token)[:1] in "<["}
        special = {*self.encoder.control, *marks, *self._marks_of_turns()}
        return tuple(sorted(special, key=len, reverse=True))

    def _marks_of_turns(self) -> set[str]:
        system, turns = Message("system", " "), (Message("user", " "), Message("assistant", " "), Message("user", " "))
        for messages in ((system, *turns), turns):  # some templates refuse a system turn
            try:
                return set(_BRACKETED.findall(self._text(messages, opening=True)))
            except ModelError:
                continue
        return set()

    def completion(self, messages: tuple[Message, ...], completion: str) -> tuple[int, ...]:
        """Ids of the assistant's answer to `messages`, with the end of the turn."""
        opened = self._text(messages, opening=True)
        whole = self._text((*messages, Message("assistant", completion)), opening=False)
        if whole.startswith(opened):
            tail = whole[len(opened) :]
        else:
            # The template rewrites earlier turns once there is an answer; the plain answer is what will be generated.
            tail = self.encoder.quoted(completion)
        ids = self._encode(tail)
        ends = self.end_ids
        end = next((i for i, token in enumerate(ids) if token in ends and i > 0), None)
        return ids[: end + 1] if end is not None else (*ids, self._end_of_turn)

    def shows_system(self) -> bool:
        """Whether the template writes the text of a system turn."""
        mark = "\u241f"
        return mark in self._text((Message("system", mark), Message("user", "question")), opening=True)

    def question(self) -> UserTurn:
        """The user's turn as the template opens and ends it, for a model that is to write the question itself.

        Raises:
            ModelError: The template leaves no place for a question.
        """
        mark = "\u241f"
        before, found, behind = self._text((Message("user", mark),), opening=True).partition(mark)
        if not found:
            raise ModelError("the model's chat template does not show what the user says, so it can write no question.")
        special = set(self.tokenizer.all_special_ids) | set(getattr(self.tokenizer, "added_tokens_decoder", {}))
        end = next((token for token in self._encode(behind) if token in special), None)
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        return UserTurn(
            opening=self.before + (self._encode(before) or (int(first),)),
            end_ids=self.end_ids if end is None else self.end_ids | {int(end)},
            stop=() if end is not None or not behind else (behind,),
        )

    def training(
        self,
        example: Example,
        wording: Wording,
        shots: Sequence[Example],
        *,
        loss_on: str = "completion",
        grounding: Grounding | None = None,
        cite: bool = False,
    ) -> TrainingSequence:
        """Render an example with its answer.

        Args:
            loss_on: `completion`, or `all` for prompt and answer.
            cite: Whether the answer names the passage that holds it.

        Raises:
            TooLong: It does not fit in the window.
            DataError: Nothing in it would be trained, or it holds thoughts that the prompt leaves no place for.
        """
        if not example.completion:
            raise DataError(f"{example.place}: the completion is empty; there is nothing to train on.")
        if self._block and example.completion.lstrip().startswith(f"<{self._block}>"):
            raise DataError(
                f"{example.place}: the completion begins with a block of thoughts (<{self._block}>), which the model's "
                "chat template puts into the prompt and Luthier leaves empty, so that the model answers at once. Take "
                "the block off the completions, or use a model whose template has none."
            )

        def render(reserve: int) -> tuple[RenderedPrompt, tuple[int, ...]]:
            rendered = self.prompt(example.prompt, wording, shots, reserve, grounding)
            wanted = cited_completion(example, rendered.passages) if cite else example.completion
            return rendered, self.completion(rendered.messages, wanted)

        rendered, answer = render(0)
        if len(rendered.ids) + len(answer) > self.window:
            rendered, answer = render(len(answer))
        first = len(self.before) + 1  # nothing stands before it
        prompt_trained = loss_on == "all"
        trained = (*(False,) * first, *(prompt_trained,) * (len(rendered.ids) - first), *(True,) * len(answer))
        absent = "" if grounding is None else grounding.retrieval.absent
        return TrainingSequence(
            example.id,
            rendered.ids + answer,
            trained,
            rendered.dropped_shots,
            rendered.dropped_passages,
            shows_right=any(holds_answer(example, passage) for passage in rendered.passages),
            taught_absent=bool(absent) and example.completion == absent,
        )

    def blocks(self, text: str, id: str, block_tokens: int) -> list[TrainingSequence]:
        """A document cut into blocks of at most so many tokens, as far as the window has room for them.

        The token that ends a text stands behind the document, and before it too (or the one that the tokenizer begins
        texts with), as when documents follow each other in pretraining. A block begins with the last token of the block
        before, so that every token but the first is trained, once. What looks like a control token is taken as text.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        begin, end = self._text_marks
        ids = (begin, *ids, end)
        size = min(block_tokens, self.window - len(self.before))
        cut = [ids[start : start + size] for start in range(0, len(ids) - 1, size - 1)]
        given = (False,) * (len(self.before) + 1)
        return [TrainingSequence(id, self.before + own, given + (True,) * (len(own) - 1)) for own in cut]

    @cached_property
    def _block(self) -> str | None:
        """The name of the block of thoughts that the prompt closes before the answer."""
        return thinking_block(self._text((Message("user", "question"),), opening=True))

    @cached_property
    def _text_marks(self) -> tuple[int, int]:
        """The tokens before and behind a raw text."""
        end = _end_of_text(self.tokenizer)
        first = int(self.tokenizer("a", add_special_tokens=True)["input_ids"][0])
        return (first if first == self.tokenizer.bos_token_id else end), end

    def _text(self, messages: Sequence[Message], *, opening: bool) -> str:
        turns = [{"role": m.role, "content": self.encoder.quoted(m.content)} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opening)
        except (jinja2.TemplateError, ValueError) as error:
            roles = ", ".join(m.role for m in messages)
            raise ModelError(f"the model's chat template refuses turns in the order {roles}: {error}") from error
        return str(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        # The template writes the special tokens itself.
        return self.encoder.ids(text)


def classified(rendered: RenderedPrompt, label_ids: tuple[int, ...]) -> TrainingSequence:
    """A prompt with the number of its label behind it, which is what a classification head predicts there."""
    return TrainingSequence(
        rendered.id,
        rendered.ids + label_ids,
        (False,) * len(rendered.ids) + (True,) * len(label_ids),
        rendered.dropped_shots,
        rendered.dropped_passages,
    )


def with_turns(own: tuple[Message, ...], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Earlier turns behind the system text and before the question."""
    system = tuple(m for m in own if m.role == "system")
    return (*system, *turns, *(m for m in own if m.role != "system"))


def _end_of_turn(tokenizer: Any) -> int:
    """The special token with which the template closes an assistant's turn; the end token where it has none."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (jinja2.TemplateError, ValueError):
        return int(tokenizer.eos_token_id)
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    behind = tokenizer(text.rpartition("answer")[2], add_special_tokens=False)["input_ids"]
    return int(next((token for token in behind if token in special), tokenizer.eos_token_id))


def _end_of_text(tokenizer: Any) -> int:
    """The token that ends raw text: in a chat model it is often another than the end of a turn."""
    added = {str(token): int(i) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    return next((added[name] for name in _ENDS_OF_TEXT if name in added), int(tokenizer.eos_token_id))
