// The page: connects the player's keyboards, the server, the sound and the roll.

import { Branches } from "./branches.js";
import { ComputerKeys, takesText } from "./computer_keys.js";
import { Connection } from "./connection.js";
import { Controls, readLink, writeLink } from "./controls.js";
import { download, takeFiles } from "./files.js";
import { noteName } from "./geometry.js";
import { Keyboard } from "./keyboard.js";
import { Midi } from "./midi.js";
import { Player } from "./player.js";
import { FILE, MODEL, Roll } from "./roll.js";
import { Samples } from "./samples.js";
import { Schedule } from "./schedule.js";
import { Sound } from "./sound.js";
import { Status, describeLatency } from "./status.js";

const TICK = 200; // ms between checks of the clocks and of the status
const CONFIRM = 3000; // ms in which a second click on Clear counts

const byId = (id) => document.getElementById(id);
const piano = byId("piano"), form = byId("settings-form");
const sounded = { you: 0, model: 0, file: 0 };
let link = readLink(location.hash);
let turn = "yours", latency = "", isReady = false, problem = "loading";

const samples = new Samples();
const sound = new Sound(samples);
const status = new Status({ turn: byId("turn"), hint: byId("hint"), notice: byId("notice") });
const controls = new Controls(form, (settings) => {
  connection.send("set", { settings });
  if ("mode" in settings || "hand_over" in settings) latency = ""; // the hint explains the new way
  refresh();
});
link = controls.show(link);

