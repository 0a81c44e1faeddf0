// Names and places of the keys of a piano, in widths of a white key.

const NAMES = ["C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"];
// Black keys of a piano are not centred between their neighbours.
const SHIFTS = { 1: -0.1, 3: 0.1, 6: -0.12, 8: 0, 10: 0.12 };
const BLACK_WIDTH = 0.6;

export const isBlack = (pitch) => pitch % 12 in SHIFTS;
export const noteName = (pitch) => NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);

/** The keys from one pitch to another. */
export class Geometry {
  /** @param {number} lowest @param {number} highest */
  constructor(lowest, highest) {
    this.lowest = lowest;
    this.highest = highest;
    this.keys = new Map();
    this.width = 0;
    for (let pitch = lowest; pitch <= highest; pitch++) {
      if (isBlack(pitch)) {
        const left = this.width - BLACK_WIDTH / 2 + SHIFTS[pitch % 12];
        this.keys.set(pitch, { left: Math.max(left, 0), width: BLACK_WIDTH });
      } else {
        this.keys.set(pitch, { left: this.width, width: 1 });
        this.width += 1;
      }
    }
  }

  /** Returns the pitch at a place, or undefined; black keys reach over the upper part of white ones. */
  pitchAt(x, isUpper) {
    const at = (black) => {
      for (const [pitch, { left, width }] of this.keys) {
        if (isBlack(pitch) === black && x >= left && x < left + width) return pitch;
      }
    };
    return (isUpper ? at(true) : undefined) ?? at(false);
  }
}
