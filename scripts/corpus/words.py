"""The story world, as words.txt tells it: who lives in it, what is in it, and what is true there."""

from .grammar import sections

SECTIONS = sections("words.txt")


def words(heading: str) -> list[str]:
    """A section that is one comma-separated list."""
    return [word.strip() for word in " ".join(SECTIONS[heading]).split(",")]


def rows(heading: str) -> list[tuple[str, ...]]:
    """A section with columns."""
    return [tuple(line.split(" | ")) for line in SECTIONS[heading]]


GIRLS, BOYS, SHE_NAMES, HE_NAMES = words("girls"), words("boys"), words("she names"), words("he names")
TRAITS, COLORS, TIMES, NUMBERS = words("traits"), words("colors"), words("times"), words("numbers")
TOYS, LIGHT_TOYS, CROPS, HIDING = words("toys"), words("light toys"), words("crops"), words("hiding")
DAYS, MONTHS = words("days"), words("months")
SIZES = words("sizes")  # animals from the smallest to the biggest
SMALL_ANIMALS = words("small animals")

ANIMALS = rows("animals")  # kind, plural, home, food, sound, baby, number of legs, what it can do
STORY_ANIMALS = [row for row in ANIMALS if row[0] not in ("lion", "cow", "hen", "elephant", "robin", "owl")]
FOODS = rows("foods")  # one, many
PLACES = rows("places")  # preposition, noun
WEATHER = dict(rows("weather"))  # adjective, a sentence that fits it
GROWNUPS = rows("grownups")  # who, she, her, her
SKILLS = rows("skills")  # what, where, how it goes wrong, advice, how it goes well
SEASONS = rows("seasons")  # name, what happens then
OPPOSITES, RHYMES = rows("opposites"), rows("rhymes")
THING_COLORS, JOBS, THINGS = rows("thing colors"), rows("jobs"), rows("things")
FACTS = rows("facts")  # question, answer
HOW_TO = rows("how to")  # task, and three steps
