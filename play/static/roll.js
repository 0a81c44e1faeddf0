// Piano roll: notes rise from the keys. Below the line of the present are the notes that come.

import { Geometry, isBlack } from "./geometry.js";
import { Timeline } from "./timeline.js";

export const YOU = 0, MODEL = 1, FILE = 2;

const MOST_NOTES = 2000;
const SAME = 2; // ms: the server rounds times
const COMING = 0.2; // part of the height below the line of the present
const PASSED = 0.3; // part of the height above it when a roll that stands still begins a page
const STRIP = 26; // height in pixels of the small keyboard of a narrow window
const COLOURS = ["you", "model", "file", "lane", "edge", "ink", "soft", "white-key", "black-key"];

/** The roll on a canvas. Notes are {at, pitch, duration, velocity, who}; the duration of a held one is Infinity. */
export class Roll {
  notes = [];
  #canvas;
  #context;
  #geometry = new Geometry(21, 108);
  #window = null; // {left, width} of the keyboard in white keys, if it shows a part
  #colours = {};
  #timeline = new Timeline([]);
  #isChanged = true;
  #frame = 0;
  #onSounding;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} handlers
   *   onSounding: receives a map of pitch to player at each frame.
   *   onStrip: receives the place, in white keys, at which the small keyboard is touched.
   */
  constructor(canvas, { onSounding, onStrip }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#onSounding = onSounding;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#resize());
    const touch = (event) => {
      const isStrip = this.#window && event.offsetY > canvas.clientHeight - STRIP - 8;
      if (event.buttons && isStrip) onStrip((event.offsetX / canvas.clientWidth) * this.#geometry.width);
    };
    canvas.addEventListener("pointerdown", touch);
    canvas.addEventListener("pointermove", touch);
  }

  /** Sets the keys of the roll, and the part of them that the keyboard shows or null. */
  show(geometry, window) {
    this.#geometry = geometry;
    this.#window = window;
    this.wake();
  }

  add(note) {
    note.seen = performance.now();
    this.notes.push(note);
    if (this.notes.length > MOST_NOTES) this.notes.shift();
    this.wake();
  }

  remove(note) {
    this.notes = this.notes.filter((other) => other !== note);
    this.wake();
  }

  /** Takes over notes of [at, pitch, duration, velocity, who]; keeps others that have not ended. */
  replace(notes) {
    const now = performance.now();
    const isNew = (note) => notes.some(([at, pitch]) => pitch === note.pitch && Math.abs(at - note.at) < SAME);
    const current = this.notes.filter((note) => note.at + note.duration > now && !isNew(note));
    const shown = notes.map(([at, pitch, duration, velocity, who]) =>
      ({ at, pitch, duration, velocity, who, seen: at }));
    this.notes = [...shown, ...current];
    this.wake();
  }

  /** Redraws the roll after a change of its notes. */
  wake() {
    this.#isChanged = true;
    this.#frame ||= requestAnimationFrame(() => this.#animate());
  }

  #resize() {
    const style = getComputedStyle(this.#canvas);
    for (const name of COLOURS) this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.#canvas.width = this.#canvas.clientWidth * devicePixelRatio;
    this.#canvas.height = this.#canvas.clientHeight * devicePixelRatio;
    cancelAnimationFrame(this.#frame);
    this.#isChanged = true;
    this.#animate(); // in this frame: a canvas is empty after a resize
  }

  #animate() {
    const now = performance.now();
    if (this.#isChanged) {
      this.notes.sort((a, b) => a.at - b.at);
      this.#timeline = new Timeline(this.notes);
      for (const note of this.notes) note.place = this.#timeline.place(note.at);
      this.#isChanged = false;
    }
    const sounding = this.notes.filter(({ at, duration }) => at <= now && now < at + duration);
    this.#draw(now, sounding);
    this.#onSounding(new Map(sounding.map(({ pitch, who }) => [pitch, who])));
    const isMoving = this.notes.length > 0 && !this.#timeline.isOver(now);
    this.#frame = isMoving ? requestAnimationFrame(() => this.#animate()) : 0;
  }

  #draw(now, sounding) {
    const context = this.#context, colours = this.#colours;
    const width = this.#canvas.clientWidth, height = this.#canvas.clientHeight - (this.#window ? STRIP : 0);
    const unit = width / this.#geometry.width;
    const span = Math.min(Math.max(height * 20, 4000), 10000); // ms from top to bottom
    const present = this.#timeline.place(now);
    const page = span * (1 - COMING - PASSED);
    const start = this.#still.matches ? Math.floor(present / page) * page : present - page;
    const top = start - span * PASSED;
    const y = (place) => ((place - top) / span) * height;
    const fill = (colour, alpha, ...box) => {
      context.fillStyle = colour;
      context.globalAlpha = alpha;
      context.fillRect(...box);
    };

    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, this.#canvas.clientHeight);
    for (const [pitch, key] of this.#geometry.keys) {
      if (isBlack(pitch)) fill(colours.lane, 1, key.left * unit, 0, key.width * unit, height);
      if (pitch % 12 === 0) fill(colours.edge, 1, key.left * unit - 0.5, 0, 1, height);
    }
    const line = y(present);
    fill(colours.ink, 0.035, 0, line, width, height - line);
    for (const place of this.#timeline.breaks) {
      for (let x = 0; x < width; x += 8) fill(colours.soft, 0.5, x, y(place), 4, 1);
    }
    for (const { pitch, who } of sounding) this.#drawBeam(pitch, who, unit, line, height);
    for (const note of this.notes) this.#drawNote(note, now, unit, y, height);
    fill(colours.ink, 0.55, 0, line - 0.5, width, 1);
    context.globalAlpha = 1;
    if (!this.#window) return;
    context.clearRect(0, height, width, STRIP);
    this.#drawStrip(sounding, unit, height);
  }

  /** Draws light from a key that sounds to the line of the present. */
  #drawBeam(pitch, who, unit, line, height) {
    const key = this.#geometry.keys.get(pitch);
    if (!key) return;
    const context = this.#context;
    const gradient = context.createLinearGradient(0, line, 0, height);
    const colour = this.#colours[COLOURS[who]];
    gradient.addColorStop(0, colour);
    gradient.addColorStop(1, "transparent");
    context.fillStyle = gradient;
    context.globalAlpha = 0.3;
    context.fillRect(key.left * unit, line, key.width * unit, height - line);
  }

