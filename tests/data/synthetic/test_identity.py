from dataclasses import asdict

import numpy as np

from thbench.data.synthetic.identity import HAIR_STYLES, draw, generator
from thbench.data.synthetic.render import State, render


def test_same_seed_and_index_is_the_same_person():
    assert draw(3, 5) == draw(3, 5)


def test_people_of_a_seed_and_seeds_differ():
    people = [draw(seed, index) for seed in (0, 1) for index in range(20)]
    assert len({str(asdict(who)) for who in people}) == 40


def test_every_hair_style_is_worn():
    assert {draw(0, index).style for index in range(200)} == set(HAIR_STYLES)


def test_colours_are_in_range():
    for index in range(50):
        for value in asdict(draw(2, index)).values():
            if isinstance(value, tuple):
                assert all(0 <= channel <= 1 for channel in value)


def test_people_look_different():
    faces = [render(draw(0, index), State.neutral(1), 64).float() for index in range(8)]
    gaps = [(a - b).abs().mean() for i, a in enumerate(faces) for b in faces[:i]]
    assert min(gaps) > 8  # grey levels


def test_generators_depend_on_every_word():
    draws = {
        generator(*words).integers(2**40)
        for words in ((0, "clip", 1, 2), (1, "clip", 1, 2), (0, "voice", 1, 2), (0, "clip", 2, 1))
    }
    assert len(draws) == 4
    assert np.array_equal(generator(0, "a").normal(size=3), generator(0, "a").normal(size=3))
