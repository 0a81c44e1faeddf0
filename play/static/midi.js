// MIDI pianos at the computer's ports.

const NOTE_OFF = 0x80;
const NOTE_ON = 0x90;
const CONTROL = 0xb0;
const SUSTAIN = 64;

/** Fills a select with ports after its first option, and keeps its choice while that port is there. */
function listPorts(select, ports) {
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...[...ports.values()].map((port) => new Option(port.name, port.id)));
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/** Input and output by Web MIDI. */
export class Midi {
  #access = null;
  #held = new Map(); // id of an input -> the pitches that are down there
  #elements;

  /**
   * @param {object} elements connect, unsupported, ports, input, output, alone.
   * @param {object} handlers
   *   onKey(pitch, velocity, at), with velocity 0 for a release; onPedal(isDown, at); onError(text).
   */
  constructor(elements, handlers) {
    this.#elements = elements;
    const isSupported = "requestMIDIAccess" in navigator;
    elements.connect.hidden = !isSupported;
    elements.unsupported.hidden = isSupported;
    if (!isSecureContext) elements.unsupported.textContent = "MIDI pianos need a page of this machine, or an encrypted one.";
    elements.connect.addEventListener("click", () => this.#connect(handlers));
  }

  /** The chosen output, or undefined. */
  get output() {
    return this.#access?.outputs.get(this.#elements.output.value);
  }

  /** True if the model's notes go to the output only. */
  get isAlone() {
    return this.#elements.alone.checked && this.output !== undefined;
  }

  noteOn(output, pitch, velocity, at) {
    output.send([NOTE_ON, pitch, velocity], at);
  }

  /** Ends a note at the output where it began, unless that is gone. */
  noteOff(output, pitch, at) {
    if (output.state === "connected") output.send([NOTE_OFF, pitch, 0], at);
  }

  async #connect(handlers) {
    const { connect, ports, input, output } = this.#elements;
    try {
      this.#access = await navigator.requestMIDIAccess();
    } catch {
      handlers.onError("The browser does not allow MIDI. Allow it for this page in the browser's settings.");
      return;
    }
    const hadFocus = connect === document.activeElement; // not after a click of the mouse
    connect.hidden = true;
    ports.hidden = false;
    if (hadFocus) input.focus();
    const refresh = () => {
      listPorts(input, this.#access.inputs);
      listPorts(output, this.#access.outputs);
      for (const port of this.#access.inputs.values()) {
        port.onmidimessage = (event) => this.#receive(port, event, handlers);
      }
      this.#releaseOthers(handlers);
    };
    this.#access.onstatechange = refresh;
    input.addEventListener("change", () => this.#releaseOthers(handlers));
    refresh();
  }

  #isHeard(id) {
    const chosen = this.#elements.input.value;
    return chosen ? chosen === id : this.#access.inputs.get(id)?.state === "connected";
  }

  #receive(port, { data: [status, first, second], timeStamp }, { onKey, onPedal }) {
    if (!this.#isHeard(port.id)) return;
    if (!this.#held.has(port.id)) this.#held.set(port.id, new Set());
    const held = this.#held.get(port.id), kind = status & 0xf0;
    if (kind === NOTE_ON && second) {
      if (held.has(first)) return;
      held.add(first);
      onKey(first, second, timeStamp);
    } else if (kind === NOTE_ON || kind === NOTE_OFF) {
      if (held.delete(first)) onKey(first, 0, timeStamp);
    }
    if (kind === CONTROL && first === SUSTAIN) onPedal(second >= 64, timeStamp);
  }

  /** Releases the keys of inputs that are gone or no longer heard: their releases do not come. */
  #releaseOthers({ onKey, onPedal }) {
    const now = performance.now();
    for (const [id, held] of this.#held) {
      if (this.#isHeard(id)) continue;
      this.#held.delete(id);
      for (const pitch of held) onKey(pitch, 0, now);
      onPedal(false, now);
    }
  }
}
