#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes python/seqloom/assets/demo.txt: small stories of our own, the same ones every time.

    python tools/make_demo_text.py            # writes the file
    python tools/make_demo_text.py --check    # exits 1 when the file is not what this writes

Fables, conversations, letters, diary pages, recipes and riddles are put together from parts by
a seeded generator. Nothing comes from anywhere else, so the text is as free as the package.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path

from demo_parts import (
    ANIMALS,
    CLOSINGS,
    DIARY,
    DISHES,
    ERRANDS,
    FABLES,
    LETTERS,
    NAMES,
    OPENINGS,
    PLACES,
    RIDDLES,
    SEASONS,
    TALKS,
    TIMES,
    WEATHER,
)

TARGET = Path(__file__).resolve().parent.parent / "python" / "seqloom" / "assets" / "demo.txt"
SEED, SIZE = 20, 100_000
_PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his"},
    "she": {"he": "she", "him": "her", "his": "her"},
}


def tidy(text: str) -> str:
    """Articles before vowels, capitals where a sentence begins with a slot."""
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU]|honest)(?!one\b|use|uni)", r"\1n ", text.strip())
    return re.sub(r"(^\"?|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


class Writer:
    """Puts parts together; `pick` avoids what it gave lately."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.recent: dict[str, list[object]] = {}

    def pick(self, options: list) -> object:
        """One of the options, none of the last few that were taken from the same list."""
        lately = self.recent.setdefault(str(options[0]), [])
        fresh = [option for option in options if option not in lately] or options
        chosen = fresh[int(self.random.random() * len(fresh))]
        lately.append(chosen)
        del lately[: max(0, len(lately) - len(options) // 2)]
        return chosen

    def fill(self, beats: list, slots: dict[str, str]) -> str:
        """One alternative of every beat, its slots filled."""
        return " ".join(tidy(str(self.pick(beat)).format(**slots)) for beat in beats)

    def animals(self) -> dict[str, str]:
        """Slots for two different animals."""
        slots: dict[str, str] = {}
        names: list[str] = []
        for label in ("a", "b"):
            while True:
                name, gender, adjectives, home = self.pick(ANIMALS)
                if name not in names:
                    break
            names.append(name)
            slots[label] = name
            slots[label + "_adj"] = str(self.pick(adjectives))
            slots[label + "_home"] = home
            for role, word in _PRONOUNS[gender].items():
                slots[f"{label}_{role}"] = word
        return slots

    def common(self) -> dict[str, str]:
        """Slots that every genre may use."""
        first, second = self.pick(NAMES), self.pick(NAMES)
        while second == first:
            second = self.pick(NAMES)
        return {
            "place": str(self.pick(PLACES)),
            "season": str(self.pick(SEASONS)),
            "time": str(self.pick(TIMES)),
            "weather": str(self.pick(WEATHER)),
            "dish": str(self.pick(DISHES)),
            "errand": str(self.pick(ERRANDS)),
            "p": str(first),
            "q": str(second),
            "n": str(self.pick(["two", "three", "four", "five", "six", "seven", "nine", "ten"])),
        }

    def fable(self) -> str:
        """A title, a story about two animals, and what it teaches."""
        title, beats, morals = self.pick(FABLES)
        slots = {**self.common(), **self.animals()}
        names = f"The {slots['a'].title()} and the {slots['b'].title()}"
        heading = names if title is None else f"{names}, or {title}"
        opening = self.fill([OPENINGS], slots)
        return f"{heading}\n\n{opening} {self.fill(beats, slots)}\n\n{self.fill([morals], slots)}"

    def talk(self) -> str:
        """A conversation of two people."""
        topic, turns = self.pick(TALKS)
        slots = self.common()
        speakers = (slots["p"], slots["q"])
        lines = [f"A Conversation about {topic}", ""]
        chosen = 0
        for number, turn in enumerate(turns):
            if number % 2 == 0:  # the answers stand in the order of the questions
                chosen = turn.index(self.pick(turn))
            lines.append(f"{speakers[number % 2]}: {self.fill([[turn[chosen]]], slots)}")
        return "\n".join(lines)

    def letter(self) -> str:
        """A letter from one person to another."""
        slots = self.common()
        body = self.fill(self.pick(LETTERS), slots)
        return f"Dear {slots['q']},\n\n{body}\n\n{self.pick(CLOSINGS)},\n{slots['p']}"

    def diary(self) -> str:
        """A page of a diary."""
        day = self.pick([f"the {n} of {m}" for n in _DAYS for m in _MONTHS])
        return f"From a Diary, {day}\n\n{self.fill(DIARY, self.common())}"

    def riddle(self) -> str:
        """A riddle with its answer."""
        answer, clues = self.pick(RIDDLES)
        chosen = sorted(range(len(clues)), key=lambda _: self.random.random())[:3]
        text = " ".join(clues[i] for i in sorted(chosen))
        ending = self.pick(["What am I?", "Who am I?", "Do you know my name?", "Guess my name."])
        return f"A Riddle\n\n{text} {ending}\n\nThe answer is {answer}."


_DAYS = ["first", "second", "third", "fifth", "seventh", "ninth", "tenth", "twelfth", "fifteenth",
         "eighteenth", "twentieth", "last"]  # fmt: skip
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December"]  # fmt: skip


def compose(seed: int = SEED, size: int = SIZE) -> str:
    """The whole text, at least `size` characters."""
    writer = Writer(seed)
    order = ["fable", "talk", "fable", "letter", "diary", "fable", "talk", "diary", "riddle"]
    parts: list[str] = []
    seen: set[str] = set()
    length = number = 0
    while length < size:
        part = getattr(writer, order[number % len(order)])()
        number += 1
        if part in seen:
            continue
        seen.add(part)
        parts.append(part)
        length += len(part) + 3
    return "\n\n\n".join(parts) + "\n"


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    text = compose()
    if parser.parse_args().check:
        if TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET} is not what this program writes", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: {len(text)} characters, {len(set(text.split()))} different words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
