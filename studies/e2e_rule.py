"""A template for studies/e2e_nlg.yaml, as somebody would write it down."""

from __future__ import annotations

import re

_PRICES = {"cheap": " cheap", "moderate": " moderately priced", "high": " high-priced"}
_RATINGS = {"low": "a low", "average": "an average", "high": "a high"}


def answer(prompt: str, fields: dict[str, str]) -> str:
    """A sentence or two on the restaurant whose properties `fields["mr"]` holds."""
    own = {key.strip(): value for key, value in re.findall(r"([\w ]+)\[([^\]]*)\]", fields["mr"])}
    kind = own.get("eatType", "restaurant")
    text = f"{own['name']} is a"
    if own.get("familyFriendly") == "yes":
        text += " family-friendly"
    text += _PRICES.get(own.get("priceRange", ""), "")
    text += f" {own['food']} {kind}" if "food" in own else f" {kind}"
    if "area" in own:
        text += " in the city centre" if own["area"] == "city centre" else " in the riverside area"
    if "near" in own:
        text += f" near {own['near']}"
    text += "."
    said = []
    if "customer rating" in own:
        rating = own["customer rating"]
        said.append(f"has {_RATINGS.get(rating, f'a {rating}')} customer rating")
    if own.get("priceRange", "").startswith(("less", "more", "£")):
        said.append(f"has a price range of {own['priceRange']}")
    if own.get("familyFriendly") == "no":
        said.append("is not family-friendly")
    return f"{text} It {' and '.join(said)}." if said else text
