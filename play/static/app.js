// The page: makes its parts and connects them.

import { Branches } from "./branches.js";
import { bindButtons, bindPanel, bindPedal, bindShortcuts, confirmed } from "./buttons.js";
import { ComputerKeys } from "./computer_keys.js";
import { Controls, readLink, writeLink } from "./controls.js";
import { download, takeFiles } from "./files.js";
import { noteName } from "./geometry.js";
import { Keyboard } from "./keyboard.js";
import { Midi } from "./midi.js";
import { Player } from "./player.js";
import { FILE, Roll } from "./roll.js";
import { Samples } from "./samples.js";
import { Schedule } from "./schedule.js";
import { Session } from "./session.js";
import { Sound } from "./sound.js";
import { Status } from "./status.js";

const TICK = 200; // ms between checks of the clocks and of the state

const byId = (id) => document.getElementById(id);
const piano = byId("piano"), form = byId("settings-form"), clearButton = byId("clear");
const sounded = { you: 0, model: 0, file: 0 };
let hasSamples = false;

const samples = new Samples();
const sound = new Sound(samples);
const status = new Status({ turn: byId("turn"), hint: byId("hint"), notice: byId("notice") });
const controls = new Controls(form, (settings) => {
  session.set(settings);
  refresh();
});

// Keyboards

const player = new Player(sound, {
  onKey: (note) => {
    byId("welcome").hidden = true;
    session.key(note.pitch, note.velocity, note.at);
    roll.add(note);
    refresh();
  },
  onRelease: (pitch, at) => {
    session.key(pitch, 0, at);
    roll.wake();
  },
  onPedal: (isDown, at) => {
    byId("pedal").setAttribute("aria-pressed", isDown);
    session.pedal(isDown, at);
  },
  onStart: () => { sounded.you += 1; },
});
const keyboard = new Keyboard(piano, {
  onPress: (pitch, velocity, at) => player.press(pitch, velocity, at),
  onRelease: (pitch, at) => player.release(pitch, at),
  onRange: showRange,
});
const computerKeys = new ComputerKeys({
  onPress: (pitch, at) => player.press(pitch, form.elements.touch.valueAsNumber, at),
  onRelease: (pitch, at) => player.release(pitch, at),
  onPedal: (isDown, at) => player.pedal(isDown, at),
  onShift: shiftOctave,
  onLayout: labelKeys,
});
const midi = new Midi(
  {
    connect: byId("midi-connect"), unsupported: byId("midi-unsupported"), ports: byId("midi-ports"),
    input: byId("midi-input"), output: byId("midi-output"), alone: byId("midi-alone"),
  },
  {
    onKey: (pitch, velocity, at) => (velocity ? player.press(pitch, velocity, at) : player.release(pitch, at)),
    onPedal: (isDown, at) => player.pedal(isDown, at),
    onError: (text) => status.notify(text),
  },
);

// Music

const roll = new Roll(byId("roll"), {
  onSounding: (players) => keyboard.light(players),
  onStrip: (place) => keyboard.scrollTo(place - keyboard.window.width / 2),
});
const schedule = new Schedule({
  sound, midi, roll,
  onStart: (who) => { sounded[who === FILE ? "file" : "model"] += 1; },
});
const branches = new Branches(byId("branches-dialog"), sound, (branch) => session.choose(branch));
// The server checks the composer: the page does not know the names yet.
const { composer = "", ...settings } = readLink(location.hash);
const link = { ...controls.show(settings), ...(composer && { composer }) };
const session = new Session(
  { controls, schedule, roll, link },
  {
    onReady: ({ lowest, highest, model }) => {
      keyboard.setRange(lowest, highest);
      labelKeys();
      byId("title").title = model;
      status.settle();
    },
    onBranches: (ways) => branches.show(ways),
    onFile: (bytes) => download(bytes, `sostenuto-seed-${controls.settings.seed}.mid`),
    onError: (text, isLasting) => {
      branches.close();
      status.notify(text, isLasting);
    },
    onChange: refresh,
  },
);

