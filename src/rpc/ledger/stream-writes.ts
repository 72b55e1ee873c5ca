// StreamWrites: writes as they come, answered in the order in which they came.
//
// One part reads and submits, another answers; between them lie the writes whose results have not left yet, in order, and that is all there is in memory.
// Where those are too many, or the journal's queue is full, nothing more is read, and HTTP/2 lets the caller wait.

import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import type { ConnectError } from "@connectrpc/connect";
import type { Command } from "../../domain/journal/command.ts";
import { Failure } from "../../domain/failure.ts";
import type { Outcome } from "../../domain/journal/transaction.ts";
import { WriteSchema, type StreamWritesRequest, type Write } from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { Source } from "../../postgres/journal/order.ts";
import { refusalBytes, resultBytes } from "../result-size.ts";
import { errorOfViolations } from "../errors.ts";
import { submissionOf } from "../submissions.ts";
import { validate } from "../validation.ts";
import { MAX_WRITES } from "./write-requests.ts";
import { itemOf, itemOfError, type Result, type WriteParts } from "./writes.ts";
import type { Exchange, Requests } from "../call.ts";
import { type Submission, usersOf } from "../../domain/journal/submission.ts";

/** Writes of a stream at most whose results have not left, long texts counted as several: two groups on each of two lanes. */
const WINDOW = 1000;
/** Results in one message at most, counted alike. */
const MESSAGE_WINDOW = 250;

/** The handler of `StreamWrites`. */
export function streamHandlers(parts: WriteParts) {
  return {
    streamWrites: async function* (requests: Requests<StreamWritesRequest>, exchange: Exchange): AsyncGenerator<{ results: Result[] }> {
      const stream = new WriteStream(parts, exchange);
      const reading = Promise.allSettled([stream.read(requests)]);
      yield* stream.answers();
      const [read] = await reading;
      if (read.status === "rejected") throw read.reason;
    },
  };
}

/** A write whose result has not left yet. */
interface Unanswered {
  readonly weight: number;
  /** Of its result, at most. */
  readonly bytes: number;
  /** Whose accounts it was about, if it was well-formed and ended without an outcome. */
  undecided: readonly bigint[];
  /** Once it is known. */
  result: Result | undefined;
}

class WriteStream implements Source {
  /** With a transfer under way, all that is under way goes in one lane. */
  inLine = false;
  readonly #parts: WriteParts;
  readonly #exchange: Exchange;
  readonly #unanswered: Unanswered[] = [];
  /** Of all that is unanswered. */
  #weight = 0;
  /** How many have no result yet. */
  #underWay = 0;
  /**
   * The users of writes that ended without an outcome, and of how many: what arrives before their caller is told isn't
   * tried either.
   */
  readonly #undecided = new Map<bigint, number>();
  /** Those whose caller was told, and how many writes had arrived by then: so many were sent without knowing of it. */
  readonly #told: { readonly undecided: readonly bigint[]; readonly until: number }[] = [];
  /** How many writes have arrived, and how many of those were taken. */
  #arrived = 0;
  #taken = 0;
  #ended = false;
  /** Resolved when what one of the parts waits for may have come. */
  #changed = Promise.withResolvers<void>();

  constructor(parts: WriteParts, exchange: Exchange) {
    this.#parts = parts;
    this.#exchange = exchange;
  }

