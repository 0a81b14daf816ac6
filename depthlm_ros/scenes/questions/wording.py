# SPDX-License-Identifier: Apache-2.0
"""The text of questions and replies about rendered pictures, and the names of objects in them.

The templates are data: released models were trained on exactly these words. `a` and `b` stand for names of objects,
`an` for the article, `box` for a box in the picture, `x` for a length in metres. `unambiguous_names` gives the names
that an object may have in a question, `absent_names` the names that fit nothing in the picture.
"""

from __future__ import annotations

from depthlm_ros.scenes.world.colours import NAMED_COLOURS
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, SceneObject

DISTANCE_QUESTIONS = (
    "How far is the {a}?",
    "How far is the {a}?",
    "How far away is the {a}?",
    "What is the distance to the {a}?",
    "How many meters is it to the {a}?",
    "How far is the {a} from the camera?",
    "How far is it to the {a}?",
    "Tell me the distance to the {a}.",
    "distance to the {a}",
)
WHERE_QUESTIONS = (
    "Where is the {a}?",
    "Where is the {a}?",
    "Find the {a}.",
    "Locate the {a}.",
    "Where can I find the {a}?",
)
PRESENCE_QUESTIONS = (
    "Is there {an} {a}?",
    "Is there {an} {a}?",
    "Do you see {an} {a}?",
    "Can you see {an} {a}?",
    "Is {an} {a} in the image?",
    "Is there {an} {a} here?",
)
CLOSER_QUESTIONS = (
    "Which is closer, the {a} or the {b}?",
    "Which is closer, the {a} or the {b}?",
    "Which is nearer, the {a} or the {b}?",
    "Is the {a} or the {b} closer?",
    "What is closer: the {a} or the {b}?",
)
WIDTH_QUESTIONS = (
    "How wide is the {a}?",
    "How wide is the {a}?",
    "What is the width of the {a}?",
    "Tell me the width of the {a}.",
)
HEIGHT_QUESTIONS = (
    "How tall is the {a}?",
    "How tall is the {a}?",
    "How high is the {a}?",
    "What is the height of the {a}?",
    "Tell me the height of the {a}.",
)
POINT_QUESTIONS = (
    "How far is this point?",
    "How far is this point?",
    "How far away is this point?",
    "What is the distance to this point?",
    "distance to here",
)
NAMING_QUESTIONS = (
    "What is this?",
    "What is this?",
    "What is at this point?",
    "What object is this?",
    "What is here?",
    "What thing is this and how far is it?",
)
POINTS_APART_QUESTIONS = (
    "How far apart are these points?",
    "How far apart are these points?",
    "What is the distance between these points?",
    "How far is it between these points?",
)
POINTS_CLOSER_QUESTIONS = (
    "Which point is closer?",
    "Which point is closer?",
    "Which of these points is closer?",
    "Which point is nearer?",
)

DISTANCE_REPLY = "The {a} at {box} is {x:.2f} meters away."
PRESENCE_REPLY = "Yes, the {a} at {box} is {x:.2f} meters away."
CLOSER_REPLY = "The {a} at {box} is closer: {x:.2f} meters."
WIDTH_REPLY = "The {a} at {box} is {x:.2f} meters wide."
HEIGHT_REPLY = "The {a} at {box} is {x:.2f} meters tall."
ABSENT_REPLY = "There is no {a} in this image."
NO_OBJECT_REPLY = "There is no object at this point."
POINT_REPLY = "The point is {x:.2f} meters away."
POINTS_APART_REPLY = "The points are {x:.2f} meters apart."
POINTS_CLOSER_REPLY = "The {nth} point is closer: {x:.2f} meters."
COUNT_REPLY = "There are {n} {many}."
COUNT_ONE_REPLY = "There is 1 {a}."
NOT_UNDERSTOOD_REPLY = "I do not understand the question."

