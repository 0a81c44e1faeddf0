from hypothesis import given
from hypothesis import strategies as st

from beam_preprocess.corpus import assign_splits
from sostenuto.data.manifest import SPLITS


@given(st.sets(st.text(max_size=8), min_size=3, max_size=60), st.sampled_from([(0.8, 0.1, 0.1), (0.98, 0.01, 0.01)]))
def test_every_split_gets_pieces_near_its_share(pieces, fractions):
    counts = dict.fromkeys(SPLITS, 0)
    for split in assign_splits(pieces, fractions).values():
        counts[split] += 1
    assert sum(counts.values()) == len(pieces)
    for split, fraction in zip(SPLITS, fractions, strict=True):
        assert counts[split] >= 1
        assert abs(counts[split] - fraction * len(pieces)) <= 2


@given(st.sets(st.text(max_size=8), min_size=1, max_size=30), st.randoms())
def test_splits_do_not_depend_on_the_order_of_files(pieces, random):
    shuffled = random.sample(sorted(pieces), len(pieces))
    assert assign_splits(shuffled, (0.8, 0.1, 0.1)) == assign_splits(sorted(pieces), (0.8, 0.1, 0.1))


def test_a_fraction_of_0_leaves_a_split_empty():
    assert set(assign_splits(map(str, range(50)), (0.9, 0, 0.1)).values()) == {"train", "test"}


def test_splits_do_not_change_between_versions():
    """A change of these would silently mix the training and test pieces of everyone's datasets."""
    split_of = assign_splits([f"{number}.mid" for number in range(10)], (0.6, 0.2, 0.2))
    assert sorted(piece for piece, split in split_of.items() if split == "validation") == ["3.mid", "8.mid"]
