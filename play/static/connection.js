// WebSocket connection to the server, which reconnects after a loss.

const CLOCK = 200; // ms between clock messages
const BACK_OFF = { first: 500, last: 10000 }; // ms
const FULL = 1013;

/** A connection that lasts as long as the page. */
export class Connection {
  /**
   * @param {object} handlers
   *   onOpen: called at every new connection.
   *   onMessage: receives each JSON message, parsed.
   *   onFile: receives each binary message.
   *   onLost: receives the server's reason, or "", and whether all places are taken.
   */
  constructor(handlers) {
    this.epoch = 0;
    this.#handlers = handlers;
    this.#connect();
    setInterval(() => this.send("clock"), CLOCK);
    addEventListener("online", () => this.#retryNow());
  }

  #handlers;
  #socket;
  #timer = 0;
  #delay = BACK_OFF.first;

  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** Sends a JSON message; drops it while there is no connection. */
  send(type, fields = {}) {
    if (this.isOpen) this.#socket.send(JSON.stringify({ type, at: performance.now(), epoch: this.epoch, ...fields }));
  }

  /** Sends a MIDI file. The message before it carries the epoch, which a binary message cannot. */
  sendFile(bytes) {
    this.send("stop");
    if (this.isOpen) this.#socket.send(bytes);
  }

  #connect() {
    const url = new URL("play", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = this.#socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      this.epoch = 0; // of a new session
      this.#handlers.onOpen();
    });
    socket.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") return this.#handlers.onFile(data);
      const message = JSON.parse(data);
      if (message.type === "ready") this.#delay = BACK_OFF.first;
      this.#handlers.onMessage(message);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      const wait = code === FULL ? BACK_OFF.last : this.#delay * (0.75 + Math.random() / 2);
      this.#delay = Math.min(this.#delay * 2, BACK_OFF.last);
      this.#timer = setTimeout(() => this.#connect(), wait);
      this.#handlers.onLost(reason, code === FULL);
    });
  }

  #retryNow() {
    if (this.#socket.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.#timer);
    this.#connect();
  }
}
