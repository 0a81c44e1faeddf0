// Time as the roll shows it: a long silence takes as much room as a short one.

const SILENCE = 3000; // ms that are shown of a silence

/** Maps moments to places on the roll, in ms. */
export class Timeline {
  #silences = []; // {from, to}, of those that are longer
  #end = Infinity; // of all notes and of the silence after them that is shown

  /** @param {Array} notes sorted by onset; `seen` is when a note arrived, which may be before its onset. */
  constructor(notes) {
    let end = -Infinity;
    for (const { at, duration, seen } of notes) {
      const from = end + SILENCE, to = Math.min(at, seen);
      if (from > -Infinity && to > from) this.#silences.push({ from, to });
      end = Math.max(end, at + duration);
    }
    if (notes.length) this.#end = end + SILENCE;
  }

  /** The places at which a silence is shortened. */
  get breaks() {
    return this.#silences.map(({ from }) => this.place(from));
  }

  /** Returns whether the roll stands still at a moment. */
  isOver(at) {
    return at > this.#end;
  }

  place(at) {
    let place = Math.min(at, this.#end);
    for (const { from, to } of this.#silences) {
      if (at > from) place -= Math.min(at, to) - from;
    }
    return place;
  }
}
