// The computer's keyboard as a piano: two rows of keys, an octave apart.

// In semitones: one row from its first key on, the other from an octave above.
const ROWS = {
  0: "KeyZ KeyS KeyX KeyD KeyC KeyV KeyG KeyB KeyH KeyN KeyJ KeyM Comma KeyL Period Semicolon Slash",
  12: "KeyQ Digit2 KeyW Digit3 KeyE KeyR Digit5 KeyT Digit6 KeyY Digit7 KeyU KeyI Digit9 KeyO Digit0 KeyP",
};
const OFFSETS = new Map(Object.entries(ROWS).flatMap(([first, codes]) =>
  codes.split(" ").map((code, index) => [code, Number(first) + index])));
const SIGNS = { Comma: ",", Period: ".", Semicolon: ";", Slash: "/" }; // of a keyboard whose layout is unknown
const DOWN = "BracketLeft", UP = "BracketRight", PEDAL = "KeyA";
const LOWEST = 24, HIGHEST = 84; // of the lower row's first key
const SPAN = 28; // semitones from the first key to the last

/** Returns whether an element takes letters itself. */
export function takesText(element) {
  return element.closest("select, textarea, input:not([type=range], [type=radio], [type=checkbox])") !== null;
}

/** Plays by the computer's keys. */
export class ComputerKeys {
  base = 48; // pitch of the lower row's first key
  #held = new Map(); // code -> pitch
  #isPedalDown = false;
  #layout = null;
  #handlers;

  /**
   * @param {object} handlers
   *   onPress(pitch, at), onRelease(pitch, at), onPedal(isDown, at), onShift(octaves), onLayout().
   */
  constructor(handlers) {
    this.#handlers = handlers;
    addEventListener("keydown", (event) => this.#press(event));
    addEventListener("keyup", (event) => this.#lift(event));
    addEventListener("blur", (event) => this.#releaseAll(event.timeStamp));
    navigator.keyboard?.getLayoutMap().then((layout) => {
      this.#layout = layout;
      handlers.onLayout();
    }).catch(() => {}); // a frame of another page may not know the layout
  }

  get range() {
    return [this.base, this.base + SPAN];
  }

  /** Returns a map of pitch to the letter on its key; where two keys have a pitch, the upper row's. */
  get letters() {
    const letter = (code) => this.#layout?.get(code) ?? SIGNS[code] ?? code.slice(-1);
    return new Map([...OFFSETS].map(([code, offset]) => [this.base + offset, letter(code).toUpperCase()]));
  }

  /** Moves the keys by octaves. */
  shift(octaves) {
    this.base = Math.min(Math.max(this.base + 12 * octaves, LOWEST), HIGHEST);
  }

  #press(event) {
    const { code, timeStamp } = event;
    const isShortcut = event.ctrlKey || event.metaKey || event.altKey;
    if (event.repeat || isShortcut || takesText(event.target) || document.querySelector("dialog[open]")) return;
    if (code === DOWN || code === UP) this.#handlers.onShift(code === UP ? 1 : -1);
    if (code === PEDAL) this.#pedal(true, timeStamp);
    if (!OFFSETS.has(code) || this.#held.has(code)) return;
    event.preventDefault(); // Firefox searches the page at a slash
    const pitch = this.base + OFFSETS.get(code);
    this.#held.set(code, pitch);
    this.#handlers.onPress(pitch, timeStamp);
  }

  #lift({ code, timeStamp }) {
    if (code === PEDAL) this.#pedal(false, timeStamp);
    const pitch = this.#held.get(code);
    if (!this.#held.delete(code)) return;
    this.#handlers.onRelease(pitch, timeStamp);
  }

  #releaseAll(at) {
    for (const pitch of this.#held.values()) this.#handlers.onRelease(pitch, at);
    this.#held.clear();
    this.#pedal(false, at);
  }

  /** Moves the pedal, unless another one is down. */
  #pedal(isDown, at) {
    if (isDown === this.#isPedalDown) return;
    this.#isPedalDown = isDown;
    this.#handlers.onPedal(isDown, at);
  }
}
