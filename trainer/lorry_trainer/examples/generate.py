"""Make the example data sets again, byte for byte: `python -m lorry_trainer.examples.generate [FOLDER]`.

Every row is put together here from templates written for this project; nothing is taken from anywhere.
One function per task gives one row from random numbers. Rows that ask the same are made once.
"""

# ruff: noqa: SIM905 (words in a string are easier to read)
from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]

NAMES = (
    "Ada Ben Clara David Emma Felix Grace Henry Ines Jack Kira Liam Maya Noah Olga Paul Quinn Rosa Sam Tara Ugo Vera "
    "Will Xenia Yara Zoe Amir Bela Carlos Dina Erik Fatima Goran Hana Ivan Julia Karl Lena Marco Nina Omar Petra"
).split()
SURNAMES = (
    "Adler Brook Castle Dunn Ellis Fischer Grant Hale Irving Jones Keller Lang Moore Novak Owens Parker Reed Stone "
    "Turner Vance Walker Young Zeller Marsh Fields Burke Cole Drake Frost Nash"
).split()
ITEMS = "lamp chair desk kettle jacket phone laptop printer camera bike tent watch sofa mirror radio blanket".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()


# intent: a customer's message -> one of twelve labels

INTENTS = {
    "refund": ["i want my money back for the {item}", "please refund the {item}", "how do i get a refund for my {item}",
               "give me back what i paid for the {item}", "can the {item} be refunded"],
    "delivery": ["where is my {item}", "when will the {item} arrive", "my {item} has not come yet",
                 "how long until you deliver the {item}", "can i track the {item} i ordered"],
    "cancel": ["cancel my order for the {item}", "i no longer want the {item}, stop the order",
               "please call off the order of the {item}", "i ordered a {item} by mistake, cancel it"],
    "broken": ["the {item} does not work", "my {item} broke after {n} days", "the {item} came damaged",
               "there is a crack in the {item}", "the {item} stopped working on {day}"],
    "exchange": ["can i swap the {item} for another one", "i want a different colour of the {item}",
                 "please exchange my {item} for a bigger one", "the {item} is too small, send another size"],
    "price": ["how much is the {item}", "what does a {item} cost", "is the {item} on sale",
              "tell me the price of {n} {item}s", "do you have a cheaper {item}"],
    "stock": ["do you have the {item} in stock", "is the {item} available", "are there any {item}s left",
              "when will you have the {item} again", "is the {item} sold out"],
    "address": ["i moved, change my address", "send the {item} to another address", "my street is wrong on the order",
                "please update where you ship the {item}"],
    "password": ["i forgot my password", "i cannot log in", "reset my password please", "my account is locked",
                 "the login page does not accept my password"],
    "invoice": ["send me the invoice for the {item}", "i need a receipt for my {item}", "where do i find my bill",
                "the invoice for the {item} has a mistake"],
    "hours": ["when do you open on {day}", "are you open on {day}", "what are your opening hours",
              "until what time is the shop open on {day}"],
    "human": ["let me talk to a person", "i want to speak with an agent", "can someone call me on {day}",
              "connect me with a human please"],
}  # fmt: skip
OPENERS = ("", "", "hi, ", "hello, ", "hey there, ", "sorry, ", "this is {name}, ")
CLOSERS = ("", "", "", "?", ".", " thanks", ", please help", ", it is urgent", " today")


def intent(rng: Random) -> Row:
    label = rng.choice(list(INTENTS))
    text = rng.choice(OPENERS) + rng.choice(INTENTS[label]) + rng.choice(CLOSERS)
    filled = text.format(
        item=rng.choice(ITEMS),
        n=rng.randint(2, 9),
        day=rng.choice(DAYS),
        name=rng.choice(NAMES),
    )
    return {"instruction": "Name the intent.", "context": filled, "output": label}


# booking: a message to a restaurant -> people, day and time


def spoken_time(rng: Random) -> tuple[str, str]:
    """(as people write it, as a clock shows it), between six and half past nine in the evening."""
    hour, minute = rng.randint(6, 9), rng.choice([0, 30])
    clock = f"{hour + 12}:{minute:02}"
    ways = [clock, f"half past {NUMBERS[hour]}" if minute else f"{hour} pm"]
    return rng.choice(ways), clock


BOOKINGS = (
    "a table for {people} on {day} at {time}",
    "can we come on {day} at {time}? we are {people}",
    "{day} {time}, {people} people",
    "book {day} for {people} at {time}",
    "{people} guests, {day} at {time}",
    "we will be {people}, at {time} on {day}",
)
BOOKING_OPENERS = ("", "", "", "hello, ", "hi, ", "good evening, ", "this is {name}. ")
BOOKING_CLOSERS = ("", "", "", " thanks", " please", ", by the window", ", outside")


def booking(rng: Random) -> Row:
    people, day = rng.randint(2, 8), rng.choice(DAYS)
    written, clock = spoken_time(rng)
    text = rng.choice(BOOKING_OPENERS) + rng.choice(BOOKINGS) + rng.choice(BOOKING_CLOSERS)
    asked = text.format(
        people=rng.choice([str(people), NUMBERS[people]]),
        day=day,
        time=written,
        name=rng.choice(NAMES),
    )
    answer = f"people={people}; day={day}; time={clock}"
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    }


