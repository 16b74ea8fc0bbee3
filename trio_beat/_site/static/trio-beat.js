// A WebSocket that notices when its server is dead, and reconnects.
//
// 1. Anything received proves that the server is alive. On a quiet channel that is the text
//    heartbeat, since scripts cannot see PINGs. Until the server has sent one, over this connection
//    or an earlier one, the watchdog is off, unless the options say that the server beats.
// 2. Text heartbeats are answered within the message event: browsers slow a hidden page's timers to
//    one a minute, but not its message events.
// 3. A timer that fires much too late means that the page was suspended, not that the server was
//    silent: the server is probed, and gets one more interval.
// 4. A socket that is given up is abandoned at once: on a dead network its close event takes minutes.
// 5. No message is dropped silently: what cannot be sent is refused, or queued where the options
//    allow it, and the close event has what is still queued at the end. A socket that the server is
//    closing accepts messages and drops them: it counts as closed.
// 6. A pause between two attempts ends early when something may have changed: the network is back,
//    or the page is visible again.
// 7. A URL or subprotocols that are a function are asked for at each attempt, within its time. What
//    comes from an attempt that is over is ignored. The function is not called within the
//    constructor: it may use what that returns.
// 8. A server that closes with 3000 does not accept the page's credentials. Soon after the handshake
//    they were no good from the start: only a function may give others, and is asked for them some
//    times in a row. Later they have expired.

const SECOND = 1000;
const FIRST_PAUSE = 4 * SECOND; // the ceiling of the first pause; it doubles with each failure
const SHORTEST_PAUSE = SECOND;
const LONGEST_PAUSE = 30 * SECOND;
const BUSY_PAUSE = 8 * SECOND; // the shortest pause where the server asks to come later
const BUSY = new Set([1012, 1013]);
const UNAUTHORIZED = 3000;
const MOST_UNAUTHORIZED = 3; // times in a row that a page comes back with credentials that were no good
const LATE = 2; // intervals: a timer that took longer means that the page was suspended

const forbids = (code) => code === 1008 || (code >= 4000 && code < 4100);
const isFunction = (value) => typeof value === "function";
const told = async (value) => (isFunction(value) ? value() : value);

function checked(options) {
  const { heartbeat = "--heartbeat--", watchdog, interval = 5, misses = 3 } = options;
  const { protocols = [], queue = 0, buffer = 1000 } = options;
  if (!(interval > 0 && interval < Infinity)) throw new RangeError(`interval is ${interval}, not > 0 s`);
  if (!(misses >= 1)) throw new RangeError(`misses is ${misses}, not 1 or more`);
  if (!(queue >= 0)) throw new RangeError(`queue is ${queue}, not 0 or more messages`);
  if (!(buffer >= 1)) throw new RangeError(`buffer is ${buffer}, not 1 or more messages`);
  return { heartbeat, watchdog, interval: interval * SECOND, misses, protocols, queue, buffer };
}

export class TrioBeat extends EventTarget {
  #url = ""; // the last one that was used
  #source; // a URL, or what is asked for it
  #options;
  #state = "connecting";
  #latency = null;
  #socket = null;
  #asking = null; // tells an attempt that asks functions from those before it
  #waiting = []; // messages, until there is an open socket
  #readers = new Set();
  #failures = 0;
  #rejected = 0; // times in a row that the page's credentials were no good
  #missed = 0;
  #late = 0; // timers in a row that were late, with nothing received
  #armed; // whether silence means that the server is dead
  #answeredAt = -Infinity;
  #openedAt = 0;
  #tickedAt = 0;
  #timer;
  #wake = () => (this.#state === "reconnecting" ? this.#retry() : this.#probe());
  #onShow = () => document.visibilityState === "visible" && this.#wake();
  #onPageShow = ({ persisted }) => {
    if (!persisted) return;
    // The back-forward cache keeps a page, and closes its sockets.
    if (this.#state === "open") this.#lost(1006, "the page was away");
    this.#wake();
  };

  constructor(url, options = {}) {
    super();
    this.#options = checked(options);
    this.#source = isFunction(url) ? url : String(url);
    if (!isFunction(url)) this.#url = this.#source;
    this.#armed = this.#options.watchdog === true;
    this.#connect(); // before any listener is added: where this throws, nothing remains
    this.#listen("addEventListener");
  }