function showRange() {
  roll.show(keyboard.geometry, keyboard.window);
  const range = computerKeys.range.map(noteName);
  piano.setAttribute("aria-label", `Piano. The computer's keys play ${range.join(" to ")}.`);
  byId("range").textContent = (keyboard.window ? keyboard.range.map(noteName) : range).join("–");
}

/** Writes the computer's keys on the piano's. */
function labelKeys() {
  keyboard.label(computerKeys.letters);
  showRange();
}

function shiftOctave(octaves) {
  computerKeys.shift(octaves);
  if (keyboard.window) keyboard.scrollBy(octaves);
  labelKeys();
}

async function copyLink() {
  history.replaceState(null, "", writeLink(controls.settings));
  try {
    await navigator.clipboard.writeText(location.href);
    status.notify("The link with the seed and the settings is copied.");
  } catch {
    status.notify("The link is in the address bar. Copy it from there.");
  }
}

/** Shows the state; called at each change of it and several times a second. */
function refresh() {
  const isConnected = !session.problem, isModel = session.isModelsTurn;
  const loaded = samples.count + samples.missing;
  const loading = samples.total ? `Loading the piano: ${loaded} of ${samples.total}` : "Loading the piano";
  status.show({
    isConnected, isModel, latency: session.latency, settings: controls.settings, loading: hasSamples ? "" : loading,
  });
  byId("go-on").querySelector(".label").textContent = isModel ? "Stop" : "Go on";
  byId("go-on").querySelector("use").setAttribute("href", isModel ? "#icon-stop" : "#icon-play");
  for (const id of ["go-on", "undo", "branches", "clear", "save"]) byId(id).disabled = !isConnected;
  byId("loading").hidden = hasSamples;
  byId("loading").value = samples.total ? loaded / samples.total : 0;
}

bindButtons({
  "start": () => {
    byId("welcome").hidden = true;
    piano.focus();
  },
  "go-on": () => session.goOnOrStop(),
  "undo": () => session.request("undo"),
  "branches": () => {
    session.request("branches");
    branches.open();
  },
  "clear": confirmed(clearButton, () => session.request("clear")),
  "save": () => session.save(),
  "open": () => byId("file").click(),
  "link": copyLink,
  "octave-down": () => shiftOctave(-1),
  "octave-up": () => shiftOctave(1),
});
bindShortcuts({ Space: "go-on", Backspace: "undo", Enter: "branches" });
bindPedal(byId("pedal"), player);
bindPanel(byId("settings"), byId("settings-button"), byId("settings-close"));
takeFiles(byId("file"), {
  onFile: (bytes) => {
    byId("welcome").hidden = true;
    session.load(bytes);
  },
  onError: (text) => status.notify(text),
});

for (const type of ["pointerdown", "pointerup", "keydown", "click"]) addEventListener(type, () => sound.start(), true);
form.elements.volume.addEventListener("input", ({ target }) => { sound.volume = (target.value / 100) ** 2; });
addEventListener("hashchange", () => session.set(controls.show(readLink(location.hash))));
setInterval(() => {
  sound.sync();
  refresh();
}, TICK);
labelKeys();
addEventListener("pagehide", () => schedule.stop(performance.now())); // notes at a MIDI output end
samples.load(refresh).catch(() => {}).then(() => {
  hasSamples = true;
  if (!samples.count) status.notify("The piano's sounds cannot be loaded. Load the page again.");
  refresh();
});

// For the tests.
Object.defineProperty(window, "sostenuto", {
  value: Object.freeze({
    get state() { return session.problem || (hasSamples ? "ready" : "loading"); },
    get samples() { return samples.count; },
    get audio() { return sound.state; },
    get sounded() { return { ...sounded }; },
    get underruns() { return schedule.underruns; },
  }),
});
