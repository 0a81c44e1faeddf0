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

  noteOn(pitch, velocity, at) {
    this.output?.send([NOTE_ON, pitch, velocity], at);
  }

  noteOff(pitch, at) {
    this.output?.send([NOTE_OFF, pitch, 0], at);
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
    };
    this.#access.onstatechange = refresh;
    refresh();
  }

  #receive(port, { data: [status, first, second], timeStamp }, { onKey, onPedal }) {
    const chosen = this.#elements.input.value;
    if (chosen && chosen !== port.id) return;
    const kind = status & 0xf0;
    if (kind === NOTE_ON) onKey(first, second, timeStamp);
    if (kind === NOTE_OFF) onKey(first, 0, timeStamp);
    if (kind === CONTROL && first === SUSTAIN) onPedal(second >= 64, timeStamp);
  }
}
