/** What a `TrioBeat` can be told. */
export interface TrioBeatOptions {
  /** The text heartbeat of the server, `--heartbeat--` by default; null: it has none. */
  heartbeat?: string | null;
  /**
   * Whether a server that is silent for too long is given up. Left out: once it has sent a text
   * heartbeat, then and over every later connection. true: from the beginning, because something is sure to come. false: never.
   */
  watchdog?: boolean;
  /** Seconds within which a server that lives sends something; 5 by default. */
  interval?: number;
  /** How many such intervals in a row may pass in silence; 3 by default. */
  misses?: number;
  /** Subprotocols to offer, see `WebSocket`. */
  protocols?: string | string[];
  /** How many messages may wait while there is no connection; 0, the default: `send` refuses them. */
  queue?: number;
  /** How many messages may wait for a `for await` loop; 1000 by default. */
  buffer?: number;
}

export type TrioBeatState = "connecting" | "open" | "reconnecting" | "closed";
export type TrioBeatData = string | ArrayBuffer | ArrayBufferView | Blob;

export interface ReconnectingDetail {
  /** Close code, 1006 where the server was silent or the socket failed. */
  code: number;
  reason: string;
  /** Seconds until the next attempt. */
  pause: number;
}

export interface CloseDetail {
  code: number;
  reason: string;
  /** Messages that waited, and were not sent. */
  unsent: TrioBeatData[];
}

export interface TrioBeatEventMap {
  /** There is a connection, for the first time or again. */
  open: Event;
  message: MessageEvent<string | ArrayBuffer>;
  /** The server has sent its text heartbeat. */
  beat: Event;
  /** The connection is lost, and another one will be tried. */
  reconnecting: CustomEvent<ReconnectingDetail>;
  /** It is over: `close` was called, or the server does not want it to come back. */
  close: CustomEvent<CloseDetail>;
}

/** A WebSocket that knows when its server is dead, and finds its way back. */
export class TrioBeat extends EventTarget implements AsyncIterable<string | ArrayBuffer> {
  /**
   * @throws RangeError an option is outside its range.
   * @throws DOMException as `WebSocket` does: the URL or a subprotocol can never be right.
   */
  constructor(url: string | URL, options?: TrioBeatOptions);
  readonly url: string;
  readonly state: TrioBeatState;
  /** Milliseconds that the opening handshake took; null before the first. */
  readonly latency: number | null;
  /**
   * Send a message.
   *
   * @throws DOMException `InvalidStateError` where there is no connection, or the server is closing
   * it, and no queue; `QuotaExceededError` where the queue is full.
   */
  send(data: TrioBeatData): void;
  /**
   * End it.
   *
   * @throws DOMException as `WebSocket.close` does, whether there is a connection or not:
   * `InvalidAccessError` for a code that is not 1000 or 3000 to 4999, `SyntaxError` for a reason of
   * more than 123 bytes. Then it goes on.
   */
  close(code?: number, reason?: string): void;
  /** @throws RangeError messages came faster than they were taken, see `buffer`. */
  [Symbol.asyncIterator](): AsyncIterator<string | ArrayBuffer, void, void>;
  addEventListener<K extends keyof TrioBeatEventMap>(
    type: K,
    listener: (this: TrioBeat, event: TrioBeatEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof TrioBeatEventMap>(
    type: K,
    listener: (this: TrioBeat, event: TrioBeatEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
