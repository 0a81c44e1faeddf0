"""A few bars to continue: the opening of Bach's Prelude in C major, BWV 846, in the public domain."""

from sostenuto.music.notes import Notes

SIXTEENTH_US = 220_000
VELOCITY = 72

# The chord of each bar, played upwards with its upper three notes repeated, twice a bar.
BARS = (
    (60, 64, 67, 72, 76),
    (60, 62, 69, 74, 77),
    (59, 62, 67, 74, 77),
    (60, 64, 67, 72, 76),
)


def notes() -> Notes:
    """Returns the notes of the bars."""
    pitches = [half[place] for bar in BARS for half in (bar, bar) for place in (0, 1, 2, 3, 4, 2, 3, 4)]
    onsets = [index * SIXTEENTH_US for index in range(len(pitches))]
    # The two lowest notes of each half bar are held until its end.
    ends = [onset + (8 - index % 8 if index % 8 < 2 else 1) * SIXTEENTH_US for index, onset in enumerate(onsets)]
    return Notes.from_onsets(pitches, onsets, ends, [VELOCITY] * len(pitches))