# redact: a sentence -> the same with names, mail addresses and telephone numbers masked


def phone(rng: Random) -> str:
    return rng.choice(
        [f"0{rng.randint(20, 99)} {rng.randint(100000, 999999)}", f"555-{rng.randint(1000, 9999)}"]
    )


def mail(rng: Random) -> str:
    name = rng.choice(NAMES + SURNAMES).lower() + rng.choice(["", str(rng.randint(1, 99))])
    return f"{name}@{rng.choice(ITEMS)}.{rng.choice(['com', 'org', 'net'])}"


REDACTIONS = (
    "{name} ordered a {item}, write to {mail}.",
    "Please call {name} at {phone}.",
    "The {item} is for {name}.",
    "My mail is {mail} and my number is {phone}.",
    "{name} asked about the {item} on {day}.",
    "Send the {item} to {name}, phone {phone}.",
    "I am {name}, you can write to {mail}.",
    "On {day} {name} will bring the {item}.",
    "Ask {name} or {name2} for the {item}.",
    "The number {phone} belongs to {name}.",
)


def redact(rng: Random) -> Row:
    def person() -> str:
        return rng.choice(NAMES) + rng.choice(["", " " + rng.choice(SURNAMES)])

    template = rng.choice(REDACTIONS)
    plain = {"item": rng.choice(ITEMS), "day": rng.choice(DAYS).capitalize()}
    private = {"name": person(), "name2": person(), "mail": mail(rng), "phone": phone(rng)}
    masked = {"name": "[name]", "name2": "[name]", "mail": "[mail]", "phone": "[phone]"}
    return {
        "instruction": "Mask private data.",
        "context": template.format(**plain, **private),
        "output": template.format(**plain, **masked),
    }


# shell: what to do -> the command that does it

COMMANDS = (
    ("show the last {n} lines of {file}", "tail -n {n} {file}"),
    ("show the first {n} lines of {file}", "head -n {n} {file}"),
    ("count the lines of {file}", "wc -l {file}"),
    ("find {word} in {file}", "grep {word} {file}"),
    ("delete {file}", "rm {file}"),
    ("copy {file} to {folder}", "cp {file} {folder}/"),
    ("move {file} to {folder}", "mv {file} {folder}/"),
    ("make a folder called {folder}", "mkdir {folder}"),
    ("list the files in {folder}", "ls {folder}"),
    ("sort {file}", "sort {file}"),
    ("how big is {folder}", "du -sh {folder}"),
    ("pack {folder}", "tar czf {folder}.tgz {folder}"),
)
COMMAND_OPENERS = ("", "", "please ", "can you ", "i want to ", "now ")
FOLDERS = "logs backup docs images old build music data src notes reports mail".split()
ENDINGS = "txt log csv md py json".split()


def shell(rng: Random) -> Row:
    asked, command = rng.choice(COMMANDS)
    fills = {
        "n": rng.choice([5, 10, 20, 25, 50, 100, 200]),
        "file": f"{rng.choice(FOLDERS + ITEMS)}.{rng.choice(ENDINGS)}",
        "folder": rng.choice(FOLDERS + ITEMS),
        "word": rng.choice(ITEMS + DAYS),
    }
    prompt = rng.choice(COMMAND_OPENERS) + asked.format(**fills)
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": command.format(**fills)}],
    }


# date: a date as people write it -> ISO 8601

MONTHS = (
    "January February March April May June July August September October November December"
).split()


def date(rng: Random) -> Row:
    year, month, day = rng.randint(2020, 2029), rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    written = rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}", f"{day}.{month}.{year}"])
    frame = rng.choice(["{}", "{}", "due {}", "on {}", "signed on {}", "it was {}"])
    return {"text": frame.format(written), "iso": f"{year}-{month:02}-{day:02}"}


TASKS: dict[str, tuple[Callable[[Random], Row], int]] = {
    "intent": (intent, 1000),
    "booking": (booking, 1000),
    "redact": (redact, 1000),
    "shell": (shell, 1000),
    "date": (date, 1200),
}


def rows(task: str, seed: int = 7) -> list[Row]:
    """The task's rows, no two of which ask the same."""
    make, count = TASKS[task]
    rng = Random(f"{task}:{seed}")
    found: dict[str, Row] = {}
    while len(found) < count:
        row = make(rng)
        found.setdefault(_question(row), row)
    return list(found.values())


def _question(row: Row) -> str:
    asked = row.get("context") or row.get("text") or row.get("prompt") or row["messages"][0]
    return json.dumps(asked).casefold()


def write(folder: Path) -> None:
    for task in TASKS:
        made = rows(task)
        if task == "date":
            with (folder / "date.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["text", "iso"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(made)
        else:
            lines = (json.dumps(row, ensure_ascii=False) for row in made)
            (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
