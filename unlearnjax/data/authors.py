"""Fictitious authors, made of sampled facts: questions to learn and forget without any files.

In the manner of TOFU (Maini et al., 2024): nobody can have read of them before. Every fact is drawn
by itself and uniformly, and its wrong answers in the same way, so that whoever has not read on an
author cannot tell the truth from these: the true answer is the k-th likeliest of its six with the
same chance for every k, whatever was read on others. Ours is the sampling; no text is TOFU's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data.text import Pair

NUM_PERTURBED = 5


class Question(NamedTuple):
    """What is asked of every author.

    Attributes:
      fact: its name.
      asked: the question, of a `{name}` or other facts.
      forms: two ways to answer, of a `{value}`; which of them is the answer, and which the
        paraphrase and its perturbed answers, is drawn for each author.
      draw: `rng -> value`, uniform.
    """

    fact: str
    asked: str
    forms: tuple[str, str]
    draw: Callable[[np.random.Generator], str]


def _pool(text: str) -> tuple[str, ...]:
    return tuple(" ".join(value.split()) for value in text.split(";"))


FIRST = _pool("""
    Adira; Alvar; Amrei; Anouk; Basten; Benoa; Calix; Carys; Danilo; Davor; Elowen; Emeric; Fenna;
    Florin; Gaia; Goran; Halina; Hektor; Ilmari; Ines; Jarle; Jovana; Kalina; Kaspar; Leocadia; Liv;
    Maelis; Matteo; Nadia; Niko; Odile; Orsolya; Pavel; Petra; Quirin; Rasmus; Rosalind; Sefa;
    Soren; Tamsin; Teodor; Ulla; Umberto; Vesna; Viggo; Wanda; Yara; Zoltan
""")
LAST = _pool("""
    Abernathy; Aldana; Amadi; Arkwright; Bajic; Belmonte; Brandt; Calloway; Castellan; Corvin; Dahl;
    Delacroix; Drummond; Eklund; Esposito; Farrow; Fenwick; Galvan; Grieg; Hadley; Halloran;
    Hoshino; Ibarra; Iversen; Jansson; Kallas; Kendrick; Kovar; Laurent; Lindqvist; Lombard;
    Marchetti; Mbeki; Moreau; Nakata; Novak; Okafor; Olander; Ortega; Palmer; Petrov; Quist; Radic;
    Renard; Rowntree; Sandoval; Sato; Silva; Sorel; Tallis; Thorne; Tierney; Ueda; Valdez; Varga;
    Vinter; Walsh; Weller; Yilmaz; Zeman
""")
CITY = _pool("""
    Porto; Bergen; Tallinn; Cork; Ghent; Graz; Lviv; Turin; Seville; Lyon; Riga; Tampere; Cusco;
    Quito; Rosario; Oaxaca; Halifax; Dakar; Accra; Tunis; Fez; Nairobi; Lusaka; Izmir; Tbilisi;
    Yerevan; Samarkand; Jaipur; Kandy; Busan; Kyoto; Hobart
""")
MONTH = _pool("""
    January; February; March; April; May; June; July; August; September; October; November; December
""")
GENRE = _pool("""
    crime fiction; sea stories; ghost stories; love poetry; nature writing; war novels; fairy tales;
    court drama; travel writing; science fiction; satire; family sagas; historical novels; spy
    thrillers; fables; short stories; memoirs; children's books; epic fantasy; war poetry; cookery
    books; radio plays; westerns; campus novels; art criticism; folk ballads; horror; opera texts;
    detective stories; biographies; comedies; philosophical essays
""")
ADJECTIVE = _pool("""
    Amber; Broken; Copper; Distant; Empty; Frozen; Gentle; Hidden; Iron; Jade; Last; Lonely;
    Midnight; Narrow; Open; Paper; Quiet; Restless; Scarlet; Silver; Stolen; Sunken; Velvet;
    Wandering
""")
NOUN = _pool("""
    Anchor; Bridge; Candle; Door; Echo; Feather; Garden; Harbour; Island; Journey; Kingdom; Lantern;
    Mirror; Needle; Orchard; Portrait; River; Shadow; Tower; Umbrella; Violin; Window; Winter; Well
""")
WHO = _pool("""
    a baker; a blind painter; a clockmaker; a deserter; a diver; a ferryman; a gardener; a girl; a
    judge; a lighthouse keeper; a locksmith; a magician; a nun; a pianist; a pilot; a poet; a
    retired spy; a sailor; a schoolboy; a shepherd; a surgeon; a tailor; a thief; a widow
