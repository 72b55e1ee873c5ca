// Counts what protobuf's bytes hold, along a descriptor, without building anything: items of lists, entries of maps,
// how deep messages are nested. What can't be read here is left to the decoder, which says why.
//
// A message of a kilobyte or less can't hold enough to matter, and isn't looked at: that is nearly every unary call.

import { ScalarType, type DescField, type DescMessage } from "@bufbuild/protobuf";
import { ListValueSchema, StructSchema } from "@bufbuild/protobuf/wkt";
import { mostItems } from "./request-bounds.ts";

/** What is too much, by the field that holds it; empty: the request as a whole. */
export interface TooMuch {
  readonly field: string;
  readonly description: string;
}

const LOOKED_AT_FROM = 1024;
/** Messages in each other: three for each level of a Struct, of which there may be 32. */
const MOST_NESTED = 100;
/** How often a field may come that has one value: who joins messages writes it twice. */
const MOST_REPEATS = 4;
/** Fields of later versions, in one message. */
const MOST_UNKNOWN = 100;

const [VARINT, I64, LENGTH, I32] = [0, 1, 2, 5];
const CONTINUES = 0x80;

interface Rule {
  readonly name: string;
  readonly most: number;
  readonly message: Plan | undefined;
  /** Whether many of its items may stand in one record, each of them a varint. */
  readonly isPacked: boolean;
  /** Whether all of the request's are counted together, rather than those of one message. */
  readonly isShared: boolean;
}

/** A message's fields by their numbers. */
type Plan = Map<number, Rule>;

/** What looks for too much in requests of a type. */
export function counterOf(desc: DescMessage): (bytes: Uint8Array) => TooMuch | undefined {
  const plan = planOf(desc, new Map());
  return (bytes) => (bytes.length <= LOOKED_AT_FROM ? undefined : new Count(bytes).of(plan));
}

function planOf(desc: DescMessage, known: Map<DescMessage, Plan>): Plan {
  const before = known.get(desc);
  if (before !== undefined) return before;
  const plan: Plan = new Map();
  known.set(desc, plan);
  for (const field of desc.fields) plan.set(field.number, ruleOf(field, known));
  return plan;
}

function ruleOf(field: DescField, known: Map<DescMessage, Plan>): Rule {
  const isMany = field.fieldKind === "list" || field.fieldKind === "map";
  const inner = field.message === undefined ? undefined : planOf(field.message, known);
  return {
    name: field.name,
    most: isMany ? mostItems(field) : MOST_REPEATS,
    message: field.fieldKind === "map" && inner !== undefined ? entryOf(inner) : inner,
    isPacked: field.fieldKind === "list" && field.message === undefined && field.scalar !== ScalarType.STRING,
    isShared: field.parent === StructSchema || field.parent === ListValueSchema,
  };
}

/** An entry of a map: its value is the field 2 of a message. */
function entryOf(value: Plan): Plan {
  return new Map([[2, { name: "value", most: MOST_REPEATS, message: value, isPacked: false, isShared: false }]]);
}

/** Counts in one request. */
class Count {
  readonly #bytes: Uint8Array;
  #at = 0;
  #depth = 0;
  /** Of what is counted for the whole request. */
  #shared = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  of(plan: Plan): TooMuch | undefined {
    return this.#message(plan, this.#bytes.length);
  }

  /** Of a message that ends there. Whatever can't be read ends the count. */
  #message(plan: Plan, end: number): TooMuch | undefined {
    if (this.#depth > MOST_NESTED) return { field: "", description: `has messages in each other, more than ${MOST_NESTED} deep` };
    const counts = new Map<Rule, number>();
    let unknown = 0;
    while (this.#at < end) {
      const tag = this.#varint();
      const rule = plan.get(tag >>> 3);
      if (rule === undefined && ++unknown > MOST_UNKNOWN) {
        return { field: "", description: `has more than ${MOST_UNKNOWN} fields in one message that ledgerd doesn't know` };
      }
      const found = this.#value(tag & 7, rule, end);
      if (typeof found === "object") return found;
      const most = rule === undefined ? undefined : tooMany(rule, this.#counted(rule, found, counts));
      if (most !== undefined) return most;
    }
    return undefined;
  }

  /** How many items a record has; or what is too much within it. */
  #value(type: number, rule: Rule | undefined, end: number): number | TooMuch {
    switch (type) {
      case VARINT:
        this.#varint();
        return 1;
      case I64:
        this.#at += 8;
        return 1;
      case I32:
        this.#at += 4;
        return 1;
      case LENGTH:
        return this.#block(rule, end);
      default:
        // Groups, which the contract has none of: the decoder would look for their ends within each other.
        return { field: rule?.name ?? "", description: "has a group, which no field here is" };
    }
  }

  #block(rule: Rule | undefined, end: number): number | TooMuch {
    const length = this.#varint();
    const until = Math.min(this.#at + length, end);
    if (rule?.isPacked === true) return this.#varintsUntil(until, rule.most);
    if (rule?.message === undefined) {
      this.#at = until;
      return 1;
    }
    this.#depth += 1;
    const found = this.#message(rule.message, until);
    this.#depth -= 1;
    return found === undefined ? 1 : { ...found, field: found.field === "" ? rule.name : `${rule.name}.${found.field}` };
  }

  #counted(rule: Rule, more: number, counts: Map<Rule, number>): number {
    if (rule.isShared) return (this.#shared += more);
    const count = (counts.get(rule) ?? 0) + more;
    counts.set(rule, count);
    return count;
  }

  /** As far as 32 bits go: longer ones are numbers of which only the length in bytes matters here. */
  #varint(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.#bytes[this.#at] ?? 0;
      this.#at += 1;
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if ((byte & CONTINUES) === 0) return value >>> 0;
    }
  }

  /** How many varints there are; where there are too many, it doesn't matter how many. */
  #varintsUntil(end: number, most: number): number {
    let count = 0;
    for (; this.#at < end && count <= most; this.#at += 1) if (((this.#bytes[this.#at] ?? 0) & CONTINUES) === 0) count += 1;
    return count;
  }
}

function tooMany({ name, most }: Rule, count: number): TooMuch | undefined {
  return count > most ? { field: name, description: `must have at most ${most} items` } : undefined;
}
