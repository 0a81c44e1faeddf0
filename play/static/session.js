// The dialogue with the server: whose turn it is, what is asked, and which notes of the model are still wanted.

import { Connection } from "./connection.js";
import { describeLatency } from "./status.js";

/** A session of the player, over one connection after another. */
export class Session {
  turn = "yours";
  latency = ""; // of the last answer, as a sentence
  problem = "loading"; // "lost" or "full" later, "" while connected
  #connection;
  #controls;
  #schedule;
  #id = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  #wanted; // settings until the server's are known; the page's take their place

  /**
   * @param {object} parts controls, schedule, roll, and the settings `link` to start with.
   * @param {object} handlers
   *   onReady(message), onBranches(branches), onFile(bytes), onError(text, isLasting);
   *   onChange(): something of the state has changed.
   */
  constructor({ controls, schedule, roll, link }, handlers) {
    this.#controls = controls;
    this.#schedule = schedule;
    this.#wanted = link;
    const received = {
      ready: (message) => {
        this.problem = "";
        const isFirst = this.#wanted !== null;
        this.#wanted = null;
        controls.offer(message);
        controls.show(message.settings);
        handlers.onReady(message);
        if (isFirst || message.resumed) return;
        roll.replace([]);
        handlers.onError("The server no longer has the piece. A new one begins.", false);
      },
      notes: ({ epoch, notes }) => {
        if (epoch >= this.#connection.epoch) schedule.add(notes);
      },
      cut: ({ at }) => schedule.cut(at),
      turn: ({ whose, latency }) => {
        this.turn = whose;
        if (whose === "model") this.latency = latency === undefined ? "" : describeLatency(latency, controls.settings);
      },
      music: ({ notes }) => roll.replace(notes),
      branches: ({ branches }) => handlers.onBranches(branches),
      error: ({ message }) => handlers.onError(message, false),
    };
    this.#connection = new Connection({
      onOpen: () => this.#connection.send("start", { session: this.#id, settings: this.#wanted ?? controls.settings }),
      onMessage: (message) => {
        received[message.type]?.(message);
        handlers.onChange();
      },
      onFile: handlers.onFile,
      onLost: (reason, isFull) => {
        this.problem = isFull ? "full" : "lost";
        this.#cancel();
        const sentence = reason.replace(/[^.]$/, "$&."); // closed by a full stop
        const text = isFull ? sentence : `The connection to the server is lost. ${sentence}`.trim();
        handlers.onError(`${text} This page tries again by itself.`, true);
        handlers.onChange();
      },
    });
  }

  get isModelsTurn() {
    return this.turn === "model" || this.#schedule.isPlaying;
  }

  /** Sends a key of the player, with velocity 0 for a release. A pressed key interrupts the model. */
  key(pitch, velocity, at) {
    if (velocity) this.#interrupt(at);
    this.#connection.send("key", { pitch, velocity, at });
  }

  pedal(isDown, at) {
    this.#connection.send("pedal", { down: isDown, at });
  }

  set(settings) {
    if ("mode" in settings || "hand_over" in settings) this.latency = ""; // a hint takes its place
    if (this.#wanted) Object.assign(this.#wanted, settings);
    this.#connection.send("set", { settings });
  }

  goOnOrStop() {
    if (this.isModelsTurn) this.request("stop");
    else this.#connection.send("continue");
  }

  /** Cancels the model's notes and sends "stop", "undo", "branches" or "clear". */
  request(type) {
    this.#cancel();
    this.#connection.send(type);
  }

  /** Chooses a branch, or none by -1; the request for branches has cancelled the notes already. */
  choose(branch) {
    if (branch >= 0) this.#cancel();
    this.#connection.send("choose", { branch });
  }

  save() {
    this.#connection.send("save");
  }

  load(bytes) {
    this.#cancel();
    this.#connection.sendFile(bytes);
  }

  #cancel(at = performance.now()) {
    this.#connection.epoch += 1;
    this.#schedule.stop(at);
    this.turn = "yours";
  }

  /** Cancels the model's notes from a moment on, also those that are still on their way to the page. */
  #interrupt(at) {
    if (this.#controls.settings.mode !== "together") return this.#cancel(at);
    this.#connection.epoch += 1;
    this.#schedule.cut(at);
  }
}