  #listen(how) {
    globalThis.document?.[how]("visibilitychange", this.#onShow);
    globalThis[how]?.("pageshow", this.#onPageShow);
    globalThis[how]?.("online", this.#wake);
  }

  get url() {
    return this.#url;
  }

  get state() {
    return this.#state;
  }

  get latency() {
    return this.#latency;
  }

  send(data) {
    if (this.#ready()) {
      this.#socket.send(data);
    } else if (this.#state !== "closed" && this.#waiting.length < this.#options.queue) {
      this.#waiting.push(data);
    } else {
      const full = this.#state !== "closed" && this.#options.queue > 0;
      const why = full ? `and ${this.#options.queue} messages wait already` : "and nothing was sent";
      const state = this.#state === "open" ? "closing" : this.#state;
      throw new DOMException(`the WebSocket is ${state}, ${why}`, full ? "QuotaExceededError" : "InvalidStateError");
    }
  }

  close(code = 1000, reason = "") {
    // Checked here: there may be no socket to do it.
    if (code !== 1000 && !(code >= 3000 && code < 5000)) {
      throw new DOMException(`close code ${code} is not 1000 or 3000 to 4999`, "InvalidAccessError");
    }
    if (new TextEncoder().encode(reason).length > 123) {
      throw new DOMException("the reason is over 123 bytes", "SyntaxError");
    }
    if (this.#state === "closed") return;
    this.#socket?.close(code, reason);
    this.#finish(code, reason);
  }

  async *[Symbol.asyncIterator]() {
    const reader = { messages: [], wake: () => {}, overrun: false };
    this.#readers.add(reader);
    try {
      for (;;) {
        while (reader.messages.length > 0) yield reader.messages.shift();
        if (reader.overrun) throw new RangeError(`${this.#options.buffer} messages were not taken in time`);
        if (this.#state === "closed") return;
        await new Promise((resolve) => (reader.wake = resolve));
      }
    } finally {
      this.#readers.delete(reader);
    }
  }

  #ready() {
    return this.#state === "open" && this.#socket.readyState === WebSocket.OPEN;
  }

  #retry() {
    try {
      this.#connect();
    } catch (error) {
      this.#lost(1006, String(error));
    }
  }

  #asks() {
    return isFunction(this.#source) || isFunction(this.#options.protocols);
  }

  #connect() {
    this.#drop(); // an earlier attempt may still be pending
    if (this.#asks()) this.#ask();
    else this.#dial(this.#source, this.#options.protocols);
    // An attempt may take as long as a server may be silent.
    this.#timer = setTimeout(() => this.#lost(1006, "no answer"), this.#options.interval * this.#options.misses);
  }

  async #ask() {
    const asking = (this.#asking = {});
    const over = () => this.#asking !== asking;
    try {
      await null; // rule 7
      if (over()) return;
      const [url, protocols] = await Promise.all([told(this.#source), told(this.#options.protocols)]);
      if (over()) return;
      // Not left to WebSocket: for browsers, "undefined" is a relative URL.
      if (url === undefined || url === null) throw new TypeError(`the URL is ${url}`);
      this.#dial(String(url), protocols ?? []);
    } catch (error) {
      if (!over()) this.#lost(1006, String(error));
    }
  }

  #dial(url, protocols) {
    this.#url = url;
    const begun = performance.now();
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => {
      this.#latency = performance.now() - begun;
      this.#opened(socket);
    };
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  #opened(socket) {
    this.#state = "open";
    this.#openedAt = performance.now();
    this.#heard();
    this.#wind();
    this.dispatchEvent(new Event("open"));
    while (this.#waiting.length > 0 && this.#socket === socket && this.#ready()) {
      socket.send(this.#waiting.shift());
    }
  }

  #heard() {
    this.#missed = this.#late = 0;
  }

  #received(data) {
    this.#heard();
    if (data !== this.#options.heartbeat) {
      for (const reader of this.#readers) this.#give(reader, data);
      this.dispatchEvent(new MessageEvent("message", { data }));
      return;
    }
    this.#armed = this.#options.watchdog !== false;
    // Some servers answer any message with a heartbeat: answering each of those would never end.
    const now = performance.now();
    if (now - this.#answeredAt >= Math.min(SECOND, this.#options.interval / 4)) {
      this.#answeredAt = now;
      this.#socket.send(data);
    }
    this.dispatchEvent(new Event("beat"));
  }

  #give(reader, data) {
    if (reader.messages.length < this.#options.buffer) reader.messages.push(data);
    else reader.overrun = true;
    reader.wake();
  }

  #wind() {
    clearTimeout(this.#timer);
    this.#tickedAt = performance.now();
    this.#timer = setTimeout(() => this.#tick(), this.#options.interval);
  }

  #tick() {
    const { interval, misses } = this.#options;
    const now = performance.now();
    if (now - this.#tickedAt > LATE * interval) {
      // So many in a row are not a suspended page, but the slow timers of a hidden one.
      this.#late += 1;
      if (this.#armed && this.#late > misses) this.#lost(1006, "silent");
      else this.#probe();
      return;
    }
    this.#missed += 1;
    if (this.#armed && this.#missed > misses) this.#lost(1006, "silent");
    else this.#wind();
  }

  // Give the server one interval to send something.
  #probe() {
    if (this.#state !== "open") return;
    this.#missed = Math.max(this.#missed, this.#options.misses);
    if (this.#armed && this.#options.heartbeat !== null) this.#socket.send(this.#options.heartbeat);
    this.#wind();
  }

  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = this.#asking = null;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #lost(code, reason) {
    const lived = this.#state === "open" ? performance.now() - this.#openedAt : 0;
    if (lived >= this.#options.interval) this.#failures = this.#rejected = 0;
    else if (code === UNAUTHORIZED) this.#rejected += 1;
    this.#drop();
    const rejected = code === UNAUTHORIZED && this.#rejected > (this.#asks() ? MOST_UNAUTHORIZED : 0);
    if (forbids(code) || rejected) {
      this.#finish(code, reason);
      return;
    }
    const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures);
    const shortest = BUSY.has(code) ? BUSY_PAUSE : SHORTEST_PAUSE;
    const pause = shortest + Math.random() * (Math.max(longest, 2 * shortest) - shortest);
    this.#failures += 1;
    this.#state = "reconnecting";
    this.#timer = setTimeout(() => this.#retry(), pause);
    const detail = { code, reason, pause: pause / SECOND };
    this.dispatchEvent(new CustomEvent("reconnecting", { detail }));
  }

  #finish(code, reason) {
    this.#drop();
    this.#state = "closed";
    this.#listen("removeEventListener");
    const detail = { code, reason, unsent: this.#waiting.splice(0) };
    this.dispatchEvent(new CustomEvent("close", { detail }));
    for (const reader of this.#readers) reader.wake();
  }
}
