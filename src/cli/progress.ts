// How a long command tells how far it is: a bar on a terminal, else one JSON object a line on standard output, at most one each second.

/** How far a command is. */
export interface Report {
  /** What it does right now. */
  readonly phase: string;
  readonly done: number;
  /** How much there is to do, as far as it is known. */
  readonly total?: number | undefined;
}

/** What a progress writes to: the process's own streams, or a test's. */
export interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly write: (text: string) => unknown;
}

const REPORT_PAUSE_MS = 1000;
const BAR_PAUSE_MS = 100;
const BAR_WIDTH = 30;
const DEFAULT_COLUMNS = 80;
/** To the start of the line, and all of it erased. */
const CLEAR = "\r\u001B[K";

/** The progress of one command. */
export class Progress {
  readonly #command: string;
  readonly #stdout: Output;
  readonly #stderr: Output;
  #phase = "";
  #phaseStart = 0;
  #last = Number.NEGATIVE_INFINITY;
  #barShown = false;

  constructor(command: string, stdout: Output = process.stdout, stderr: Output = process.stderr) {
    this.#command = command;
    this.#stdout = stdout;
    this.#stderr = stderr;
  }

  /** Whether a person watches, rather than a program. */
  get onTerminal(): boolean {
    return this.#stdout.isTTY === true;
  }

  /** Tells how far it is, unless that was just told. A new phase is always told. */
  report({ phase, done, total }: Report): void {
    const now = performance.now();
    const isNew = phase !== this.#phase;
    if (isNew) [this.#phase, this.#phaseStart] = [phase, now];
    if (!isNew && now - this.#last < (this.onTerminal ? BAR_PAUSE_MS : REPORT_PAUSE_MS)) return;
    this.#last = now;
    const rate = Math.round((done / Math.max(1, now - this.#phaseStart)) * 1000);
    if (!this.onTerminal) return this.#line({ event: "progress", command: this.#command, phase, done, ...(total === undefined ? {} : { total }), rate });
    const columns = this.#stderr.columns ?? DEFAULT_COLUMNS;
    this.#stderr.write(CLEAR + barOf(phase, done, total, rate).slice(0, columns - 1));
    this.#barShown = true;
  }

  /** Tells something once: as text to a person, else as an object, whose bigints become strings. The last of a command is its summary. */
  tell(event: string, record: object, text: string): void {
    if (!this.onTerminal) return this.#line({ event, command: this.#command, ...record });
    this.clear();
    this.#stdout.write(`${text}\n`);
  }

  /** Takes the bar away. */
  clear(): void {
    if (this.#barShown) this.#stderr.write(CLEAR);
    this.#barShown = false;
  }

  #line(record: object): void {
    this.#stdout.write(`${toJson(record)}\n`);
  }
}

/** JSON, with bigints as strings, as in protobuf's. */
export function toJson(record: object): string {
  return JSON.stringify(record, (_key, value: unknown) => (typeof value === "bigint" ? value.toString() : value));
}

function barOf(phase: string, done: number, total: number | undefined, rate: number): string {
  const figures = `${done.toLocaleString("en")}${total === undefined ? "" : ` of ${total.toLocaleString("en")}`}, ${rate.toLocaleString("en")}/s`;
  if (total === undefined || total === 0) return `${phase}: ${figures}`;
  const part = Math.min(1, done / total);
  const full = Math.floor(part * BAR_WIDTH);
  return `${phase} [${"#".repeat(full)}${"-".repeat(BAR_WIDTH - full)}] ${Math.floor(part * 100)} %: ${figures}`;
}
