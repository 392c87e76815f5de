"""Chat exercises in general text handling, made from a seed.

A *skill* is a function from random numbers and raw material to one `(request, answer)` pair.
Copying is what most of them practise, in different clothes: a small model that copies well adapts
quickly. None of them uses the format or the labels of a task that an adapter is trained for later,
so that an adapter has something left to teach.

Knows nothing about tokens, files or training.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Pair = tuple[str, str]


@dataclass(frozen=True)
class Material:
    """What exercises are made of: common lowercase words, given names, short sentences by kind."""

    words: Sequence[str]
    names: Sequence[str]
    sentences: dict[str, Sequence[str]]

    def sentence(self, rng: Random) -> str:
        return rng.choice(self.sentences[rng.choice(list(self.sentences))])


Skill = Callable[[Random, Material], Pair]
SKILLS: list[tuple[float, Skill]] = []  # (how often, relative to the others; the skill)


def skill(weight: float = 1.0) -> Callable[[Skill], Skill]:
    def register(function: Skill) -> Skill:
        SKILLS.append((weight, function))
        return function

    return register


def exercise(rng: Random, material: Material) -> Pair:
    """One exercise in a skill drawn by weight."""
    weights, skills = zip(*SKILLS, strict=True)
    chosen: Skill = rng.choices(skills, weights)[0]
    return chosen(rng, material)


# Material that is invented on the spot, so that copying cannot be done from memory.


def pseudo_word(rng: Random) -> str:
    syllables = [
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", "n", "r", "s"])
        for _ in range(rng.randint(1, 3))
    ]
    return "".join(syllables)


def code(rng: Random) -> str:
    """Something like an order number, a price, a date, a telephone number or an address on a
    network."""
    digits = "".join(rng.choices(string.digits, k=rng.randint(2, 9)))
    letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 3)))
    month = rng.choice(["January", "March", "April", "June", "July", "August", "October", "May"])
    return rng.choice(
        [
            digits,
            letters + digits,
            f"{letters}-{digits}",
            f"{rng.choice('$£€')}{rng.randint(1, 999)}.{rng.randint(0, 99):02}",
            f"{rng.randint(1, 28)} {month}",
            f"{month} {rng.randint(1, 28)}",
            f"{rng.randint(1, 12)}:{rng.randint(0, 59):02} {rng.choice(['am', 'pm'])}",
            f"+{rng.randint(1, 99)} {digits[:3]} {rng.randint(1000, 999999)}",
            f"{pseudo_word(rng)}@{pseudo_word(rng)}.{rng.choice(['com', 'org', 'net', 'io'])}",
        ]
    )


def thing(rng: Random, m: Material) -> str:
    """One short item: usually a common word, sometimes a name, an invented word or a code."""
    kind = rng.random()
    if kind < 0.55:
        return rng.choice(m.words)
    if kind < 0.7:
        return rng.choice(m.names)
    return pseudo_word(rng) if kind < 0.85 else code(rng)


def things(rng: Random, m: Material, low: int, high: int) -> list[str]:
    """Different things, low to high of them."""
    wanted = rng.randint(low, high)
    found: dict[str, None] = {}
    while len(found) < wanted:
        found[thing(rng, m)] = None
    return list(found)


def words(rng: Random, m: Material, low: int, high: int) -> list[str]:
    return rng.sample(m.words, rng.randint(low, high))


def statement(rng: Random, m: Material) -> str:
    """A sentence with an invented detail in it, so that no two are alike."""
    sentence = m.sentence(rng)
    if rng.random() < 0.5:
        return sentence
    a, b = thing(rng, m), code(rng)
    tail = [
        f"My reference is {b}.",
        f"This is {rng.choice(m.names)}.",
        f"It says {a} {b}.",
        f"Ask for {a}, {b}.",
    ]
    return f"{sentence} {rng.choice(tail)}"


def place_in(rng: Random, sentence: str) -> tuple[list[str], int]:
    parts = sentence.split()
    return parts, rng.randrange(len(parts))


# Copying.


@skill(5)
def copy_sentence(rng: Random, m: Material) -> Pair:
    text = statement(rng, m)
    ask = rng.choice(
        ["Repeat: ", "Copy this text: ", "Say this again: ", "Write the same: ", "Echo: "]
    )
    return ask + text, text


@skill(4)
def copy_things(rng: Random, m: Material) -> Pair:
    text = " ".join(things(rng, m, 2, 9))
    ask = rng.choice(["Repeat: ", "Copy these words: ", "Say this again: ", "Echo: "])
    return ask + text, text


@skill(1)
def copy_twice(rng: Random, m: Material) -> Pair:
    text = " ".join(things(rng, m, 1, 4))
    return f"Repeat twice: {text}", f"{text} {text}"


@skill(2)
def list_words(rng: Random, m: Material) -> Pair:
    found = things(rng, m, 2, 7)
    joiner, ask = rng.choice(
        [
            (", ", "with commas"),
            ("\n", "one per line"),
            (" - ", "with dashes"),
            (" / ", "with slashes"),
        ]
    )
    return f"List {ask}: {' '.join(found)}", joiner.join(found)


@skill(1)
def numbered_list(rng: Random, m: Material) -> Pair:
    found = things(rng, m, 2, 5)
    return f"Number these: {', '.join(found)}", "\n".join(
        f"{i}. {x}" for i, x in enumerate(found, 1)
    )


# Finding a part and copying it.


@skill(3)
def quoted(rng: Random, m: Material) -> Pair:
    parts, at = place_in(rng, statement(rng, m))
    until = min(len(parts), at + rng.randint(1, 3))
    wanted = " ".join(parts[at:until])
    text = " ".join([*parts[:at], f'"{wanted}"', *parts[until:]])
    return rng.choice([f"What is in quotes? {text}", f"{text}\nWhich words are in quotes?"]), wanted


@skill(2)
def nth_word(rng: Random, m: Material) -> Pair:
    found = things(rng, m, 2, 7)
    which, index = rng.choice([("first", 0), ("second", 1), ("last", -1)])
    return f"What is the {which} word? {' '.join(found)}", found[index].split()[
        0 if index >= 0 else -1
    ]


@skill(2)
def neighbour(rng: Random, m: Material) -> Pair:
    found = words(rng, m, 4, 9)
    at = rng.randrange(1, len(found) - 1)
    side, index = rng.choice([("after", at + 1), ("before", at - 1)])
    return f"Which word comes {side} {found[at]}? {' '.join(found)}", found[index]


@skill(2)
def find_numbers(rng: Random, m: Material) -> Pair:
    parts = m.sentence(rng).split()
    wanted = [str(rng.randint(2, 9999)) for _ in range(rng.randint(1, 2))]
    at = sorted(rng.sample(range(len(parts) + 1), min(len(wanted), len(parts))))
    for offset, (place, number) in enumerate(zip(at, wanted, strict=False)):
        parts.insert(place + offset, number)
    text = " ".join(parts)
    numbers = [p for p in parts if p.isdigit()]
    return f"Which numbers are in this text? {text}", " and ".join(numbers)


@skill(2)
def lookup(rng: Random, m: Material) -> Pair:
    keys = words(rng, m, 2, 5)
    values = [" ".join(things(rng, m, 1, 2)) for _ in keys]
    card = "\n".join(f"{k}: {v}" for k, v in zip(keys, values, strict=True))
    at = rng.randrange(len(keys))
    return f"{card}\nWhat is the {keys[at]}?", values[at]


@skill(3)
def passage(rng: Random, m: Material) -> Pair:
    people = rng.sample(m.names, rng.randint(2, 3))
    verb, question = rng.choice(
        [
            ("bought", "buy"),
            ("found", "find"),
            ("wants", "want"),
            ("sold", "sell"),
            ("sent", "send"),
        ]
    )
    helper = "does" if verb == "wants" else "did"
    objects = words(rng, m, len(people), len(people))
    counts = [rng.randint(2, 60) for _ in people]
    facts = [f"{p} {verb} {c} {o}." for p, c, o in zip(people, counts, objects, strict=True)]
    at = rng.randrange(len(people))
    asked, answer = rng.choice(
        [
            (f"Who {verb} {objects[at]}?", people[at]),
            (f"What {helper} {people[at]} {question}?", f"{counts[at]} {objects[at]}"),
            (f"How many {objects[at]} {helper} {people[at]} {question}?", str(counts[at])),
        ]
    )
    return f"{' '.join(facts)} {asked}", answer


@skill(2)
def introduce(rng: Random, m: Material) -> Pair:
    name, town, job = rng.choice(m.names), pseudo_word(rng).capitalize(), rng.choice(m.words)
    reach = code(rng)
    text = rng.choice(
        [
            f"I am {name} from {town}, you can reach me at {reach}. I work with {job}.",
            f"{name} lives in {town} and likes {job}. The contact is {reach}.",
            f"Hello, my name is {name}. Please send the {job} to {town}, reference {reach}.",
        ]
    )
    asked, answer = rng.choice(
        [
            ("Who is this about?", name),
            ("Which town is named?", town),
            ("What is the contact or reference?", reach),
        ]
    )
    return f"{text}\n{asked}", answer


# Copying with a change.


@skill(2)
def replace_word(rng: Random, m: Material) -> Pair:
    parts, at = place_in(rng, statement(rng, m))
    new = rng.choice([rng.choice(m.words), pseudo_word(rng), "XXX", "***"])
    changed = " ".join(new if p == parts[at] else p for p in parts)
    return f"Replace {parts[at]} with {new}: {' '.join(parts)}", changed


@skill(1)
def remove_word(rng: Random, m: Material) -> Pair:
    parts, at = place_in(rng, m.sentence(rng))
    kept = " ".join(p for p in parts if p != parts[at])
    return f"Leave out {parts[at]}: {' '.join(parts)}", kept or "nothing"


@skill(1)
def put_quotes(rng: Random, m: Material) -> Pair:
    parts, at = place_in(rng, m.sentence(rng))
    changed = " ".join(f'"{p}"' if i == at else p for i, p in enumerate(parts))
    if parts.count(parts[at]) > 1:
        return f"Repeat: {' '.join(parts)}", " ".join(parts)
    return f"Put {parts[at]} in quotes: {' '.join(parts)}", changed


@skill(1.5)
def reverse(rng: Random, m: Material) -> Pair:
    found = words(rng, m, 2, 5)
    return f"Reverse the order: {' '.join(found)}", " ".join(reversed(found))


@skill(1.5)
def change_case(rng: Random, m: Material) -> Pair:
    text = " ".join(words(rng, m, 1, 5))
    upper, title = text.upper(), text.title()
    return rng.choice(
        [
            (f"Write in capitals: {text}", upper),
            (f"Write in small letters: {upper}", text),
            (f"Capitalise each word: {text}", title),
        ]
    )


@skill(1)
def spell(rng: Random, m: Material) -> Pair:
    word = rng.choice([rng.choice(m.words), pseudo_word(rng)])
    spelt = " ".join(word)
    return rng.choice([(f"Spell: {word}", spelt), (f"Join the letters: {spelt}", word)])


@skill(2)
def to_json(rng: Random, m: Material) -> Pair:
    record = {k: " ".join(things(rng, m, 1, 2)) for k in words(rng, m, 1, 4)}
    lines = "\n".join(f"{k}: {v}" for k, v in record.items())
    text = json.dumps(record, ensure_ascii=False)
    return rng.choice([(f"Write as JSON:\n{lines}", text), (f"Write as lines: {text}", lines)])


@skill(2)
def fill_in(rng: Random, m: Material) -> Pair:
    name, item, when = rng.choice(m.names), rng.choice(m.words), code(rng)
    form = rng.choice(
        [
            "Dear <a>, your <b> arrives at <c>.",
            "<a> asked for <b> on <c>.",
            "Thank you <a>! We will send the <b>. Number: <c>",
            "<c>: <b> for <a>",
        ]
    )
    filled = form.replace("<a>", name).replace("<b>", item).replace("<c>", when)
    return f"Fill in: {form}\na: {name}\nb: {item}\nc: {when}", filled


# Deciding.


@skill(2)
def member(rng: Random, m: Material) -> Pair:
    found = words(rng, m, 3, 7)
    wanted = rng.choice(found) if rng.random() < 0.5 else rng.choice(m.words)
    return f"Is {wanted} in this list? {', '.join(found)}", "yes" if wanted in found else "no"


@skill(4)
def choose_kind(rng: Random, m: Material) -> Pair:
    kinds = list(m.sentences)
    rng.shuffle(kinds)
    kind = rng.choice(kinds)
    text = rng.choice(m.sentences[kind])
    ask = rng.choice(
        ["Which of these is it about", "Choose the kind of text", "What sort of text is this"]
    )
    return f"{ask}: {', '.join(kinds)}?\n{text}", kind


@skill(2)
def choose_option(rng: Random, m: Material) -> Pair:
    options = words(rng, m, 2, 5)
    text = f"{m.sentence(rng)} {rng.choice(options)}"
    wanted = text.split()[-1]
    return f"Choose the one that ends the text. Options: {', '.join(options)}.\n{text}", wanted


@skill(1)
def same(rng: Random, m: Material) -> Pair:
    a = " ".join(things(rng, m, 1, 3))
    b = a if rng.random() < 0.5 else " ".join(things(rng, m, 1, 3))
    return f"Are these the same? {a} | {b}", "yes" if a == b else "no"


# Order and number.

# fmt: off
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on


def in_words(number: int) -> str:
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f"-{UNITS[unit]}" if unit else "")


@skill(1.5)
def number_words(rng: Random, m: Material) -> Pair:
    number = rng.randrange(100)
    return rng.choice(
        [
            (f"Write in words: {number}", in_words(number)),
            (f"Write in digits: {in_words(number)}", str(number)),
            (
                f"Write in digits: {in_words(number)} {m.words[number]}",
                f"{number} {m.words[number]}",
            ),
        ]
    )


@skill(1.5)
def arithmetic(rng: Random, m: Material) -> Pair:
    a, b = rng.randint(0, 30), rng.randint(0, 20)
    product = rng.randint(2, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (f"{a} + {b} =", str(a + b)),
            (f"What is {a} plus {b}?", str(a + b)),
            (f"{a + b} - {b} =", str(a)),
            (f"{product[0]} * {product[1]} =", str(product[0] * product[1])),
        ]
    )


@skill(1.5)
def sort_items(rng: Random, m: Material) -> Pair:
    if rng.random() < 0.5:
        numbers = rng.sample(range(100), rng.randint(2, 5))
        return f"Sort: {' '.join(map(str, numbers))}", " ".join(map(str, sorted(numbers)))
    found = words(rng, m, 2, 4)
    return f"Sort by letter: {' '.join(found)}", " ".join(sorted(found))


@skill(1)
def count(rng: Random, m: Material) -> Pair:
    found = words(rng, m, 1, 8)
    return f"How many words? {' '.join(found)}", str(len(found))
