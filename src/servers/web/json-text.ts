// JSON as it was written: numbers keep their digits, and an object's members their order, also where two have one
// name.
//
// `JSON.parse` rounds the former and drops the latter, each silently. With its reviver, which is told a number's
// text, a batch takes 15 times as long, and duplicates stay unseen. A parser that makes objects would have to treat
// the name `__proto__` with care; here no name becomes a property.

/** A number, by its text. */
export class JsonNumber {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** An object: its members in the order in which they were written. */
export class JsonObject {
  readonly members: readonly JsonMember[];

  constructor(members: readonly JsonMember[]) {
    this.members = members;
  }
}

/** A name and its value. */
export type JsonMember = readonly [name: string, value: Json];

/** What a JSON text stands for. */
export type Json = JsonObject | readonly Json[] | JsonNumber | string | boolean | null;

/** Why a text is no JSON, or none that is taken. */
export class JsonProblem extends Error {}

/** There are more values than may be: with the member of the outermost object, if any, in which the last of them is. */
export class TooManyValues extends JsonProblem {
  readonly member: string;

  constructor(most: number, member: string) {
    super(`it has more than ${most} values, more than any such request`);
    this.member = member;
  }
}

/**
 * So deep may objects and lists of the whole body be nested. What may be sent is less deep: a job's parameters, the
 * deepest of it, may have 32 levels (`domain/parameters.ts`), and are refused by that with their field's name.
 */
const MAX_DEPTH = 50;
/** Of a number: a double needs at most 770 to be told exactly. */
const MOST_DIGITS = 1000;

const [QUOTE, BACKSLASH, SPACE] = [0x22, 0x5c, 0x20];
const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const words: ReadonlyMap<string, boolean | null> = new Map([
  ["true", true],
  ["false", false],
  ["null", null],
]);

/** Bytes may be anything but UTF-8: two texts would become one if what isn't were replaced. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads JSON (RFC 8259) in UTF-8, of at most so many values: objects, lists and what is in them. Throws `JsonProblem` where it is none. */
export function readJson(bytes: Uint8Array, most: number): Json {
  const text = decode(bytes);
  // RFC 8259, section 8.1: it must not be added; a reader may take it or leave it.
  if (text.startsWith("\uFEFF")) throw new JsonProblem("it begins with a byte order mark");
  return new Reader(text, most).whole();
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new JsonProblem("it isn't UTF-8");
  }
}

class Reader {
  readonly #text: string;
  readonly #most: number;
  #at = 0;
  #depth = 0;
  #values = 0;
  /** Of the outermost object, the member that was begun last. */
  #member = "";

  constructor(text: string, most: number) {
    this.#text = text;
    this.#most = most;
  }

  whole(): Json {
    this.#skipSpace();
    const value = this.#value();
    if (this.#at < this.#text.length) throw this.#unexpected();
    return value;
  }

  /** A value and the space behind it. */
  #value(): Json {
    this.#values += 1;
    if (this.#values > this.#most) throw new TooManyValues(this.#most, this.#member);
    const value = this.#bareValue();
    this.#skipSpace();
    return value;
  }

  #bareValue(): Json {
    switch (this.#text[this.#at]) {
      case "{":
        return new JsonObject(this.#items("}", () => this.#nameAndValue()));
      case "[":
        return this.#items("]", () => this.#value());
      case '"':
        return this.#string();
      default:
        return this.#numberOrWord();
    }
  }

  /** What is in braces or brackets. */
  #items<T>(end: string, read: () => T): readonly T[] {
    this.#depth += 1;
    if (this.#depth > MAX_DEPTH) throw new JsonProblem(`it is nested more than ${MAX_DEPTH} deep`);
    this.#at += 1;
    this.#skipSpace();
    const items: T[] = [];
    if (!this.#takes(end)) {
      do items.push(read());
      while (this.#takes(","));
      if (!this.#takes(end)) throw this.#unexpected();
    }
    this.#depth -= 1;
    return items;
  }

  #nameAndValue(): JsonMember {
    const name = this.#string();
    if (this.#depth === 1) this.#member = name;
    this.#skipSpace();
    if (!this.#takes(":")) throw this.#unexpected();
    return [name, this.#value()];
  }

  #string(): string {
    const text = this.#text;
    const start = this.#at;
    if (text.charCodeAt(start) !== QUOTE) throw this.#unexpected();
    let isEscaped = false;
    for (let code = this.#next(); code !== QUOTE; code = this.#next()) {
      // At the end of the text, the code is NaN.
      if (!(code >= SPACE)) throw this.#unexpected();
      if (code !== BACKSLASH) continue;
      isEscaped = true;
      this.#at += 1;
    }
    this.#at += 1;
    return isEscaped ? this.#unescaped(start) : text.slice(start + 1, this.#at - 1);
  }

  #next(): number {
    this.#at += 1;
    return this.#text.charCodeAt(this.#at);
  }

  #unescaped(start: number): string {
    try {
      return JSON.parse(this.#text.slice(start, this.#at)) as string;
    } catch {
      throw new JsonProblem(`the string at ${start} has an escape that JSON doesn't know`);
    }
  }

  #numberOrWord(): JsonNumber | boolean | null {
    number.lastIndex = this.#at;
    const digits = number.exec(this.#text)?.[0];
    if (digits !== undefined) {
      if (digits.length > MOST_DIGITS) throw new JsonProblem(`the number at ${this.#at} has more than ${MOST_DIGITS} characters`);
      this.#at += digits.length;
      return new JsonNumber(digits);
    }
    for (const [word, value] of words) {
      if (!this.#text.startsWith(word, this.#at)) continue;
      this.#at += word.length;
      return value;
    }
    throw this.#unexpected();
  }

  /** Takes a mark and the space behind it, if it comes next. */
  #takes(mark: string): boolean {
    if (this.#text[this.#at] !== mark) return false;
    this.#at += 1;
    this.#skipSpace();
    return true;
  }

  #skipSpace(): void {
    for (
      let code = this.#text.charCodeAt(this.#at);
      code === SPACE || code === 0x0a || code === 0x0d || code === 0x09;
      code = this.#next()
    );
  }

  #unexpected(): JsonProblem {
    return new JsonProblem(
      this.#at < this.#text.length
        ? `${JSON.stringify(this.#text[this.#at])} at ${this.#at} is unexpected`
        : "it ends too early",
    );
  }
}
