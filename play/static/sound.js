// Sound of the piano on an AudioContext.

const VOICES = 96;
const RELEASE = 0.09; // time constant in seconds
const UNDAMPED = 90; // pitches above have no dampers on a piano
const DECAY = 3; // seconds: a rough time constant of a piano's note, to find the quietest voice
const RESYNC = 50; // ms: a larger jump of the clocks is taken over at once

/** One note that sounds, or will. */
class Voice {
  constructor(context, output, { pitch, velocity, when }, sample) {
    this.pitch = pitch;
    this.when = when;
    this.level = (velocity / sample.velocity) ** 1.5;
    this.releasedAt = Infinity;
    this.source = new AudioBufferSourceNode(context, {
      buffer: sample.buffer,
      playbackRate: 2 ** ((pitch - sample.pitch) / 12),
    });
    this.gain = new GainNode(context, { gain: this.level });
    this.source.connect(this.gain).connect(output);
    this.source.start(when);
  }

  /** Fades the note out from a time of the context, unless it is released earlier. */
  release(when, constant = this.pitch > UNDAMPED ? 5 * RELEASE : RELEASE) {
    if (when >= this.releasedAt) return;
    this.releasedAt = when;
    this.gain.gain.cancelScheduledValues(when);
    this.gain.gain.setTargetAtTime(0, when, constant);
    this.source.stop(Math.max(when, this.when) + 8 * constant);
  }

  /** Returns about how loud the note is at a time of the context. */
  loudness(now) {
    const fade = Math.max(now - this.releasedAt, 0) / RELEASE;
    return this.level * Math.exp(-Math.max(now - this.when, 0) / DECAY - fade);
  }
}

/** The instrument. Times of its methods are those of performance.now(). */
export class Sound {
  #samples;
  #context = null;
  #limiter;
  #volume;
  #gain = 1;
  #offset = 0; // performance.now() minus the context's time, in ms
  #voices = new Set();

  constructor(samples) {
    this.#samples = samples;
  }

  get state() {
    return this.#context?.state ?? "suspended";
  }

  set volume(gain) {
    this.#gain = gain;
    this.#volume?.gain.setTargetAtTime(gain, this.#context.currentTime, 0.02);
  }

  /** Starts or resumes the sound; browsers allow it only during a gesture. */
  start() {
    if (this.state === "running" || navigator.userActivation?.isActive === false) return;
    if (!this.#context) this.#open();
    this.#context.resume();
  }

  /** Follows the drift between the two clocks; called several times a second. */
  sync() {
    if (this.state !== "running") return;
    const offset = performance.now() - this.#context.currentTime * 1000;
    const error = offset - this.#offset;
    this.#offset += Math.abs(error) > RESYNC ? error : error / 8;
  }

  /**
   * Plays a note.
   * @param {number} [at] its moment; at once without one.
   * @param {number} [duration] ms; it sounds until it is released without one.
   * @returns {?Voice} null while there is no sound.
   */
  play(pitch, velocity, at, duration) {
    const sample = this.#samples.nearest(pitch, velocity);
    const isInterrupted = this.state !== "running" && this.#context?.currentTime > 0;
    if (!sample || !this.#context || isInterrupted) return null;
    const when = at === undefined ? this.#context.currentTime : this.#time(at);
    const voice = new Voice(this.#context, this.#limiter, { pitch, velocity, when }, sample);
    this.#voices.add(voice);
    if (at === undefined) this.limit();
    voice.source.addEventListener("ended", () => {
      this.#voices.delete(voice);
      voice.gain.disconnect();
    });
    if (duration !== undefined) voice.release(Math.max(this.#time(at + duration), when + 0.03));
    return voice;
  }

  /** Releases a voice, at once without a moment. A voice that has not begun stays silent. */
  release(voice, at) {
    if (!voice) return;
    const now = this.#context.currentTime;
    if (voice.when > now) {
      voice.source.stop();
      this.#voices.delete(voice);
    } else {
      voice.release(at === undefined ? now : this.#time(at));
    }
  }

  /** Ends the quietest voices if too many sound; called when a note starts. */
  limit() {
    const now = this.#context.currentTime;
    const sounding = [...this.#voices].filter(({ when }) => when <= now + 0.05);
    sounding.sort((a, b) => b.loudness(now) - a.loudness(now));
    for (const voice of sounding.slice(VOICES)) {
      voice.release(now, 0.01);
      this.#voices.delete(voice);
    }
  }

  #open() {
    this.#context = new AudioContext({ latencyHint: "interactive" });
    this.#limiter = new DynamicsCompressorNode(this.#context, {
      threshold: -12, knee: 8, ratio: 12, attack: 0.003, release: 0.2,
    });
    this.#volume = new GainNode(this.#context, { gain: this.#gain });
    this.#limiter.connect(this.#volume).connect(this.#context.destination);
    this.#context.addEventListener("statechange", () => this.sync());
    this.#offset = performance.now();
  }

  /** Returns the context's time of a moment, now for a moment in the past. */
  #time(at) {
    return Math.max((at - this.#offset) / 1000, this.#context.currentTime);
  }
}
