"""Models whose output layer and input embedding share their weights, when one of the two is to change alone."""

from __future__ import annotations

from typing import Any


def untie(model: Any) -> None:
    """Give the output layer weights of its own where it shares the input embedding's."""
    import torch

    head, embedding = _plain(model.get_output_embeddings()), _plain(model.get_input_embeddings())
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = False


def untie_adapted(adapted: Any) -> None:
    """Untie a model that PEFT has put an adapter on, where the adapter changes the output layer or the embedding.

    Merged into weights that both share, the change of one would change the other too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    model = adapted.get_base_model()
    both = (model.get_output_embeddings(), model.get_input_embeddings())
    if any(isinstance(own, BaseTunerLayer | ModulesToSaveWrapper) for own in both):
        untie(model)


def _plain(layer: Any) -> Any:
    """The layer itself, out of what PEFT has put around it."""
    while (inner := getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)) is not None:
        layer = inner
    return layer
