// Dialog with three ways to go on: each can be heard and chosen.

const NONE = -1;
const EDGE = 6; // pixels around the notes

/** Draws the notes of a branch, and the place that sounds. */
function draw(canvas, notes, progress) {
  const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  context.scale(devicePixelRatio, devicePixelRatio);
  const pitches = notes.map(([, pitch]) => pitch);
  const lowest = Math.min(...pitches) - 1, highest = Math.max(...pitches) + 1;
  const end = lengthOf(notes);
  const x = (offset) => EDGE + (offset / end) * (width - 2 * EDGE);
  const row = (height - 2 * EDGE) / (highest - lowest + 1);
  context.fillStyle = style.getPropertyValue("--model");
  for (const [offset, pitch, duration, velocity] of notes) {
    context.globalAlpha = 0.5 + velocity / 254;
    const length = Math.max(x(offset + duration) - x(offset) - 1, 2);
    context.fillRect(x(offset), EDGE + (highest - pitch) * row, length, Math.max(Math.min(row, 6), 1.5));
  }
  context.globalAlpha = 1;
  context.fillStyle = style.getPropertyValue("--ink");
  if (progress !== undefined) context.fillRect(x(progress), 0, 1.5, height);
}

function lengthOf(notes) {
  return Math.max(...notes.map(([offset, , duration]) => offset + duration), 1);
}

/** The dialog. */
export class Branches {
  #dialog;
  #list;
  #template;
  #sound;
  #onChoose;
  #voices = [];
  #frame = 0;
  #endPreview = () => {};

  /** @param {function(number)} onChoose receives the branch, or -1 for none. */
  constructor(dialog, sound, onChoose) {
    this.#dialog = dialog;
    this.#list = dialog.querySelector(".branch-list");
    this.#template = dialog.querySelector("template");
    this.#sound = sound;
    this.#onChoose = onChoose;
    dialog.addEventListener("close", () => {
      this.#endPreview();
      onChoose(Number(dialog.returnValue || NONE));
    });
  }

  /** Opens the dialog until the branches arrive. */
  open() {
    this.#list.replaceChildren();
    this.#dialog.classList.add("waiting");
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  /** Shows the branches, each a list of [offset, pitch, duration, velocity]. */
  show(branches) {
    if (!this.#dialog.open) return;
    this.#dialog.classList.remove("waiting");
    const items = branches.map((notes, index) => this.#item(notes, index));
    this.#list.replaceChildren(...items.map(({ item }) => item));
    for (const { canvas, notes } of items) draw(canvas, notes);
    this.#list.querySelector("button").focus();
  }

  #item(notes, index) {
    const item = this.#template.content.cloneNode(true).firstElementChild;
    const [canvas, listen, choose] = ["canvas", ".listen", ".choose"].map((selector) => item.querySelector(selector));
    const name = `Way ${index + 1}`;
    item.querySelector("h3").textContent = name;
    canvas.setAttribute("aria-label", `${name}: ${notes.length} notes`);
    choose.setAttribute("aria-label", `Choose ${name}`);
    choose.addEventListener("click", () => this.#dialog.close(String(index)));
    listen.setAttribute("aria-label", `Listen to ${name}`);
    listen.addEventListener("click", () => {
      const isPlaying = listen.textContent === "Stop";
      this.#endPreview();
      if (!isPlaying) this.#preview(canvas, notes, listen);
    });
    return { item, canvas, notes };
  }

  #preview(canvas, notes, button) {
    const begin = performance.now() + 60;
    const name = button.getAttribute("aria-label");
    this.#sound.start();
    this.#voices = notes.map(([offset, pitch, duration, velocity]) =>
      this.#sound.play(pitch, velocity, begin + offset, duration));
    button.textContent = "Stop";
    button.setAttribute("aria-label", name.replace("Listen to", "Stop"));
    this.#endPreview = () => {
      cancelAnimationFrame(this.#frame);
      for (const voice of this.#voices) this.#sound.release(voice);
      button.textContent = "Listen";
      button.setAttribute("aria-label", name);
      draw(canvas, notes);
      this.#endPreview = () => {};
    };
    const animate = () => {
      const progress = performance.now() - begin;
      if (progress > lengthOf(notes)) return this.#endPreview();
      draw(canvas, notes, Math.max(progress, 0));
      this.#frame = requestAnimationFrame(animate);
    };
    animate();
  }
}
