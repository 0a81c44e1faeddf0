// Sentences for the player: whose turn it is, how fast the model answered, and errors.

const NOTICE = 8000; // ms that a notice is shown

const YOURS = {
  answer: ({ hand_over, pause }) =>
    hand_over === "pedal" ? "Play, then press the pedal." : `Play, then pause for ${pause} s.`,
  together: ({ hand_over, pause }) =>
    `Play. The model joins in ${hand_over === "pedal" ? "when you press the pedal" : `after a pause of ${pause} s`}.`,
  listen: () => "Play, then let the model continue.",
};

/** Describes the time from the release of the player's last key, or from the pedal, to the model's first note. */
export function describeLatency(latency, { hand_over, pause }) {
  if (hand_over === "pedal") return `answered ${Math.round(latency)} ms after the pedal`;
  const sinceKey = `${Math.round(latency)} ms after your last key`;
  const sincePause = Math.round(latency - pause * 1000);
  return sincePause >= 0 ? `answered ${sincePause} ms after the pause / ${sinceKey}` : `answered ${sinceKey}`;
}

/** The texts above the roll. */
export class Status {
  #elements;
  #timer = 0;
  #isLasting = false;

  /** @param {object} elements turn, hint, notice. */
  constructor(elements) {
    this.#elements = elements;
  }

  /** Shows whose turn it is; `latency` is a sentence or "". */
  show({ isConnected, isModel, settings, latency, loading }) {
    const { turn, hint } = this.#elements;
    turn.dataset.whose = !isConnected ? "nobody" : isModel ? "model" : "you";
    this.#set(turn, !isConnected ? "Connecting…" : isModel ? "The model plays" : "Your turn");
    this.#set(hint, loading || latency || (isConnected && !isModel ? YOURS[settings.mode](settings) : ""));
  }

  /** Shows an error for some seconds, or until the connection is back. */
  notify(text, isLasting = false) {
    const { notice } = this.#elements;
    this.#isLasting = isLasting;
    clearTimeout(this.#timer);
    notice.classList.toggle("shown", text !== "");
    this.#set(notice, text);
    if (text && !isLasting) this.#timer = setTimeout(() => this.notify(""), NOTICE);
  }

  /** Removes a lasting error. */
  settle() {
    if (this.#isLasting) this.notify("");
  }

  #set(element, text) {
    if (element.textContent !== text) element.textContent = text; // a live region announces each assignment
  }
}
