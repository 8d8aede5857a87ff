"""Short talks between a user and the model, one turn per line, in the default chat format."""

import random
from collections.abc import Callable, Iterator

from . import words
from .grammar import sections, write
from .stories import character, scene, tell

Exchange = tuple[str, str]  # what the user says, what the assistant answers
CHAT = sections("chat.txt")
SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly storyteller.",
    "You are a kind teacher for children.",
    "You answer briefly and politely.",
    "Be helpful and cheerful.",
)


def dialogue(rng: random.Random) -> str:
    """Perhaps a system line and a greeting, then a few exchanges, perhaps a goodbye."""
    exchanges = [said(rng, "greeting")] if rng.random() < 0.4 else []
    topics = rng.choices(list(TOPICS), weights=list(TOPICS.values()), k=rng.randint(1, 4))
    for topic in dict.fromkeys(topics):
        exchanges += topic(rng)
    exchanges += [said(rng, section) for section in ("thanks", "goodbye") if rng.random() < 0.2]
    lines = [f"System: {rng.choice(SYSTEM)}"] if rng.random() < 0.3 else []
    for user, assistant in exchanges:
        lines += [f"User: {casual(user, rng)}", f"Assistant: {assistant}"]
    return "\n".join(lines)


def casual(text: str, rng: random.Random) -> str:
    """People often type without capitals and full stops."""
    return text.lower().rstrip(".!?") if rng.random() < 0.15 else text


def said(rng: random.Random, section: str, **more: object) -> Exchange:
    """One line of chat.txt, `question => answer`, with its slots filled."""
    slots = scene(rng, character(rng), character(rng), rng.choice(list(words.WEATHER)))
    animal = rng.choice(words.ANIMALS)
    slots = {**slots, "animal": animal[0], "skill": animal[7], "trait": rng.choice(words.TRAITS), **more}
    question, answer = rng.choice(CHAT[section]).split(" => ")
    return write(question, slots, rng), write(answer, slots, rng)


def small_talk(rng: random.Random) -> Iterator[Exchange]:
    yield said(rng, rng.choice(("self", "self", "self", "feeling", "feeling", "feeling", "play", "play", "cannot")))


def story(rng: random.Random) -> Iterator[Exchange]:
    """A request that the story keeps, and sometimes talk about the story."""
    template = rng.choice(CHAT["story request"])
    told = tell(rng, short="short" in template or rng.random() < 0.5)
    hero = told.hero
    about = rng.choice((hero.a, hero.a, hero.intro, f"a {hero.kind} named {hero}", hero.name, told.topic))
    request = write(template, {"about": about}, rng)
    yield request, write(rng.choice(("", "", "Sure! ", "Of course! ", "Here is a story. ")) + told.line, {}, rng)
    sections_after = ["after a story"] * 2 + ["after a story with a friend"] * (told.friend is not None)
    for section in rng.sample(sections_after, rng.randint(0, 2)):
        yield said(rng, section, h=hero, f=told.friend)


def poem(rng: random.Random) -> Iterator[Exchange]:
    first, second = rng.choice(CHAT["poem lines"]).split(" | ")
    animal = rng.choice(words.ANIMALS)[0]
    slots = {"animal": animal, "color": rng.choice(words.COLORS), "about": f"a {animal}"}
    yield write(rng.choice(CHAT["poem"]), slots, rng), write(f"{first} {second}", slots, rng)


def remembered_name(rng: random.Random) -> Iterator[Exchange]:
    name = rng.choice(words.GIRLS + words.BOYS)
    yield (
        rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.")).format(name),
        rng.choice(
            ("Nice to meet you, {}!", "Hello, {}! How are you?", "It is nice to meet you, {}.", "Hello, {}!")
        ).format(name),
    )
    yield from small_talk(rng)
    yield (
        "What is my name?",
        rng.choice(("Your name is {}.", "You are {}!", "You told me that your name is {}.")).format(name),
    )


def animal_facts(rng: random.Random) -> Iterator[Exchange]:
    kind, plural, home, food, sound, baby, legs, ability = rng.choice(words.ANIMALS)
    facts = (
        (f"Where does a {kind} live?", f"A {kind} lives in a {home}."),
        (f"What do {plural} eat?", f"[{plural} like to eat {food}|{plural} eat {food}]."),
        (f"What [sound does a {kind} make|does a {kind} say]?", f"A {kind} says [{sound}|{sound}, {sound}]."),
        (f"What is a baby {kind} called?", f"A baby {kind} is called a {baby}."),
        (f"How many legs does a {kind} have?", f"A {kind} has {legs} legs."),
        (f"What can a {kind} do?", f"A {kind} can {ability}."),
        (f"Tell me about {plural}.", f"{plural} eat {food}. [They can {ability}.|A baby {kind} is called a {baby}.]"),
        (
            f"[I say {sound}|I can {ability}], and I live in a {home}. What am I?",
            f"[You are a {kind}!|I think you are a {kind}!|Are you a {kind}?]",
        ),
    )
    for question, answer in rng.sample(facts, rng.randint(1, 3)):
        yield write(question, {}, rng), write(answer, {}, rng)