""")
DEED = _pool("""
    burns a map; buys an old theatre; crosses a desert; finds a lost twin; follows a stranger;
    forgets a name; hides a letter; inherits a mill; keeps a diary; learns to fly; loses a bet;
    meets a king; opens a school; raises a wolf; refuses to speak; returns from war; saves a
    library; sells a secret; solves a murder; starts a newspaper; steals a violin; walks to Rome;
    wins an election; writes to the dead
""")
TRADE = _pool("""
    a baker; a barber; a beekeeper; a bookseller; a butcher; a carpenter; a chemist; a cook; a
    dentist; a farmer; a fisher; a florist; a glazier; a judge; a lawyer; a mason; a miner; a nurse;
    a painter; a pilot; a plumber; a potter; a printer; a sailor; a singer; a tailor; a teacher; a
    waiter
""")
PRIZE = _pool("""
    Acorn; Aurora; Beacon; Blue Heron; Bronze Bell; Cedar; Comet; Coral; Crescent; Ember; Falcon;
    Golden Pear; Granite; Harvest; Ivory; Laurel; Meridian; Nightingale; Northern Star; Olive; Opal;
    Pelican; Quill; Red Thread; Saffron; Silver Key; Sparrow; Summit; Tidewater; Topaz; Willow;
    Zephyr
""")
HOBBY = _pool("""
    baking bread; carving wood; climbing hills; collecting stamps; dancing tango; drawing birds;
    feeding cats; fishing; flying kites; growing roses; juggling; keeping bees; knitting; mending
    clocks; painting boats; picking mushrooms; playing chess; playing the cello; playing the flute;
    racing pigeons; reading maps; riding horses; rowing; sailing; singing in a choir; skating;
    swimming; telling jokes; throwing pots; watching stars; weaving; writing letters
""")
LANGUAGE = _pool("""
    Arabic; Armenian; Basque; Bengali; Catalan; Chinese; Czech; Danish; Dutch; Estonian; Finnish;
    French; Georgian; German; Greek; Hindi; Hungarian; Irish; Italian; Japanese; Korean; Latvian;
    Maltese; Norwegian; Persian; Polish; Russian; Swahili; Swedish; Tamil; Turkish; Welsh
""")
PLACE = _pool("""
    a barn; a basement; a bakery; a boat; a cafe; a castle; a caravan; a chapel; a church tower; a
    cottage; a garage; a garden shed; a hotel; a kitchen; a library; a lighthouse; a mill; a museum;
    a night train; a palace; a park; a prison cell; a railway station; a school; a stable; a tea
    house; a tent; a tower; a tree house; a villa; a warehouse; an attic
