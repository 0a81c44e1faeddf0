// The model's notes from their arrival to their end: sound, MIDI output and roll.

import { MODEL } from "./roll.js";

const EARLY = 15; // ms: a timer runs before its moment, since timers are late
const GAP = 1; // ms between a note's end and the next one of its pitch at a MIDI output
const TOO_LATE = 500; // ms: a note that is later than this is shown only

/** Plays notes at their moments and cancels them. Times are those of performance.now(). */
export class Schedule {
  underruns = 0;
  #entries = new Set(); // {note, voice, timer}
  #atOutput = new Map(); // pitch -> the entry that sounds at the MIDI output
  #sound;
  #midi;
  #roll;
  #onStart;

  /** @param {function(number)} onStart receives the player (MODEL or FILE) of each note that starts to sound. */
  constructor({ sound, midi, roll, onStart }) {
    this.#sound = sound;
    this.#midi = midi;
    this.#roll = roll;
    this.#onStart = onStart;
  }

  get isPlaying() {
    return this.#entries.size > 0;
  }

  /** @param {Array} notes of [at, pitch, duration, velocity, who]. */
  add(notes) {
    const now = performance.now();
    for (const [at, pitch, duration, velocity, who] of notes) {
      const note = { at, pitch, duration, velocity, who };
      this.#roll.add(note);
      if (at < now && who === MODEL) this.underruns += 1;
      if (at < now - TOO_LATE) continue;
      const voice = this.#midi.isAlone ? null : this.#sound.play(pitch, velocity, at, duration);
      const entry = { note, voice };
      entry.timer = setTimeout(() => this.#start(entry), at - now - EARLY);
      this.#entries.add(entry);
    }
  }

  /** Cancels the notes with an onset at or after a moment. */
  cut(at) {
    for (const entry of this.#entries) if (entry.note.at >= at) this.#cancel(entry);
  }

  /** Cancels the notes after a moment and releases those that sound. */
  stop(at) {
    this.cut(at);
    for (const entry of this.#entries) {
      entry.note.duration = Math.min(entry.note.duration, at - entry.note.at);
      this.#sound.release(entry.voice, at);
      this.#finish(entry);
    }
    this.#roll.wake();
  }

  #start(entry) {
    const { at, pitch, duration, velocity, who } = entry.note;
    const before = this.#atOutput.get(pitch);
    if (before) this.#release(before, Math.max(at - GAP, before.note.at));
    entry.output = this.#midi.output;
    if (entry.output) {
      this.#midi.noteOn(entry.output, pitch, velocity, at);
      this.#atOutput.set(pitch, entry);
    }
    if (entry.voice) this.#sound.limit();
    if (entry.voice || entry.output) this.#onStart(who);
    const end = at + duration;
    // A note shorter than the gap ends after its start, too.
    entry.timer = setTimeout(() => this.#finish(entry, Math.max(end - GAP, at + GAP)), end - EARLY - performance.now());
  }

  #cancel(entry) {
    this.#sound.release(entry.voice);
    this.#roll.remove(entry.note);
    this.#finish(entry);
  }

  /** Forgets a note; without a moment of its end, it ends at once, but after its start, which is sent early. */
  #finish(entry, end = entry.note.at + GAP) {
    clearTimeout(entry.timer);
    this.#release(entry, end);
    this.#entries.delete(entry);
  }

  /** Ends a note at the MIDI output, unless it has ended or another one of its pitch has taken its place. */
  #release(entry, end) {
    if (!entry || this.#atOutput.get(entry.note.pitch) !== entry) return;
    this.#atOutput.delete(entry.note.pitch);
    this.#midi.noteOff(entry.output, entry.note.pitch, end);
  }
}
