// The player's notes, from any keyboard, and the pedal.

import { YOU } from "./roll.js";

/** Counts who holds a key, so that a finger and a computer's key may hold the same one. */
export class Player {
  isPedalDown = false;
  #held = new Map(); // pitch -> {note, voice, holders}
  #sustained = new Map(); // pitch -> voice
  #sound;
  #handlers;

  /**
   * @param {Sound} sound
   * @param {object} handlers onKey(note), onRelease(pitch, at), onPedal(isDown, at), and onStart() for each sound.
   */
  constructor(sound, handlers) {
    this.#sound = sound;
    this.#handlers = handlers;
  }

  press(pitch, velocity, at) {
    this.#sound.start();
    const held = this.#held.get(pitch);
    if (held) {
      held.holders += 1;
      return;
    }
    const note = { at, pitch, duration: Infinity, velocity, who: YOU };
    this.#handlers.onKey(note);
    this.#sound.release(this.#sustained.get(pitch));
    this.#sustained.delete(pitch);
    const voice = this.#sound.play(pitch, velocity);
    if (voice) this.#handlers.onStart();
    this.#held.set(pitch, { note, voice, holders: 1 });
  }

  release(pitch, at) {
    const held = this.#held.get(pitch);
    if (!held) return;
    held.holders -= 1;
    if (held.holders) return;
    this.#held.delete(pitch);
    held.note.duration = Math.max(at - held.note.at, 1);
    if (this.isPedalDown) {
      this.#sustained.set(pitch, held.voice);
    } else {
      this.#sound.release(held.voice);
    }
    this.#handlers.onRelease(pitch, at);
  }

  pedal(isDown, at) {
    if (isDown === this.isPedalDown) return;
    this.isPedalDown = isDown;
    if (!isDown) {
      for (const voice of this.#sustained.values()) this.#sound.release(voice);
      this.#sustained.clear();
    }
    this.#handlers.onPedal(isDown, at);
  }
}
