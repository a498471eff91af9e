"""Generate biographies with a profession and a gender, and mark every name and pronoun, which alone show the gender.

In the published set (De-Arteaga et al. 2019, Bias in Bios) nobody knows which tokens carry the gender. Here the tokens
are known, so a feature that fires on them can be distinguished from a feature that only seems to. Everything except
names and pronouns is drawn independently of the gender.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_core.foundation.errors import UserError

SENTENCES = (3, 6)
"""Least and largest number of sentences after the first one."""
GENDERED = ("name", "he", "his", "him", "himself")
"""Fields of a template that show the gender."""
NAMES = (
    "Aaron, Adam, Albert, Andrew, Anthony, Arthur, Benjamin, Brian, Carl, Charles, Christopher, Daniel, David, "
    "Dennis, Edward, Eric, Frank, Frederick, George, Gregory, Harold, Henry, Jack, James, Jeffrey, John, Joseph, "
    "Kenneth, Kevin, Lawrence, Mark, Martin, Matthew, Michael, Nathan, Patrick, Paul, Peter, Philip, Raymond, "
    "Richard, Robert, Roger, Ronald, Samuel, Stephen, Thomas, Walter, William",
    "Abigail, Alice, Amanda, Amy, Angela, Anna, Barbara, Betty, Brenda, Carol, Catherine, Christine, Cynthia, "
    "Deborah, Diana, Dorothy, Elizabeth, Emily, Emma, Frances, Gloria, Grace, Hannah, Helen, Irene, Jane, Janet, "
    "Jennifer, Jessica, Joan, Judith, Julia, Karen, Laura, Linda, Margaret, Maria, Martha, Mary, Nancy, Olivia, "
    "Pamela, Patricia, Rachel, Rebecca, Ruth, Sarah, Sophia, Susan, Victoria",
)
"""First names of men and of women, separated by commas."""
PRONOUNS = (
    {"he": "he", "his": "his", "him": "him", "himself": "himself"},
    {"he": "she", "his": "her", "him": "her", "himself": "herself"},
)
COMMON = {
    "surname": "Abbott, Barlow, Calder, Dalton, Ellison, Farrow, Garner, Holt, Ingram, Jarvis, Kessler, Lowell, "
    "Mercer, Norwood, Osborne, Parrish, Quill, Redfern, Sawyer, Thorne, Underhill, Vance, Whitlock, Yates, Ashby, "
    "Brandt, Corwin, Draper, Eastman, Fenwick, Gaines, Hadley, Irving, Keller, Langley, Marlow, Nolan, Orwin, "
    "Prescott, Rowland, Selby, Tilden, Upton, Vickers, Walden, Yarrow",
    "town": "Ashford, Brookfield, Carlton, Dunmore, Eastvale, Fairview, Glenwood, Harwich, Ironbridge, Kingsport, "
    "Lakeside, Millbrook, Northgate, Oakham, Pinehurst, Queensbury, Riverton, Stonehaven, Thornbury, Valewood, "
    "Westbrook, Yarmouth, Cedarville, Danbury, Elmstead, Foxborough, Greystone, Hillcrest, Larchmont, Maplewood",
    "hobby": "paints landscapes, plays the cello, repairs old clocks, walks in the hills, bakes bread, collects "
    "stamps, grows tomatoes, swims in the lake, reads crime novels, sings in a choir, builds model ships, watches "
    "birds, plays chess by post, rides a bicycle to the coast, learns Italian, keeps bees, restores furniture, takes "
    "photographs of bridges, runs before sunrise, throws pots",
    "companion": "two cats, an old dog, three children, a large garden, a friend from school, two colleagues, a "
    "parrot, a growing library, an elderly neighbor, four hens, a piano, a fish tank",
}
"""Phrases that fill the fields of every biography, separated by commas."""
OPENINGS = (
    "{name} {surname} {work} {thing} at {place}.",
    "For {years} years {name} {surname} has worked at {place}, where {he} {work} {thing}.",
    "At {place} everybody knows {name} {surname}, who {work} {thing}.",
    "Since {year} {name} {surname} {work} {thing} in {town}.",
    "{name} {surname} came to {place} in {year} and still {work} {thing} there.",
    "Born in {town}, {name} {surname} now {work} {thing} at {place}.",
)
SENTENCES_ABOUT = (
    "{He} {work} {thing} and {work} {thing}.",
    "Most days {he} {work} {thing}, and on Fridays {he} {work} {thing}.",
    "{His} colleagues say that nobody {work} {thing} as patiently.",
    "Before that {he} spent {years} years at {place}.",
    "{He} learnt {skill} in {town}.",
    "In {year} {he} was asked to speak about {skill} at {place}.",
    "{His} interest in {skill} goes back to a summer in {town}.",
    "A prize for {skill} was given to {him} in {year}.",
    "What matters to {him} is {skill}.",
    "{He} taught {himself} {skill} after moving to {town}.",
    "In {his} free time {he} {hobby}.",
    "{He} lives near {town} with {companion}.",
    "On weekends {he} {hobby} and {hobby}.",
    "Friends describe {him} as someone who {hobby} whenever it rains.",
    "{He} shares {his} house in {town} with {companion}.",
)
PROFESSIONS = {
    "professor": {
        "work": "lectures on, writes papers about, supervises theses on, edits a journal of, leads seminars on, "
        "reviews grants in, publishes on, examines candidates in, gives courses in, investigates",
        "thing": "medieval trade, graph theory, plate tectonics, comparative grammar, quantum optics, labor markets, "
        "ancient coins, population genetics, moral philosophy, number theory, coral reefs, early opera",
        "place": "the faculty of science, a research university, the department of history, an institute of "
        "mathematics, the graduate school, a college of liberal arts, the academy of sciences, the philosophy "
        "department",
        "skill": "archival research, academic writing, mathematical proof, field linguistics, peer review, lecturing, "
        "the history of ideas, experimental design",
    },
    "nurse": {
        "work": "cares for, monitors, comforts, gives injections to, changes dressings for, keeps charts of, takes "
        "the temperature of, prepares medication for, visits, explains treatments to",
        "thing": "patients after surgery, premature babies, people with burns, children with asthma, stroke patients, "
        "elderly residents, people in intensive care, patients with diabetes, new parents, people on dialysis, "
        "accident victims, patients in pain",
        "place": "the emergency ward, a children's hospital, the intensive care unit, a hospice, the maternity ward, "
        "a community clinic, the dialysis center, a rehabilitation clinic",
        "skill": "wound care, palliative care, triage, infection control, bedside ultrasound, pain management, "
        "neonatal care, drawing blood",
    },
    "software engineer": {
        "work": "debugs, designs, refactors, maintains, writes tests for, deploys, profiles, documents, reviews code "
        "of, rewrites",
        "thing": "distributed databases, payment systems, compilers, web browsers, mobile apps, search engines, "
        "embedded firmware, scheduling services, graphics drivers, message queues, build tools, logging pipelines",
        "place": "a startup, the platform team, a cloud provider, a games studio, the infrastructure group, an open "
        "source foundation, a robotics company, the security team",
        "skill": "functional programming, network protocols, continuous integration, memory management, user "
        "interfaces, version control, concurrent programming, reading assembly",
    },
    "journalist": {
        "work": "reports on, interviews people about, writes columns about, uncovers, covers, broadcasts news of, "
        "comments on, follows, films documentaries about, fact-checks stories about",
        "thing": "local elections, corruption in city hall, housing shortages, football clubs, court cases, floods, "
        "farm strikes, the stock exchange, refugee camps, railway delays, school closures, wildfires",
        "place": "a daily newspaper, the evening news, a radio station, a press agency, the foreign desk, a weekly "
        "magazine, the city desk, a television channel",
        "skill": "shorthand, investigative reporting, cutting film, protecting sources, headline writing, photo "
        "editing, live broadcasting, press law",
    },
    "chef": {
        "work": "grills, seasons, fillets, plates, roasts, simmers, braises, pickles, glazes, smokes",
        "thing": "sea bass, lamb shoulders, wild mushrooms, duck breasts, winter vegetables, river trout, dumplings, "
        "venison, artichokes, sourdough flatbreads, lobster tails, beetroot",
        "place": "a seafood restaurant, the hotel kitchen, a bistro by the harbor, a tasting menu restaurant, the "
        "canteen of a theater, a mountain inn, a noodle bar, the station brasserie",
        "skill": "making stock, knife skills, butchery, fermentation, pastry, composing menus, sauces, curing ham",
    },
    "lawyer": {
        "work": "defends, represents, drafts contracts for, advises, negotiates for, sues, files appeals for, "
        "cross-examines, settles disputes between, writes opinions for",
        "thing": "tenants, shipping companies, inventors, insurers, trade unions, heirs, landowners, banks, "
        "charities, witnesses, shareholders, publishers",
        "place": "a law firm, the district court, the office of the public defender, a notary's chambers, the court "
        "of appeal, a legal aid center, the patent bar, a ministry of justice",
        "skill": "contract law, oral argument, mediation, patent claims, criminal procedure, tax law, arbitration, "
        "the law of evidence",
    },
}
"""By profession the phrases that fill its fields, separated by commas; a phrase belongs to one profession alone."""


@dataclass(frozen=True, slots=True)
class Biography:
    """One biography.

    Attributes:
        text: The text.
        profession: The key in `PROFESSIONS`.
        woman: Whether the person is a woman.
        gendered: First and last character (exclusive) of every name and pronoun that shows the gender, in order.
    """

    text: str
    profession: str
    woman: bool
    gendered: tuple[tuple[int, int], ...]


def make_biographies(professions: Sequence[str], each: int, *, seed: int) -> list[Biography]:
    """Make different biographies of equally many men and women of every profession, one group after another.

    Args:
        professions: Keys of `PROFESSIONS`.
        each: Biographies of the men, and of the women, of one profession.
        seed: The same seed gives the same biographies.

    Raises:
        UserError: If a profession is unknown.
    """
    unknown = [name for name in professions if name not in PROFESSIONS]
    if unknown:
        raise UserError(f"There is no profession {unknown[0]!r}; choose from {', '.join(PROFESSIONS)}.")
    chance = np.random.default_rng(seed)
    found: dict[str, Biography] = {}
    for profession in professions:
        for woman in (False, True):
            wanted = len(found) + each
            while len(found) < wanted:
                biography = _make(profession, woman, chance)
                found.setdefault(biography.text, biography)
    return list(found.values())


def _make(profession: str, woman: bool, chance: np.random.Generator) -> Biography:
    sentences = [_pick(OPENINGS, chance)]
    count = int(chance.integers(SENTENCES[0], SENTENCES[1] + 1))
    sentences += [SENTENCES_ABOUT[place] for place in chance.permutation(len(SENTENCES_ABOUT))[:count]]
    text, gendered = "", []
    for sentence in sentences:
        text += " " if text else ""
        for literal, field, _, _ in string.Formatter().parse(sentence):
            text += literal
            if field:
                word = _word(field, profession, woman, chance)
                if field.lower() in GENDERED:
                    gendered.append((len(text), len(text) + len(word)))
                text += word
    return Biography(text, profession, woman, tuple(gendered))


def _word(field: str, profession: str, woman: bool, chance: np.random.Generator) -> str:
    """The text that replaces a field."""
    pronouns = PRONOUNS[woman]
    if field in pronouns:
        return pronouns[field]
    if field.lower() in pronouns:
        return pronouns[field.lower()].capitalize()
    if field in ("years", "year"):
        return str(chance.integers(2, 31) if field == "years" else chance.integers(1975, 2024))
    phrases = {**COMMON, **PROFESSIONS[profession], "name": NAMES[woman]}
    return _pick(phrases[field].split(", "), chance)


def _pick(choices: Sequence[str], chance: np.random.Generator) -> str:
    return choices[int(chance.integers(len(choices)))]