  /** Submits what is requested, as there is room for it, to its end. */
  async read(requests: Requests<StreamWritesRequest>): Promise<void> {
    try {
      for await (const arrived of requests) {
        for (const { writes } of arrived) this.#arrived += writes.length;
        for (const { writes } of arrived) {
          if (writes.length < 1 || writes.length > MAX_WRITES) {
            throw errorOfViolations([{ field: "writes", description: `must hold 1 to ${MAX_WRITES} writes` }]);
          }
          for (const write of writes) {
            for (let obstacle = this.#obstacle(write); obstacle !== undefined; obstacle = this.#obstacle(write)) await obstacle;
            this.#take(write);
            this.#taken += 1;
          }
        }
      }
    } finally {
      this.#ended = true;
      this.#notify();
    }
  }

  /** Answers in order, as results are there, until nothing is left to be answered. */
  async *answers(): AsyncGenerator<{ results: Result[] }> {
    while (!this.#ended || this.#unanswered.length > 0) {
      const results: Result[] = [];
      let weight = 0;
      let size = 0;
      for (const { result, weight: own, bytes } of this.#unanswered) {
        const isFull = results.length > 0 && (weight + own > MESSAGE_WINDOW || size + bytes > ANSWER_BYTES);
        if (result === undefined || isFull) break;
        results.push(result);
        weight += own;
        size += bytes;
      }
      if (results.length === 0) {
        await this.#changed.promise;
        continue;
      }
      const left = this.#unanswered.splice(0, results.length);
      yield { results };
      for (const { undecided } of left) if (undecided.length > 0) this.#told.push({ undecided, until: this.#arrived });
      this.#weight -= weight;
      this.#notify();
    }
  }

  /** What must come before a write can be taken; undefined: nothing. */
  #obstacle({ write }: Write): Promise<void> | undefined {
    const mustLineUp = write.case === "transfer" && !this.inLine && this.#underWay > 0;
    return mustLineUp || this.#weight >= WINDOW ? this.#changed.promise : this.#parts.journal.full;
  }

  /**
   * Submits a write, or finds it malformed.
   *
   * It is to see the ones before it. The journal keeps the order of each user's writes, and those of other users don't matter to it, except transfers:
   * with one of them under way, all go in one lane. (Were it always so, lanes would wait for each other's accounts: a tenth slower with two.)
   */
  #take(write: Write): void {
    const { writes } = this.#parts;
    if (this.#underWay === 0) this.inLine = false;
    this.inLine ||= write.write.case === "transfer";
    try {
      const { command, key } = validate(writes.item, WriteSchema, write);
      this.#submit(submissionOf(command, key, this.#exchange), command, key);
    } catch (error) {
      const told = this.#translate(error);
      this.#add(1, refusalBytes(told.rawMessage), itemOfError(told));
      this.#notify();
    }
  }

  #submit(submission: Submission, command: Command, key: string): void {
    const place = this.#add(this.#parts.journal.weightOf(submission), resultBytes(command, key), undefined);
    try {
      const itemOfOutcome = (outcome: Outcome): Result => itemOf(this.#parts, command.kind, outcome);
      // The first to hear of it: nothing may be taken before it is known.
      const itemOfFailure = (error: unknown): Result => this.#withoutOutcome(place, submission, error);
      const outcome = this.#outcomeOf(submission).then(itemOfOutcome, itemOfFailure);
      this.#underWay += 1;
      void outcome.catch((error: unknown) => itemOfError(this.#translate(error))).then((result) => this.#settle(place, result));
    } catch (error) {
      place.result = this.#withoutOutcome(place, submission, error);
      this.#notify();
    }
  }

  #outcomeOf(submission: Submission): Promise<Outcome> {
    for (let [first] = this.#told; first !== undefined && first.until <= this.#taken; [first] = this.#told) {
      this.#count(first.undecided, -1);
      this.#told.shift();
    }
    const isBehind = this.#undecided.size > 0 && usersOf(submission).some((user) => this.#undecided.has(user));
    if (isBehind) throw new Failure("NOT_TRIED");
    const [submitted] = this.#parts.journal.submit([submission], this.#exchange.deadline(), this);
    if (submitted === undefined) throw new Error("the write was not submitted");
    return submitted;
  }

  #withoutOutcome(place: Unanswered, submission: Submission, error: unknown): Result {
    place.undecided = usersOf(submission);
    this.#count(place.undecided, 1);
    return itemOfError(this.#translate(error));
  }

  #count(users: readonly bigint[], change: 1 | -1): void {
    for (const user of users) {
      const count = (this.#undecided.get(user) ?? 0) + change;
      if (count === 0) this.#undecided.delete(user);
      else this.#undecided.set(user, count);
    }
  }

  #add(weight: number, bytes: number, result: Result | undefined): Unanswered {
    const place: Unanswered = { weight, bytes, result, undecided: [] };
    this.#unanswered.push(place);
    this.#weight += place.weight;
    return place;
  }

  #settle(place: Unanswered, result: Result): void {
    place.result = result;
    this.#underWay -= 1;
    if (place === this.#unanswered[0] || this.#underWay === 0) this.#notify();
  }

  #translate(error: unknown): ConnectError {
    return this.#parts.translate(error, "StreamWrites");
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