  #drawNote({ at, place, pitch, duration, velocity, who }, now, unit, y, height) {
    const key = this.#geometry.keys.get(pitch);
    const length = duration === Infinity ? now - at : duration;
    const top = y(place), bottom = Math.max(y(place + length), top + 4);
    if (!key || bottom < 0 || top > height) return;
    const context = this.#context, inset = unit > 12 ? 1.5 : 0.5;
    const box = [key.left * unit + inset, top, Math.max(key.width * unit - 2 * inset, 2.5), bottom - top];
    context.fillStyle = context.strokeStyle = this.#colours[COLOURS[who]];
    context.globalAlpha = at > now ? 0.4 : now < at + length ? 1 : 0.5 + velocity / 300;
    context.beginPath();
    context.roundRect(...box, Math.min(3, box[2] / 2));
    if (who === FILE) { // hollow, so that colour is not the only difference
      context.globalAlpha *= 0.35;
      context.fill();
      context.globalAlpha = at > now ? 0.45 : 1;
      context.stroke();
    } else {
      context.fill();
    }
  }

  /** Draws a small keyboard of all keys, and a frame around the part that is shown below. */
  #drawStrip(sounding, unit, top) {
    const context = this.#context, colours = this.#colours, height = STRIP - 4;
    const players = new Map(sounding.map(({ pitch, who }) => [pitch, who]));
    for (const black of [false, true]) {
      for (const [pitch, key] of this.#geometry.keys) {
        if (isBlack(pitch) !== black) continue;
        const who = players.get(pitch);
        context.fillStyle = who === undefined ? colours[black ? "black-key" : "white-key"] : colours[COLOURS[who]];
        context.fillRect(key.left * unit + 0.25, top + 2, key.width * unit - 0.5, height * (black ? 0.6 : 1));
      }
    }
    const left = this.#window.left * unit, width = this.#window.width * unit;
    context.fillStyle = "#000";
    context.globalAlpha = 0.35;
    context.fillRect(0, top + 2, left, height);
    context.fillRect(left + width, top + 2, this.#geometry.width * unit - left - width, height);
    context.globalAlpha = 1;
    context.strokeStyle = colours.you;
    context.lineWidth = 2;
    context.strokeRect(left + 1, top + 2, width - 2, height);
    context.lineWidth = 1;
  }
}
