/** A value, or a function that each attempt to connect asks for it, for example for a fresh token. */
export type TrioBeatSource<T> = T | (() => T | PromiseLike<T>);

/** The options of a `TrioBeat`. */
export interface TrioBeatOptions {
  /** The text heartbeat of the server, `--heartbeat--` by default; null: the server sends none. */
  heartbeat?: string | null;
  /**
   * Whether a server that is silent for too long counts as dead. Left out: from its first text
   * heartbeat on, over later connections too. true: from the beginning, because the server is sure
   * to send something. false: never.
   */
  watchdog?: boolean;
  /** Seconds within which a live server sends something; 5 by default. */
  interval?: number;
  /** How many intervals in a row may pass without anything received; 3 by default. */
  misses?: number;
  /** Subprotocols to offer, see `WebSocket`; or a function, sync or async, that gives them. */
  protocols?: TrioBeatSource<string | string[]>;
  /** How many messages may be queued while there is no connection; 0, the default: `send` throws. */
  queue?: number;
  /** How many messages may wait for a `for await` loop; 1000 by default. */
  buffer?: number;
}

export type TrioBeatState = "connecting" | "open" | "reconnecting" | "closed";
export type TrioBeatData = string | ArrayBuffer | ArrayBufferView | Blob;

export interface ReconnectingDetail {
  /**
   * Close code, 1006 where the server was silent, the socket failed, or the server refused the
   * handshake, for example with 401: a page cannot see which.
   */
  code: number;
  /** The server's; else what went wrong, for example the text of what a function threw. */
  reason: string;
  /** Seconds until the next attempt. */
  pause: number;
}

export interface CloseDetail {
  code: number;
  reason: string;
  /** Queued messages that were not sent. */
  unsent: TrioBeatData[];
}

export interface TrioBeatEventMap {
  /** The connection is open, for the first time or again. */
  open: Event;
  message: MessageEvent<string | ArrayBuffer>;
  /** The server has sent its text heartbeat. */
  beat: Event;
  /** The connection is lost, and another attempt will follow. */
  reconnecting: CustomEvent<ReconnectingDetail>;
  /**
   * It has ended: `close` was called, or the server forbids to reconnect. With code 3000: it does
   * not accept the credentials, also those that functions gave three times in a row.
   */
  close: CustomEvent<CloseDetail>;
}

/** A WebSocket that notices when its server is dead, and reconnects. */
export class TrioBeat extends EventTarget implements AsyncIterable<string | ArrayBuffer> {
  /**
   * @param url where to connect to; or a function, sync or async, that gives it. Functions are asked
   * at each attempt, first when the constructor has returned, and within the time of the attempt.
   * Where one throws or rejects, or what it gives is wrong, the attempt has failed.
   * @throws RangeError an option is outside its range.
   * @throws DOMException as `WebSocket` does: the URL or a subprotocol can never be right. Not for
   * what functions give.
   */
  constructor(url: TrioBeatSource<string | URL>, options?: TrioBeatOptions);
  /** The last URL that was used; "" before the first. */
  readonly url: string;
  readonly state: TrioBeatState;
  /** Milliseconds that the opening handshake took; null before the first. */
  readonly latency: number | null;
  /**
   * Send a message.
   *
   * @throws DOMException `InvalidStateError` where there is no queue and no connection, or one
   * that the server is closing; `QuotaExceededError` where the queue is full.
   */
  send(data: TrioBeatData): void;
  /**
   * Close the connection, and do not reconnect.
   *
   * @throws DOMException as `WebSocket.close` does, whether there is a connection or not:
   * `InvalidAccessError` for a code that is not 1000 or 3000 to 4999, `SyntaxError` for a reason of
   * more than 123 bytes. The connection then stays as it is.
   */
  close(code?: number, reason?: string): void;
  /** @throws RangeError more messages waited than `buffer` allows. */
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
