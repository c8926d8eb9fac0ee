"""Slow and plain: what the best path through a graph scores, and what a given path scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quran_asr.decoding.graph import NEVER, UNITS, Graph, in_units
from quran_asr.decoding.visits import HUB, Visit

LOST = -np.inf


def ways_between(graph: Graph) -> dict[tuple[int, int, bool], float]:
    """Cost of the cheapest arc between two words; the third of the key: must a blank come between?"""
    arcs: dict[tuple[int, int, bool], float] = {}

    def add(source: int, target: int, blank: bool, cost: float) -> None:
        if cost < NEVER and 0 <= target < graph.words:
            key = source, target, blank
            arcs[key] = min(cost, arcs.get(key, np.inf))

    for word in range(1, graph.words):
        add(word - 1, word, False, int(graph.chain[word]))
    for source, target, cost, blank in graph.arcs.tolist():
        add(source, target, bool(blank), cost)
    costs = graph.costs
    for source in range(graph.words):
        for back in range(costs.back_words):
            if source - back >= 0 and graph.local[source - back]:
                inside = in_units(costs.back_inside) if graph.index[source - back] else 0
                add(source, source - back, False, in_units(costs.back) + inside)
        for ahead in range(1, costs.skip_words + 1):
            if source + 1 + ahead < graph.words and graph.local[source + 1 + ahead]:
                add(source, source + 1 + ahead, False, in_units(costs.skip))
    return arcs


def other_speech(graph: Graph, units: np.ndarray) -> list[tuple[float, float]]:
    """Of every frame: what it scores as other speech that goes on, and as other speech that begins."""
    scores, before = [], None
    for frame in units:
        label = int(frame.argmax())
        cost = in_units(graph.costs.garbage_token) if label != len(frame) - 1 else 0
        scores.append((float(frame[label]) - (cost if label != before else 0), float(frame[label]) - cost))
        before = label
    return scores


def best_score(graph: Graph, units: np.ndarray) -> float:
    """Units of the best path from the hub to the end of a word or the hub."""
    arcs = ways_between(graph)
    token = np.full(graph.states, LOST)
    blank = np.full(graph.states, LOST)
    garbage = np.full(graph.words, LOST)
    hub = 0.0
    doubled = set(graph.doubled.tolist())

    def ends() -> tuple[list[float], list[float]]:
        recited = [max(token[last], blank[last]) for last in graph.last]
        return recited, [max(a, b) for a, b in zip(recited, garbage, strict=True)]

    for frame, (goes_on, begins) in zip(units.astype(float), other_speech(graph, units), strict=True):
        recited, end = ends()
        leaving = max(e - cost if cost < NEVER else LOST for e, cost in zip(end, graph.leave, strict=True))
        passing = max(hub, leaving)
        new_token, new_blank = token.copy(), np.maximum(blank, token)
        for word in range(graph.words):
            first = graph.first[word]
            coming = [passing - graph.enter[word] if graph.enter[word] < NEVER else LOST]
            for (source, target, needs_blank), cost in arcs.items():
                if target == word:
                    behind = max(blank[graph.last[source]], garbage[source]) if needs_blank else end[source]
                    coming.append(behind - cost)
            if word >= 2 and graph.after_wrong[word] < NEVER:
                coming.append(garbage[word - 2] - graph.after_wrong[word])
            new_token[first] = max(token[first], *coming)
            for state in range(first + 1, graph.last[word] + 1):
                before = blank[state - 1] if state in doubled else max(token[state - 1], blank[state - 1])
                new_token[state] = max(token[state], before)
        token = new_token + frame[graph.tokens]
        blank = new_blank
        garbage_in = in_units(graph.costs.garbage)
        entered = begins if frame.argmax() != len(frame) - 1 else LOST  # with a token
        garbage = np.array(
            [max(g + goes_on, s - garbage_in + entered) for g, s in zip(garbage, recited, strict=True)]
        )
        hub = max(hub + goes_on, leaving + begins)
    return max(hub, *ends()[1])


def path_score(graph: Graph, units: np.ndarray, visits: Sequence[Visit]) -> float:
    """Units of one path; an assertion where it is not a path."""
    arcs = ways_between(graph)
    speech = other_speech(graph, units)
    total = 0.0
    frame = 0
    doubled = set(graph.doubled.tolist())
    before: Visit | None = None
    for visit in visits:
        assert visit.start == frame <= visit.end
        if visit.wrong:
            assert before is not None and before.word == visit.word - 1 and before.garbage is None
            assert visit.tokens == _spoken(units, visit) and visit.tokens[0][0] == visit.start
            total -= in_units(graph.costs.garbage)
            total += sum(speech[t][1 if t == visit.start else 0] for t in range(visit.start, visit.end))
            frame, before = visit.end, visit
            continue
        before_word = HUB if before is None else before.word
        if visit.word == HUB:
            if before is not None:
                assert before_word != HUB and graph.leave[before_word] < NEVER
                total -= graph.leave[before_word]
            for t in range(visit.start, visit.end):
                total += speech[t][1 if t == visit.start and before is not None else 0]
        else:
            if before_word == HUB:
                assert graph.enter[visit.word] < NEVER
                total -= graph.enter[visit.word]
            elif before is not None and before.wrong:
                assert visit.word == before.word + 1 and graph.after_wrong[visit.word] < NEVER
                total -= graph.after_wrong[visit.word]
            else:
                assert before is not None
                total -= arcs[before_word, visit.word, before.silent]
                assert not before.silent or before.tokens[-1][1] < before.end
            total += _word_score(graph, units, speech, visit, doubled)
        frame = visit.end
        before = visit
    assert frame == len(units)
    return total


def _spoken(units: np.ndarray, visit: Visit) -> tuple[tuple[int, int], ...]:
    """The runs of frames of a visit with the same best token that is not the blank."""
    runs, last = list[tuple[int, int]](), -1
    for frame in range(visit.start, visit.end):
        label = int(units[frame].argmax())
        if label != units.shape[1] - 1:
            begins = runs.pop()[0] if label == last else frame
            runs.append((begins, frame + 1))
        last = label
    return tuple(runs)


def _word_score(
    graph: Graph,
    units: np.ndarray,
    speech: list[tuple[float, float]],
    visit: Visit,
    doubled: set[int],
) -> float:
    states = range(int(graph.first[visit.word]), int(graph.last[visit.word]) + 1)
    assert len(visit.tokens) == len(states)
    assert visit.tokens[0][0] == visit.start
    total, until = 0.0, visit.start
    for state, (begin, end) in zip(states, visit.tokens, strict=True):
        assert until <= begin < end <= visit.end
        assert state not in doubled or until < begin
        total += float(units[begin:end, graph.tokens[state]].sum())
        until = end
    if visit.garbage is not None:
        assert until <= visit.garbage < visit.end
        assert units[visit.garbage].argmax() != units.shape[1] - 1
        total -= in_units(graph.costs.garbage)
        total += sum(speech[t][1 if t == visit.garbage else 0] for t in range(visit.garbage, visit.end))
    return total


def nats(units: float) -> float:
    return units / UNITS