OUT_OF_SCOPE_QUESTIONS = (
    "What is your name?", "Tell me a joke.", "asdf", "What time is it?", "Who are you?", "How old are you?",
    "What is the weather like?", "Sing a song.", "What is 2 + 2?", "Hello", "Hi there!", "Good morning.",
    "Thank you.", "Who is the president?", "What is the capital of France?", "Write a poem.", "Play music.",
    "Turn on the light.", "Go to the kitchen.", "Do you like music?", "How are you?", "What day is today?",
    "Translate this.", "Can you help me?", "What is the meaning of life?", "Stop.", "Yes.", "No.", "Why?",
    "Who made you?", "Order a pizza.", "How much does it cost?", "Is it raining?", "When is lunch?", "qwerty",
    "lorem ipsum dolor", "???", "...", "1 2 3 4", "blah blah", "Where were you born?", "What did you eat?",
    "Call my mother.", "Set an alarm.", "How do I cook rice?", "What is love?", "Open the window.", "Are you a robot?",
    "Close the door.", "What is the best movie?", "Count to ten.", "Repeat after me.", "Pick up the cup.",
    "How heavy is it?", "What does it smell like?", "Is it safe?", "How fast are we moving?", "Ignore this.",
)  # fmt: skip
# Random text that contains no question is made of these words or letters.
RANDOM_WORDS = (
    "the a of and to in is far how red blue table chair music dog run point meters where closer or wide tall time "
    "happy green seven paper house cloud quickly jump name color image camera robot world water sky apple river "
    "what why when who box ball see find song sleep eat drive fast slow big small"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

# People use the kinds of one group for each other. While one of them is visible, no question asks for another of them
# with the reply "There is no ...".
SIMILAR_KIND_GROUPS = (
    ("table", "desk", "counter", "bench"),
    ("chair", "armchair", "stool", "sofa", "bench"),
    ("cabinet", "wardrobe", "shelf", "counter", "fridge"),
    ("monitor", "television", "laptop"),
    ("bin", "basket"),
    ("cup", "bottle"),
    ("toilet", "sink", "bathtub"),
    ("plant", "tree"),
    ("car", "truck"),
    ("window", "picture"),
)

# Parts of other objects look like these (ceiling lights, boards on walls), so no reply says that there is none of them.
AMBIGUOUS_KINDS = ("lamp", "bench", "picture", "bag")

FURNITURE_KINDS = (
    *("table", "chair", "shelf", "cabinet", "sofa", "bed", "lamp", "door", "window", "desk", "armchair", "stool"),
    *("person", "plant", "monitor", "bin", "bench", "fridge", "cup", "bottle", "counter", "wardrobe", "television"),
    *("toilet", "sink", "bathtub", "washing machine", "piano", "bicycle", "radiator", "picture", "rug", "clock"),
    *("laptop", "bag", "car", "tree"),
)

OUTDOOR_KINDS = ("car", "tree")

# Furniture that may have one plain colour with a name.
COLOURED_KINDS = ("sofa", "armchair", "stool", "bin", "bag", "door", "bicycle", "car")

# Every name that an object of a scene can have.
VOCABULARY = tuple(f"{c} {k}" for k in SIMPLE_KINDS for c in NAMED_COLOURS) + FURNITURE_KINDS

# For each kind of furniture, the kinds that people may use for it, itself included.
SIMILAR_KINDS = {
    kind: {kind}.union(*(group for group in SIMILAR_KIND_GROUPS if kind in group)) for kind in FURNITURE_KINDS
}


def article(name: str) -> str:
    """Returns the indefinite article of a name: "a" or "an"."""
    return "an" if name[0] in "aeio" else "a"


def unambiguous_names(thing: SceneObject, others: list[SceneObject]) -> list[str]:
    """Returns the names that fit this object and none of the other visible objects."""
    alike = [other for other in others if other.kind == thing.kind]
    if thing.kind in SIMPLE_KINDS:
        return [] if any(other.colour == thing.colour for other in alike) else [thing.name]
    names = [] if alike else [thing.name]
    if thing.colour and all(other.colour not in ("", thing.colour) for other in alike):
        names.append(f"{thing.colour} {thing.kind}")
    return names


def absent_names(things: list[SceneObject]) -> tuple[str, ...]:
    """Returns the names that fit none of the visible objects, not even roughly."""
    kinds, names = {thing.kind for thing in things}, {thing.name for thing in things}
    absent = [f"{c} {k}" for k in SIMPLE_KINDS for c in NAMED_COLOURS if f"{c} {k}" not in names]
    absent += [kind for kind in FURNITURE_KINDS if kind not in AMBIGUOUS_KINDS and not SIMILAR_KINDS[kind] & kinds]
    for kind in COLOURED_KINDS:
        colours = {thing.colour for thing in things if thing.kind == kind}
        if kind not in AMBIGUOUS_KINDS and "" not in colours and not (SIMILAR_KINDS[kind] - {kind}) & kinds:
            absent += [f"{c} {kind}" for c in NAMED_COLOURS if c not in colours]
    return tuple(absent)
