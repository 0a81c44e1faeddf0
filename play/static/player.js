// The player's notes, from any keyboard: sound, roll and pedal.

import { YOU } from "./roll.js";

/** Counts who holds a key, so that a finger and a computer's key may hold the same one. */
export class Player {
  isPedalDown = false;
  #held = new Map(); // pitch -> {note, voice, holders}
  #sustained = new Map(); // pitch -> voice
  #sound;
  #roll;
  #handlers;

  /** @param {object} handlers onKey(pitch, velocity, at), with velocity 0 for a release; onPedal(isDown, at); onStart(). */
  constructor(sound, roll, handlers) {
    this.#sound = sound;
    this.#roll = roll;
    this.#handlers = handlers;
  }

  /** The notes whose keys are down. */
  get notes() {
    return [...this.#held.values()].map(({ note }) => note);
  }

  press(pitch, velocity, at) {
    this.#sound.start();
    const held = this.#held.get(pitch);
    if (held) {
      held.holders += 1;
      return;
    }
    this.#handlers.onKey(pitch, velocity, at);
    this.#sound.release(this.#sustained.get(pitch));
    this.#sustained.delete(pitch);
    const note = { at, pitch, duration: Infinity, velocity, who: YOU };
    const voice = this.#sound.play(pitch, velocity);
    if (voice) this.#handlers.onStart();
    this.#held.set(pitch, { note, voice, holders: 1 });
    this.#roll.add(note);
  }

  release(pitch, at) {
    const held = this.#held.get(pitch);
    if (!held) return;
    held.holders -= 1;
    if (held.holders) return;
    this.#held.delete(pitch);
    held.note.duration = Math.max(at - held.note.at, 1);
    this.#roll.wake();
    if (this.isPedalDown) {
      this.#sustained.set(pitch, held.voice);
    } else {
      this.#sound.release(held.voice);
    }
    this.#handlers.onKey(pitch, 0, at);
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