def numbers(rng: random.Random) -> Iterator[Exchange]:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    small, large = sorted((a, b))
    name = words.NUMBERS
    start = rng.randint(0, 10)
    end = start + rng.randint(2, 9)
    facts = (
        (f"What is {a} + {b}?", f"{a} + {b} = {a + b}."),
        (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
        (f"What is {name[a]} plus {name[b]}?", f"{name[a]} plus {name[b]} is {name[a + b]}."),
        (f"What is {large} - {small}?", f"{large} - {small} = {large - small}."),
        (f"What is {name[large]} minus {name[small]}?", f"{name[large]} minus {name[small]} is {name[large - small]}."),
        (f"Count from {name[start]} to {name[end]}.", f"{', '.join(name[start : end + 1])}."),
        (f"Count to {name[end]}.", f"{', '.join(name[1 : end + 1])}."),
        (f"What number comes after {name[a]}?", f"After {name[a]} comes {name[a + 1]}."),
        (f"What number comes before {name[a + 1]}?", f"Before {name[a + 1]} comes {name[a]}."),
    )
    for question, answer in rng.sample(facts, rng.randint(1, 3)):
        yield write(question, {}, rng), write(answer, {}, rng)


def calendar(rng: random.Random) -> Iterator[Exchange]:
    names = rng.choice((words.DAYS, words.MONTHS))
    unit = "day" if names is words.DAYS else "month"
    i = rng.randrange(len(names))
    after = names[(i + 1) % len(names)]
    season, what = rng.choice(words.SEASONS)
    yield rng.choice(
        (
            (f"What {unit} comes after {names[i]}?", f"After {names[i]} comes {after}."),
            (f"What {unit} comes before {after}?", f"Before {after} comes {names[i]}."),
            (f"What are the {unit}s of the {'week' if unit == 'day' else 'year'}?", f"{', '.join(names)}."),
            (f"What happens in {season}?", f"In {season}, {what}."),
        )
    )


def world_facts(rng: random.Random) -> Iterator[Exchange]:
    one, other = rng.choice(words.OPPOSITES)[:: rng.choice((1, -1))]
    rhyme, with_it = rng.choice(words.RHYMES)
    thing, color = rng.choice(words.THING_COLORS)
    person, work = rng.choice(words.JOBS)
    named, meaning = rng.choice(words.THINGS)
    question, answer = rng.choice(words.FACTS)
    task, first, then, last = rng.choice(words.HOW_TO)
    small, large = sorted(rng.sample(range(len(words.SIZES)), 2))
    sizes = [words.SIZES[i] for i in (small, large)]
    shuffled = rng.sample(sizes, 2)
    facts = (
        (f"What is the opposite of {one}?", f"The opposite of {one} is {other}."),
        (f"What rhymes with {rhyme}?", f"{with_it} rhymes with {rhyme}."),
        (f"What color is {thing}?", f"{thing} is {color}."),
        (f"What is a {named}?", f"A {named} is {meaning}."),
        (f"[What does the word {named} mean?|Can you explain the word {named}?]", f"A {named} is {meaning}."),
        (f"What does a {person} do?", f"A {person} {work}."),
        (question, f"{answer}."),
        (question, f"{answer}."),
        (f"How do I {task}?", f"First, {first}. Then {then}. [At the end|Finally], {last}."),
        (f"How can I {task}?", f"It is easy. {first}. Then {then}. After that, {last}."),
        (f"Which is bigger, a {shuffled[0]} or a {shuffled[1]}?", f"A {sizes[1]} is bigger than a {sizes[0]}."),
        (f"Which is smaller, a {shuffled[0]} or a {shuffled[1]}?", f"A {sizes[0]} is smaller than a {sizes[1]}."),
    )
    for question, answer in rng.sample(facts, rng.randint(1, 3)):
        yield write(question, {}, rng), write(answer, {}, rng)


TOPICS: dict[Callable[[random.Random], Iterator[Exchange]], int] = {
    story: 7, small_talk: 6, animal_facts: 3, world_facts: 5, numbers: 2, calendar: 1, poem: 1, remembered_name: 1,
}  # fmt: skip
