// Recorded notes of a piano, fetched and decoded once.

const RATE = 44100;
const AT_ONCE = 4; // downloads
const RETRY = 2000; // ms
const ATTEMPTS = 10;

/** Orders items so that the first few are spread over the whole. */
function coarseToFine(items) {
  const order = new Set();
  for (let step = 8; step >= 1; step /= 2) {
    for (let index = 0; index < items.length; index += step) order.add(items[index]);
  }
  return [...order];
}

async function fetchOk(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: got status ${response.status}, expected 200`);
  return response;
}

/** Fetches the list of samples; tries for a while, since the server may start again. */
async function fetchList() {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await (await fetchOk("piano.json")).json();
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

/** The decoded samples. */
export class Samples {
  count = 0;
  total = 0;
  missing = 0;
  #layers = new Map(); // velocity -> [{pitch, buffer}]
  // An AudioContext may only start after a gesture; this one decodes before it.
  #decoder = new OfflineAudioContext(1, 1, RATE);

  /** Loads all samples. Calls onProgress after each. Throws an Error if the server has none. */
  async load(onProgress) {
    const { velocities, pitches } = await fetchList();
    const wanted = coarseToFine(pitches).flatMap((pitch) => velocities.map((velocity) => ({ pitch, velocity })));
    this.total = wanted.length;
    const queue = wanted.values();
    const work = async () => {
      for (const sample of queue) {
        await this.#loadOne(sample);
        onProgress();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  /** Returns the sample {pitch, velocity, buffer} that is nearest to a note, or undefined if none is loaded. */
  nearest(pitch, velocity) {
    const closest = (items, distance) => items.reduce((best, item) => (distance(item) < distance(best) ? item : best));
    if (!this.#layers.size) return undefined;
    const layer = closest([...this.#layers.keys()], (key) => Math.abs(key - velocity));
    return closest(this.#layers.get(layer), (sample) => Math.abs(sample.pitch - pitch));
  }

  async #loadOne({ pitch, velocity }) {
    try {
      const data = await (await fetchOk(`piano/${pitch}-${velocity}.flac`)).arrayBuffer();
      const buffer = await this.#decoder.decodeAudioData(data);
      if (!this.#layers.has(velocity)) this.#layers.set(velocity, []);
      this.#layers.get(velocity).push({ pitch, velocity, buffer });
      this.count += 1;
    } catch {
      this.missing += 1; // its neighbours take its place
    }
  }
}