const roll = new Roll(byId("roll"), {
  onSounding: (players) => keyboard.light(players),
  onStrip: (place) => keyboard.scrollTo(place - keyboard.window.width / 2),
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
const schedule = new Schedule({
  sound, midi, roll,
  onStart: (who) => { sounded[who === FILE ? "file" : "model"] += 1; },
});

const player = new Player(sound, roll, {
  onKey: (pitch, velocity, at) => {
    byId("welcome").hidden = true;
    if (velocity) interrupt(at);
    connection.send("key", { pitch, velocity, at });
  },
  onPedal: (isDown, at) => {
    byId("pedal").setAttribute("aria-pressed", isDown);
    connection.send("pedal", { down: isDown, at });
  },
  onStart: () => { sounded.you += 1; },
});
const keyboard = new Keyboard(piano, {
  onPress: (pitch, velocity, at) => player.press(pitch, velocity, at),
  onRelease: (pitch, at) => player.release(pitch, at),
  onRange: () => showRange(),
});
const computerKeys = new ComputerKeys({
  onPress: (pitch, at) => player.press(pitch, form.elements.touch.valueAsNumber, at),
  onRelease: (pitch, at) => player.release(pitch, at),
  onPedal: (isDown, at) => player.pedal(isDown, at),
  onShift: shiftOctave,
  onLayout: labelKeys,
});
const branches = new Branches(byId("branches-dialog"), sound, (branch) => {
  if (branch >= 0) cancel(); // the request for branches has cancelled the notes already
  connection.send("choose", { branch });
});

const received = {
  ready({ settings, composers, lowest, highest, model }) {
    isReady = true;
    problem = "";
    status.notify("");
    controls.offer(composers);
    controls.show(settings);
    if (lowest !== keyboard.geometry.lowest || highest !== keyboard.geometry.highest) {
      keyboard.setRange(lowest, highest);
      labelKeys();
    }
    byId("title").title = model;
  },
  notes({ epoch, notes }) {
    if (epoch >= connection.epoch) schedule.add(notes);
  },
  cut({ at }) {
    schedule.cut(at);
  },
  turn(message) {
    turn = message.whose;
    if (turn === "model") latency = message.latency === undefined ? "" : describeLatency(message.latency, controls.settings);
  },
  music({ notes }) {
    const shown = notes.map(([at, pitch, duration, velocity, who]) => ({ at, pitch, duration, velocity, who }));
    const known = new Set(notes.map(([at, pitch]) => `${at} ${pitch}`));
    const later = [...schedule.notes, ...player.notes].filter(({ at, pitch }) => !known.has(`${at} ${pitch}`));
    roll.replace([...shown, ...later]);
  },
  branches: (message) => branches.show(message.branches),
  error({ message }) {
    branches.close();
    status.notify(message);
  },
};

const connection = new Connection({
  onOpen: () => connection.send("start", { settings: isReady ? controls.settings : link }),
  onMessage(message) {
    received[message.type]?.(message);
    refresh();
  },
  onFile: (bytes) => download(bytes, `sostenuto-seed-${controls.settings.seed}.mid`),
  onLost(reason, isFull) {
    problem = isFull ? "full" : "lost";
    turn = "yours";
    schedule.stop(performance.now());
    branches.close();
    const text = isFull ? reason : `The connection to the server is lost. ${reason}`.trim();
    status.notify(`${text} This page tries again by itself.`, true);
    refresh();
  },
});

/** Cancels all notes of the model. */
function cancel() {
  connection.epoch += 1;
  schedule.stop(performance.now());
  turn = "yours";
}

/** Cancels the notes of the model at a key of the player, also those that are still on their way to the page. */
function interrupt(at) {
  connection.epoch += 1;
  if (controls.settings.mode === "together") {
    schedule.cut(at);
  } else {
    schedule.stop(at);
    turn = "yours";
  }
  refresh();
}

/** Cancels the notes of the model and sends a request. */
function request(type) {
  cancel();
  connection.send(type);
  refresh();
}

const isModelsTurn = () => turn === "model" || schedule.isPlaying;

function goOnOrStop() {
  if (isModelsTurn()) request("stop");
  else connection.send("continue");
}

function openBranches() {
  request("branches");
  branches.open();
}

/** Asks for a second click, then forgets the piece. */
function clear() {
  const button = byId("clear"), isSure = button.classList.toggle("sure");
  button.querySelector(".label").textContent = isSure ? "Sure?" : "Clear";
  clearTimeout(button.timer);
  if (isSure) button.timer = setTimeout(clear, CONFIRM);
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

function showRange() {
  roll.show(keyboard.geometry, keyboard.window);
  const range = (keyboard.window ? keyboard.range : computerKeys.range).map(noteName);
  piano.setAttribute("aria-label", `Piano. The computer's keys play ${computerKeys.range.map(noteName).join(" to ")}.`);
  byId("range").textContent = range.join("–");
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

/** Shows the state; called at each change of it and several times a second. */
function refresh() {
  const isConnected = isReady && !problem, isModel = isModelsTurn();
  const loaded = samples.count + samples.missing, isLoading = !samples.total || loaded < samples.total;
  status.show({
    isConnected, isModel, latency, settings: controls.settings,
    loading: isLoading && samples.total ? `Loading the piano: ${loaded} of ${samples.total} sounds` : "",
  });
  byId("go-on").querySelector(".label").textContent = isModel ? "Stop" : "Go on";
  byId("go-on").querySelector("use").setAttribute("href", isModel ? "#icon-stop" : "#icon-play");
  for (const id of ["go-on", "undo", "branches", "clear", "save"]) byId(id).disabled = !isConnected;
  byId("loading").hidden = !isLoading;
  byId("loading").value = samples.total ? loaded / samples.total : 0;
}

function toggleSettings(isOpen) {
  byId("settings").classList.toggle("open", isOpen);
  byId("settings-button").setAttribute("aria-expanded", isOpen);
}

function handleShortcut(event) {
  const { code, target } = event, isControl = target.closest("button, summary, a, select, input, dialog") !== null;
  if (code === "Escape" && !target.closest("dialog")) toggleSettings(false);
  if (event.repeat || takesText(target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const isFree = !isControl || (target.type === "range" && code !== "Enter");
  const action = { Space: goOnOrStop, Backspace: () => request("undo"), Enter: openBranches }[code];
  if (!action || !isFree || !isReady || problem) return;
  event.preventDefault();
  action();
}

const clicks = {
  "start": () => {
    byId("welcome").hidden = true;
    piano.focus();
  },
  "go-on": goOnOrStop,
  "undo": () => request("undo"),
  "branches": openBranches,
  "clear": () => {
    const wasSure = byId("clear").classList.contains("sure");
    clear();
    if (wasSure) request("clear");
  },
  "save": () => connection.send("save"),
  "open": () => byId("file").click(),
  "link": copyLink,
  "octave-down": () => shiftOctave(-1),
  "octave-up": () => shiftOctave(1),
  "settings-button": () => toggleSettings(!byId("settings").classList.contains("open")),
  "settings-close": () => toggleSettings(false),
};
for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);

// A pedal for fingers and the mouse: down while it is held. The keyboard's Enter and Space switch it.
const pedal = byId("pedal");
pedal.addEventListener("pointerdown", (event) => {
  pedal.setPointerCapture(event.pointerId);
  player.pedal(true, event.timeStamp);
});
for (const type of ["pointerup", "pointercancel"]) pedal.addEventListener(type, (event) => player.pedal(false, event.timeStamp));
pedal.addEventListener("click", (event) => {
  if (!event.detail) player.pedal(!player.isPedalDown, event.timeStamp);
});

// The mouse leaves the focus where it is, so that the computer's keys play on after a click.
let isPointer = false;
addEventListener("pointerdown", () => { isPointer = true; }, true);
addEventListener("keydown", () => { isPointer = false; }, true);
addEventListener("mousedown", (event) => {
  if (event.target.closest("button")) event.preventDefault();
});
addEventListener("change", (event) => {
  if (isPointer) event.target.blur();
});

for (const type of ["pointerdown", "pointerup", "keydown", "click"]) addEventListener(type, () => sound.start(), true);
addEventListener("keydown", handleShortcut);
addEventListener("hashchange", () => {
  const settings = controls.show(readLink(location.hash));
  if (isReady) connection.send("set", { settings });
  refresh();
});
form.elements.volume.addEventListener("input", () => { sound.volume = (form.elements.volume.value / 100) ** 2; });
form.elements.volume.dispatchEvent(new Event("input"));
takeFiles(byId("file"), {
  onFile: (bytes) => {
    byId("welcome").hidden = true;
    cancel();
    connection.sendFile(bytes);
  },
  onError: (text) => status.notify(text),
});
setInterval(() => {
  sound.sync();
  refresh();
}, TICK);
labelKeys();
let hasSamples = false;
samples.load(refresh).then(() => {
  hasSamples = true;
  refresh();
});

Object.defineProperty(window, "sostenuto", {
  value: Object.freeze({
    get state() { return problem || (hasSamples ? "ready" : "loading"); },
    get samples() { return samples.count; },
    get audio() { return sound.state; },
    get sounded() { return { ...sounded }; },
    get underruns() { return schedule.underruns; },
  }),
});
