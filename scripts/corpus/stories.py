"""Stories: a scene is cast, an opening, a plot and a closing are chosen and written over it.

The plots stand in plots.txt and short_plots.txt: a heading with the topic (and the weathers that suit it), then one
template per paragraph. Their slots: h the hero, f the friend, g a grown-up ("aunt"; ghe, ghis), p and q two places,
toy, light (a toy that the wind can carry), color, food and foods, crop, hiding, weather and sky (one sentence that fits
it), time, elder (man or woman), kind2 a small animal, and the skill with its steps.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from . import words
from .grammar import Character, Place, sections, write

PLOTS = sections("plots.txt")
SHORT_PLOTS = sections("short_plots.txt")
OPENINGS = (
    "Once upon a time, there was {h.intro}. [{h.He} lived in a {h.home} near {p}.|{h.He} loved to play {p.at}.|]",
    "Once upon a time, {h.intro} lived in a {h.home} [near {p}|with {h.his} family]. [Everybody there knew {h.him}.|]",
    "One {weather} {time}, {h.intro} went to {p}. {sky}",
    "It was a {weather} {time}. {sky} {h.intro} was [on the way to {p}|sitting {p.at}|looking out at {p}].",
    "There once was {h.intro}. [Every day, {h.he} walked to {p}.|{h.He} liked {foods} more than anything else.]",
    "Long ago, {h.intro} lived in a {h.home}. [Nearby was {p}, and {h.he} went there every day.|{sky}]",
    "This is a story about {h.intro}. [{h.He} lived near {p}.|{h.He} was {h.a} who liked {foods} and long walks.]",
)
CLOSINGS = (
    "",
    "",
    "That night, {h} slept well and dreamed of {p}.",
    "And so the day ended, and everybody was [happy|content|glad].",
    "It was a day that {h} never forgot.",
    "{h} smiled for the rest of the day.",
)
CLOSINGS_WITH_FRIEND = (
    "From that day on, {h} and {f} were the best of friends.",
    "And if you walk past {p} today, you may still hear {h} and {f} laugh.",
)


@dataclass(frozen=True)
class Story:
    """A story, and what can be asked about it."""

    hero: Character
    friend: Character | None
    topic: str
    paragraphs: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.paragraphs)


def tell(
    rng: random.Random,
    *,
    hero: Character | None = None,
    friend: Character | None = None,
    opening: str | None = None,
    short: bool = False,
) -> Story:
    """Invent a story; with this hero, this friend and these first words where they are given."""
    hero = hero or character(rng)
    friend = friend or character(rng)
    while friend.name == hero.name or friend.kind == hero.kind:
        friend = character(rng)
    heading, plot = rng.choice(list((SHORT_PLOTS if short else PLOTS).items()))
    topic, _, weathers = heading.partition(" | ")
    slots = scene(rng, hero, friend, rng.choice(weathers.split() or list(words.WEATHER)))
    has_friend = any("{f" in paragraph for paragraph in plot)
    closing = "" if short else rng.choice(CLOSINGS + CLOSINGS_WITH_FRIEND * has_friend)
    templates = [f"{opening or rng.choice(OPENINGS)} {plot[0]}", *plot[1:]]
    templates[-1] += f" {closing}"
    return Story(
        hero=hero,
        friend=friend if has_friend else None,
        topic=write(topic, slots, rng, sentence=False),
        paragraphs=tuple(write(template, slots, rng) for template in templates),
    )


def introduction(rng: random.Random) -> str:
    """Somebody says hello to the world."""
    hero = character(rng, child=0.2)
    template = (
        "Hello, world! [My name is {h}.|I am {h}.] I am a {h.trait} {h.kind}, and I live in a {h.home} near {p}. "
        "[I like {foods}.|I love {foods} and {weather} days.|My favorite color is {color}.] "
        "[Every {time}, I go to {q}.|Today I found a {color} {toy} {hiding}.|My best friend is {f.full}.] "
        "[I want to learn to {skill}.|When I grow up, I want to be a {job}.|I am not big, but I am brave.] "
        "[It is good to meet you!|What is your name?|Will you be my friend?|Come and visit me soon!]"
    )
    friend = character(rng, child=0.2)
    slots = scene(rng, hero, friend, rng.choice(list(words.WEATHER)))
    return write(template, slots | {"job": rng.choice(words.JOBS)[0]}, rng)


def quick_fox(rng: random.Random) -> Story:
    """A story for the sentence that holds every letter."""
    fox, dog = character(rng, kind="fox"), character(rng, kind="dog")
    while dog.name == fox.name:
        dog = character(rng, kind="dog")
    opening = (
        "The quick brown fox [jumps|jumped] over the lazy dog. [The fox's name was {h}, and the dog's name was {f}.|"
        "The fox was called {h}. The dog was called {f}.] [They lived {p.at}.|They were good friends.]"
    )
    return tell(rng, hero=fox, friend=dog, opening=opening, short=rng.random() < 0.5)


def character(rng: random.Random, child: float = 0.4, kind: str | None = None) -> Character:
    """Somebody new: an animal of this kind; or else a child with probability `child`, or any animal."""
    he = rng.choice(("he", "she"))
    trait = rng.choice(words.TRAITS)
    if kind is None and rng.random() < child:
        home = rng.choice(("small house", "white house", "red house", "tall house"))
        names, kind = (words.BOYS, "boy") if he == "he" else (words.GIRLS, "girl")
        return Character(rng.choice(names), kind, trait, he, home)
    animal = rng.choice([animal for animal in words.STORY_ANIMALS if kind in (None, animal[0])])
    return Character(rng.choice(words.HE_NAMES if he == "he" else words.SHE_NAMES), animal[0], trait, he, animal[2])


def scene(rng: random.Random, hero: Character, friend: Character, weather: str) -> Mapping[str, object]:
    """Values for all slots, chosen so that they do not contradict each other."""
    p, q = (Place(*place) for place in rng.sample([p for p in words.PLACES if p[1] not in hero.home], 2))
    food, foods = rng.choice(words.FOODS)
    ability = next((animal[7] for animal in words.ANIMALS if animal[0] == hero.kind), "")
    skill = rng.choice([skill for skill in words.SKILLS if skill[0] not in ability])
    return {
        "h": hero, "f": friend, "p": p, "q": q, "weather": weather, "sky": words.WEATHER[weather],
        **dict(zip(("g", "ghe", "ghim", "ghis"), rng.choice(words.GROWNUPS), strict=True)),
        "toy": rng.choice(words.TOYS), "light": rng.choice(words.LIGHT_TOYS), "color": rng.choice(words.COLORS),
        "food": food, "foods": foods, "crop": rng.choice(words.CROPS), "hiding": rng.choice(words.HIDING),
        "time": rng.choice(words.TIMES), "elder": rng.choice(("woman", "man")),
        "kind2": rng.choice([kind for kind in words.SMALL_ANIMALS if kind not in (hero.kind, friend.kind)]),
        **dict(zip(("skill", "skill_at", "skill_fail", "skill_advice", "skill_done"), skill, strict=True)),
    }  # fmt: skip
