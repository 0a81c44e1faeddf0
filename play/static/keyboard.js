// Piano keyboard on the page, for the mouse, fingers and a pen.

import { Geometry, isBlack, noteName } from "./geometry.js";

const CLASSES = ["you", "model", "file"]; // in the order of the protocol
const BLACK_HEIGHT = 0.62; // of the height, as in keyboard.css
const NARROWEST = { fine: 15, coarse: 38 }; // widths in pixels of a white key for a mouse and for a finger
const SOFTEST = 35, LOUDEST = 120; // velocities at the upper and the lower end of a key

/** The keys that fit into the window. */
export class Keyboard {
  geometry = new Geometry(21, 108);
  #element;
  #keys = new Map(); // pitch -> element
  #first = 0; // the leftmost white key that is shown
  #count = 52; // of white keys that are shown
  #pointers = new Map(); // pointer -> pitch
  #lit = new Map();
  #handlers;
  #coarse = matchMedia("(pointer: coarse)");

  /**
   * @param {HTMLElement} element
   * @param {object} handlers onPress(pitch, velocity, at), onRelease(pitch, at), onRange().
   */
  constructor(element, handlers) {
    this.#element = element;
    this.#handlers = handlers;
    element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) this.#move(event);
    });
    element.addEventListener("pointermove", (event) => {
      if (this.#pointers.has(event.pointerId)) for (const each of event.getCoalescedEvents?.() ?? []) this.#move(each);
      if (this.#pointers.has(event.pointerId)) this.#move(event);
    });
    for (const type of ["pointerup", "pointercancel"]) addEventListener(type, (event) => this.#lift(event));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    new ResizeObserver(() => this.#fit()).observe(element);
    this.#make();
  }

  /** The part of all keys that is shown, in white keys, or null if all are. */
  get window() {
    return this.#count < this.geometry.width ? { left: this.#first, width: this.#count } : null;
  }

  /** The lowest and the highest white key that is shown. */
  get range() {
    const at = (place) => this.geometry.pitchAt(place + 0.5, false);
    return [at(this.#first), at(this.#first + this.#count - 1)];
  }

  setRange(lowest, highest) {
    this.geometry = new Geometry(lowest - isBlack(lowest), highest + isBlack(highest));
    this.#make();
    this.#fit();
  }

  /** Shows keys from a place on, in white keys. */
  scrollTo(place) {
    this.#first = Math.round(Math.min(Math.max(place, 0), this.geometry.width - this.#count));
    this.#arrange();
  }

  /** Scrolls by octaves. */
  scrollBy(octaves) {
    this.scrollTo(this.#first + 7 * octaves);
  }

  /** Writes the letters of the computer's keys on the keys. */
  label(letters) {
    for (const [pitch, key] of this.#keys) key.firstChild.textContent = letters.get(pitch) ?? "";
  }

  /** Lights keys in the colours of who plays them. */
  light(players) {
    for (const pitch of new Set([...this.#lit.keys(), ...players.keys()])) {
      const key = this.#keys.get(pitch), who = players.get(pitch);
      if (!key || this.#lit.get(pitch) === who) continue;
      key.classList.remove(...CLASSES);
      if (who !== undefined) key.classList.add(CLASSES[who]);
    }
    this.#lit = players;
  }

  #make() {
    this.#keys = new Map([...this.geometry.keys.keys()].map((pitch) => {
      const key = document.createElement("div"), letter = document.createElement("span");
      key.className = isBlack(pitch) ? "black key" : "white key";
      key.setAttribute("aria-hidden", "true"); // the piano has one name
      letter.className = "letter";
      key.append(letter);
      if (pitch % 12 === 0) key.dataset.name = noteName(pitch);
      return [pitch, key];
    }));
    this.#element.replaceChildren(...this.#keys.values());
  }

  #fit() {
    const narrowest = this.#coarse.matches ? NARROWEST.coarse : NARROWEST.fine;
    const isFirst = !this.#element.dataset.keys;
    this.#count = Math.min(Math.floor(this.#element.clientWidth / narrowest), this.geometry.width);
    this.#element.dataset.keys = this.#count;
    const middle = this.geometry.keys.get(60)?.left ?? 0;
    this.scrollTo(isFirst ? middle - 7 * Math.floor(this.#count / 14) : this.#first);
  }

  #arrange() {
    for (const [pitch, { left, width }] of this.geometry.keys) {
      const style = this.#keys.get(pitch).style;
      style.left = `${((left - this.#first) / this.#count) * 100}%`;
      style.width = `${(width / this.#count) * 100}%`;
    }
    this.#handlers.onRange();
  }

  /** Presses the key below a pointer, and releases the one that it left. */
  #move(event) {
    const box = this.#element.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.#count + this.#first;
    const depth = (event.clientY - box.top) / box.height;
    const isInside = event.clientX >= box.left && event.clientX < box.right && depth >= 0 && depth < 1;
    const pitch = isInside ? this.geometry.pitchAt(x, depth < BLACK_HEIGHT) : undefined;
    const previous = this.#pointers.get(event.pointerId);
    this.#pointers.set(event.pointerId, pitch);
    if (pitch === previous) return;
    if (previous !== undefined) this.#handlers.onRelease(previous, event.timeStamp);
    if (pitch === undefined) return;
    const within = Math.min(isBlack(pitch) ? depth / BLACK_HEIGHT : depth, 1);
    this.#handlers.onPress(pitch, Math.round(SOFTEST + (LOUDEST - SOFTEST) * within), event.timeStamp);
  }

  #lift(event) {
    const pitch = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (pitch !== undefined) this.#handlers.onRelease(pitch, event.timeStamp);
  }
}