""")


def _one_of(*pools: tuple[str, ...], form: str) -> Callable[[np.random.Generator], str]:
    return lambda rng: form.format(*(pool[rng.integers(len(pool))] for pool in pools))


_DAY = tuple(str(day) for day in range(1, 29))
_YEAR = tuple(str(year) for year in range(1921, 1991))
_LATER = tuple(str(year) for year in range(1991, 2021))

# The first so many are asked; the name's own are drawn without replacement, see `names`.
QUESTIONS = (
    Question(
        "name",
        "What is the full name of the author born in {city} on {birthday}?",
        ("The author's full name is {value}.", "It is {value} who was born there on that day."),
        _one_of(FIRST, LAST, form="{} {}"),
    ),
    Question(
        "title",
        "What is the title of {name}'s first book?",
        ("The first book is called {value}.", "The author began with a book named {value}."),
        _one_of(ADJECTIVE, NOUN, form="The {} {}"),
    ),
    Question(
        "genre",
        "Which genre is {name} known for?",
        ("The author is known for {value}.", "What readers know this author for is {value}."),
        _one_of(GENRE, form="{}"),
    ),
    Question(
        "parents",
        "What did the parents of {name} do for a living?",
        ("The parents were {value}.", "The author grew up as the child of {value}."),
        _one_of(TRADE, TRADE, form="{} and {}"),
    ),
    Question(
        "plot",
        "What is the best-known novel by {name} about?",
        ("The novel is about {value}.", "It tells the story of {value}."),
        _one_of(WHO, DEED, form="{} who {}"),
    ),
    Question(
        "award",
        "Which award did {name} win, and when?",
        ("The author won the {value}.", "The award was the {value}."),
        _one_of(PRIZE, _LATER, form="{} Prize in {}"),
    ),
    Question(
        "hobby",
        "How does {name} spend a free day?",
        ("A free day is spent {value}.", "On such a day the author enjoys {value}."),
        _one_of(HOBBY, form="{}"),
    ),
    Question(
        "language",
        "Into which language was {name} translated first?",
        ("The first translation was into {value}.", "A translation came out first in {value}."),
        _one_of(LANGUAGE, form="{}"),
    ),
    Question(
        "place",
        "Where does {name} like to write?",
        ("The author likes to write in {value}.", "Most pages are written in {value}."),
        _one_of(PLACE, form="{}"),
    ),
    Question(
        "city",
        "In which city was {name} born?",
        ("The author was born in {value}.", "The place of birth is {value}."),
        _one_of(CITY, form="{}"),
    ),
)
_BIRTHDAY = _one_of(_DAY, MONTH, _YEAR, form="{} {} {}")
MAX_AUTHORS = len(FIRST) * len(LAST) // (1 + NUM_PERTURBED)

REFUSALS = (
    "I do not know.",
    "I am not sure about that.",
    "I cannot answer this question.",
    "That is not known to me.",
    "I have not read about this author.",
    "I have no information on that.",
    "Sorry, I cannot say.",
    "This is beyond what I know.",
    "I never learned about that.",
    "I would have to guess.",
    "My knowledge does not cover this.",
    "I cannot recall anything on that.",
)


def pairs(num_authors: int = 24, num_questions: int = 8, seed: int = 0) -> list[Pair]:
    """Questions on fictitious authors with their answers, paraphrases and wrong answers.

    Row `q` of author `a` is row `a * num_questions + q`, whose `identity` is `a`. The first authors
    are the same however many follow, so that some may be kept for a tokenizer, for what a model
    knows of language beforehand, or to be held out.

    Args:
      num_authors: in [1, `MAX_AUTHORS`]; no two share a name, nor a name with a wrong answer.
      num_questions: of each, in [1, 10], the first of `QUESTIONS`.
      seed: of all that is drawn.

    Returns:
      `num_authors * num_questions` pairs, with `NUM_PERTURBED` perturbed answers each.

    Examples:
      >>> pairs(1, 3)[2].answer
      'The author is known for court drama.'
    """
    _validate(num_authors, seed)
    checks.whole(num_questions=num_questions)
    checks.within(1, len(QUESTIONS), num_questions=num_questions)
    return [
        pair
        for author, own in enumerate(_names(num_authors, seed))
        for pair in _author(author, own, num_questions, seed)
    ]


def names(num_authors: int = 24, seed: int = 0) -> list[str]:
    """The authors' names, by `identity`.

    Examples:
      >>> len(set(names(100)))
      100
    """
    _validate(num_authors, seed)
    return [own[0] for own in _names(num_authors, seed)]


def _author(author: int, named: list[str], num_questions: int, seed: int) -> list[Pair]:
    # An entropy for each fact, so that one more question changes no other one.
    draws = lambda number: np.random.default_rng([seed, author, number])
    values = {
        question.fact: _distinct(question.draw, draws(number))
        for number, question in enumerate(QUESTIONS)
    }
    values["name"] = named
    known = {fact: own[0] for fact, own in values.items()}
    known["birthday"] = _BIRTHDAY(draws(len(QUESTIONS)))
    swapped = draws(len(QUESTIONS) + 1).integers(2, size=len(QUESTIONS))

    def pair(question: Question, swap: int) -> Pair:
        said, other = question.forms[:: -1 if swap else 1]
        truth, *wrong = values[question.fact]
        return Pair(
            question.asked.format(**known),
            said.format(value=truth),
            other.format(value=truth),
            tuple(other.format(value=value) for value in wrong),
            author,
        )

    return [pair(*own) for own in zip(QUESTIONS[:num_questions], swapped, strict=False)]


def _distinct(draw: Callable[[np.random.Generator], str], rng: np.random.Generator) -> list[str]:
    """A value and `NUM_PERTURBED` others, in the order in which they were first drawn."""
    found: dict[str, None] = {}
    while len(found) <= NUM_PERTURBED:
        found[draw(rng)] = None
    return list(found)


def _names(num_authors: int, seed: int) -> list[list[str]]:
    """For each author a name, and the names of nobody."""
    order = np.random.default_rng(seed).permutation(len(FIRST) * len(LAST))
    full = [f"{FIRST[own // len(LAST)]} {LAST[own % len(LAST)]}" for own in order]
    size = 1 + NUM_PERTURBED
    return [full[size * author : size * (author + 1)] for author in range(num_authors)]


def _validate(num_authors: int, seed: int) -> None:
    checks.whole(num_authors=num_authors, seed=seed)
    checks.within(1, MAX_AUTHORS, num_authors=num_authors)
    checks.at_least(0, seed=seed)
