"""What is told of the verdicts: lines for the screen, and JSON."""

import numpy as np

from lab.proof.judge import FAILS, HOLDS, NOT_JUDGED, UNUSABLE
from lab.proof.snippet import snippet

LONG = 4000  # characters of a snippet on the screen; the page and the JSON have all of it


def as_text(value):
    """A result, rounded for reading."""
    if value is None:
        return ""
    if isinstance(value, (float, int, np.generic)):
        return repr(float(value)) if not isinstance(value, int) else repr(value)
    if isinstance(value, np.ndarray):
        return np.array2string(value, separator=", ", threshold=60, precision=9).replace("\n", "")
    return str(value)


def explained(failure, path):
    """A Failure as texts and numbers, which can leave the process."""
    return {
        "what": failure.what,
        "came_out": as_text(failure.got),
        "wanted": as_text(failure.want),
        "off": failure.off if failure.off is not None and np.isfinite(failure.off) else None,
        "allowed": failure.room,
        "why": failure.why,
        "snippet": snippet(path, failure.calls) if failure.calls else "",
    }


def off_by(failure):
    """By how much it is beyond what is allowed, and why so much is."""
    if failure["off"] is None:
        return ""
    why = f": {failure['why']}" if failure["why"] else ""
    return f"off by {failure['off']:.3g}, allowed are {failure['allowed']:.3g}{why}"


def counterexample(verdict):
    """The lines of one failure."""
    failure = verdict.failure
    code = failure["snippet"]
    if len(code) > LONG:
        code = f"# The call has many numbers: --json or --html hold all {len(code):,} characters."
    told = [failure["what"]]
    if failure["came_out"]:
        told += [f"came out:   {failure['came_out']}"]
    if failure["wanted"]:
        told += [f"the oracle: {failure['wanted']}"]
    told += [off_by(failure)] if off_by(failure) else []
    lines = [f"-- {verdict.name}: {verdict.sentence}", "", *code.splitlines()]
    lines += [f"# {line}" for line in told]
    lines += ["", f"Usual cause: {verdict.cause}"] if verdict.cause else []
    return [*lines, ""]


def properties(number):
    return "1 property" if number == 1 else f"{number} properties"


def line_of(verdict, known):
    """One property, on the screen; its name where it will be needed."""
    if verdict.outcome == HOLDS:
        return f"  holds           {verdict.sentence}"
    outcome = "known" if verdict.outcome == FAILS and verdict.name in known else verdict.outcome
    return f"  {outcome:<15} {verdict.sentence} [{verdict.name}]"


def not_judged_lines(verdicts):
    """How many properties are not judged, and why."""
    notes = [v.note for v in verdicts if v.outcome == NOT_JUDGED]
    lines = [f"  {properties(notes.count(note))}: {note}" for note in dict.fromkeys(notes)]
    return ["not judged", *lines] if lines else []


def counted(verdicts, known):
    """How many hold, do not, are known not to, are not judged, cannot be used."""
    failing = [v for v in verdicts if v.outcome == FAILS]
    return {
        HOLDS: sum(v.outcome == HOLDS for v in verdicts),
        FAILS: sum(v.name not in known for v in failing),
        "known": sum(v.name in known for v in failing),
        NOT_JUDGED: sum(v.outcome == NOT_JUDGED for v in verdicts),
        UNUSABLE: sum(v.outcome == UNUSABLE for v in verdicts),
    }


def summary(verdicts, known):
    """The last line."""
    words = {HOLDS: "hold", FAILS: "do not hold", "known": "are known not to hold"}
    words.update({NOT_JUDGED: "are not judged", UNUSABLE: "cannot be used"})
    numbers = counted(verdicts, known)
    told = [f"{number} {words[outcome]}" for outcome, number in numbers.items() if number]
    return f"Of {len(verdicts)} properties {', '.join(told)}."


def as_json(head, verdicts, known):
    """All of it, as what json.dumps takes."""
    return {
        **head,
        "summary": counted(verdicts, known),
        "properties": [
            {**v._asdict(), "known": v.name in known, "seconds": round(v.seconds, 3)}
            for v in verdicts
        ],
    }
